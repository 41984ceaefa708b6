"""The decision layer: a convex re-weighting of the fused prediction and of those from one modality alone.

The sentiment becomes the sum over k of w_k g_k, with w_k >= 0 that add up to 1. g_fused is the prediction as it is,
and g_m = a_m + b_m u_m that from modality m alone, recalibrated. The weights minimise the squared error on held-out
samples, with a pull towards the fused prediction, than which they are never worse there. That they help on *other*
samples is no theorem, so they are only kept where a cross-validation over groups of samples says so. Combining
forecasts is due to Bates and Granger (1969), with non-negative weights to Breiman (1996).
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor


FUSED = "fused"
# By `fused` and the name of each modality: weight, offset and slope of a candidate.
Candidates = dict[str, list[float]]

NUM_FOLDS = 5
FEWEST_SAMPLES = 50  # of a set of modalities
# The pull towards the fused prediction, in variances of the labels: weights of few samples are estimated with error.
PULL = 0.01


def combine(
    fused: Tensor, unimodal: Mapping[str, Tensor], presence: Mapping[str, Tensor], weights: Mapping[str, Candidates]
) -> Tensor:
    """The re-weighted prediction (B,); the fused one for samples whose set of modalities has no weights.

    Args:
        fused: (B,).
        unimodal: (B,) by modality.
        presence: (B,) bool by modality, whether the sample has it.
        weights: By the set of modalities that a sample has, see [`fit_decision_weights`].
    """
    combined = fused
    for set_name, candidates in weights.items():
        members = set_name.split("+")
        if {*members} <= unimodal.keys():
            has_set = torch.stack([mask if name in members else ~mask for name, mask in presence.items()]).all(dim=0)
            values = {FUSED: fused} | {name: unimodal[name] for name in members}
            parts = [
                weight * (offset + slope * values[name].float())
                for name, (weight, offset, slope) in candidates.items()
            ]
            combined = torch.where(has_set, torch.stack(parts).sum(dim=0).to(fused.dtype), combined)
    return combined


def combine_deviation(deviation: Tensor, presence: Mapping[str, Tensor], weights: Mapping[str, Candidates]) -> Tensor:
    """The standard deviation (B,) of [`combine`] where only the fused prediction varies, with this deviation (B,)."""
    fused_alone = {set_name: {FUSED: [candidates[FUSED][0], 0.0, 1.0]} for set_name, candidates in weights.items()}
    return combine(deviation, dict.fromkeys(presence, deviation), presence, fused_alone)


def check_decision_weights(weights: Mapping[str, Candidates]) -> None:
    """ValueError for what [`fit_decision_weights`] cannot have returned."""
    for set_name, candidates in weights.items():
        known = {FUSED, *set_name.split("+")}
        if FUSED not in candidates or not candidates.keys() <= known:
            raise ValueError(
                f"decision_weights: {set_name} weighs {', '.join(candidates) or 'nothing'}; it must weigh {FUSED} and "
                "nothing but its modalities"
            )
        for name, numbers in candidates.items():
            if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
                raise ValueError(
                    f"decision_weights: {name} of {set_name} is {numbers}, not a weight, offset and slope"
                )


def fit_decision_weights(
    fused: np.ndarray,
    unimodal: Mapping[str, np.ndarray],
    labels: np.ndarray,
    modality_sets: Sequence[str],
    groups: Sequence[str],
) -> dict[str, Candidates]:
    """Fits weights for each set of modalities that has at least 50 samples, and keeps those that pass [`is_gain`].

    Args:
        fused: (N,), predictions for samples that the model was not trained on.
        unimodal: (N,) by modality, the predictions from it alone; of a missing modality anything.
        labels: (N,).
        modality_sets: The name of the set of modalities that each sample has, such as `acoustic+text`.
        groups: What each sample is from, such as a video.

    Returns:
        By set and candidate its weight, offset and slope; a set whose fused prediction stays as it is is left out.
    """
    found = {}
    for name, size in Counter(modality_sets).items():
        members = [member for member in name.split("+") if member in unimodal]
        if size < FEWEST_SAMPLES or not members:
            continue
        rows = np.flatnonzero(np.asarray(modality_sets) == name)
        table = np.stack([values[rows] for values in (fused, *(unimodal[member] for member in members))], axis=1)
        table, targets = table.astype(np.float64), np.asarray(labels, dtype=np.float64)[rows]
        if is_gain(table, targets, np.asarray(groups)[rows].tolist()):
            fitted = fit_candidates(table, targets)
            found[name] = dict(zip([FUSED, *members], fitted.tolist(), strict=True))
    return found


def fit_candidates(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weight, offset and slope (K, 3) of each candidate; on these samples the error is at most that of the first one.

    Args:
        table: (N, K), the fused prediction in the first column, predictions from one modality alone in the others.
        labels: (N,).
    """
    lines = np.array([[0.0, 1.0], *(_line(column, labels) for column in table.T[1:])])
    pull = PULL * (float(labels.var()) or 1.0)
    weights = simplex_weights(lines[:, 0] + lines[:, 1] * table, labels, pull)
    return np.concatenate([weights[:, None], lines], axis=1)


def simplex_weights(table: np.ndarray, labels: np.ndarray, pull: float) -> np.ndarray:
    """The weights (K,), at least 0 and with sum 1, that minimise mean((labels - table w)^2) + pull |w - e_0|^2.

    Exactly: the minimum lies inside one of the faces of the simplex, where it solves linear equations.

    Args:
        table: (N, K).
        labels: (N,).
        pull: Above 0.
    """
    size = table.shape[1]
    first = np.eye(size)[0]
    products = table.T @ table / len(table) + pull * np.eye(size)
    targets = table.T @ labels / len(table) + pull * first

    def objective(weights: np.ndarray) -> float:  # up to a constant
        return float(weights @ products @ weights - 2 * targets @ weights)

    best, least = first, objective(first)
    for number in range(1, size + 1):
        for face in map(list, itertools.combinations(range(size), number)):
            equations = np.ones((number + 1, number + 1))
            equations[:number, :number], equations[number, number] = products[np.ix_(face, face)], 0.0
            solution = np.linalg.solve(equations, np.append(targets[face], 1.0))[:number]
            if (solution >= 0).all():
                weights = np.zeros(size)
                weights[face] = solution / solution.sum()
                if (value := objective(weights)) < least:
                    best, least = weights, value
    return best


def is_gain(table: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> bool:
    """Whether weights lower the squared error of samples that they were not fitted on by more than a standard error.

    Each fold of whole groups is predicted with candidates and weights that were fitted on the others.

    Args:
        table: (N, K), as for [`fit_candidates`].
        labels: (N,).
        groups: What each sample is from; samples of a group are not independent.
    """
    names, positions = np.unique(np.asarray(groups), return_inverse=True)
    folds = min(NUM_FOLDS, len(names))
    if folds < 2:
        return False
    fold_of = np.argsort(np.argsort([_place(name) for name in names]))[positions] % folds
    gains = np.zeros(len(labels))
    for fold in range(folds):
        held_out = fold_of == fold
        weights, offsets, slopes = fit_candidates(table[~held_out], labels[~held_out]).T
        predictions = (offsets + slopes * table[held_out]) @ weights
        gains[held_out] = (table[held_out, 0] - labels[held_out]) ** 2 - (predictions - labels[held_out]) ** 2
    mean = gains.mean()
    by_group = np.bincount(positions, weights=gains - mean)
    error = math.sqrt(len(names) / (len(names) - 1) * (by_group**2).sum()) / len(labels)
    return bool(mean > error)


def half_of_groups(groups: Sequence[str]) -> np.ndarray:
    """Which samples (N,) bool belong to one half of the groups: weights and intervals need samples of their own.

    Which groups it is depends on their names alone.
    """
    names, positions, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    order = np.argsort([_place(name) for name in names])
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = np.zeros(len(names), dtype=bool)
    chosen[order[before < len(positions) / 2]] = True
    return chosen[positions]


def _line(values: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Offset and slope of the least-squares line of labels over values; the mean label for constant values."""
    deviations = values - values.mean()
    spread = float((deviations**2).sum())
    slope = float((deviations * labels).sum()) / spread if spread > 0 else 0.0
    return float(labels.mean() - slope * values.mean()), slope


def _place(name: str) -> int:
    """A place of a group in an order that has nothing to do with its name's meaning."""
    return int.from_bytes(blake2b(str(name).encode(), digest_size=6).digest())


__all__ = [
    "FEWEST_SAMPLES",
    "FUSED",
    "Candidates",
    "check_decision_weights",
    "combine",
    "combine_deviation",
    "fit_candidates",
    "fit_decision_weights",
    "half_of_groups",
    "is_gain",
    "simplex_weights",
]
