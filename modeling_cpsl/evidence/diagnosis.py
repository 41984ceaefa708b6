"""What the decision of a model does with its modalities: where its weight lies, what it uses and what it leaves.

Every figure is a function of the weights of the samples, so that one bootstrap over groups gives all intervals.
"""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..decision_cpsl import fit_decision_weights
from ..modulation.contributions import shapley_values
from ..task_cpsl import sentiment_class
from ..training.metrics import skill
from .decision_table import DecisionTable
from .statistics import interval


# A figure by its section and its name in it, such as ("calibration", "text", "slope").
Figures = dict[tuple[str, ...], float]

NUM_DRAWS = 1000
# Of a class: with fewer samples a regression on a few heads says nothing.
FEWEST_IN_CLASS = 20


def diagnose(table: DecisionTable, weights: Mapping[str, Any] | None, *, seed: int = 0) -> dict[str, Any]:
    """Every figure of a split with its interval, by section.

    Args:
        table: The model's predictions.
        weights: The decision weights that the model applies already, if any; else they are fitted here.
        seed: Seed of the bootstrap.

    Returns:
        `num_samples`, `num_groups`, `figures` (nested dicts that end in `value`, `low` and `high`, which are NaN where
        they cannot be computed), `num_in_class`, `num_in_subset`, `decision_weights` with `before` and `after`, and
        `notes`, what is left out and why.
    """
    everything = np.ones(len(table.labels))
    values = _figures(table, everything)
    names, positions = np.unique(np.asarray(table.groups), return_inverse=True)
    generator = np.random.default_rng(seed)
    chances = np.full(len(names), 1 / len(names))
    drawn = generator.multinomial(len(names), chances, size=NUM_DRAWS if len(names) > 1 else 0)
    draws = [_figures(table, counts[positions].astype(float)) for counts in drawn]
    figures: dict[str, Any] = {}
    for path, value in values.items():
        low, high = interval(np.array([draw.get(path, np.nan) for draw in draws]))
        place = figures
        for step in path:
            place = place.setdefault(step, {})
        place |= {"value": value, "low": low, "high": high}
    fitted = None
    if weights is None and table.unimodal:
        fitted = fit_decision_weights(table.fused, table.unimodal, table.labels, table.sets, table.groups)
    return {
        "num_samples": len(table.labels),
        "num_groups": len(names),
        "figures": figures,
        "num_in_class": _counts(map(_class_name, sentiment_class(table.labels))),
        "num_in_subset": _counts(name for name in _preferred(table) if name),
        "decision_weights": {"before": dict(weights or {}), "after": fitted},
        "notes": _notes(table, len(names)),
    }


def _figures(table: DecisionTable, weights: np.ndarray) -> Figures:
    """Every figure with samples weighed (N,); those without a sample are left out or NaN."""
    figures: Figures = {("error", "mae"): _mean(np.abs(table.fused - table.labels), weights)}
    figures |= _where(table, weights)
    for name, values in {"fused": table.fused, **table.unimodal}.items():
        figures |= {("calibration", name, key): value for key, value in _calibration(table, values, weights).items()}
    worth = _worth(table, weights)
    figures |= {("coalitions", "+".join(names)): value for names, value in worth.items()}
    figures |= {("use", *key): value for key, value in _use(table.modalities, worth).items()}
    figures |= {("unused", key): value for key, value in _unused(table, weights).items()}
    classes = sentiment_class(table.labels)
    for number in np.unique(classes):
        inside, name = weights * (classes == number), _class_name(number)
        figures["classes", name, "mae"] = _mean(np.abs(table.fused - table.labels), inside)
        shares = _use(table.modalities, _worth(table, inside))
        figures |= {("classes", name, f"shapley_{key[0]}"): shares[key] for key in shares if key[1] == "shapley"}
        if (classes == number).sum() >= FEWEST_IN_CLASS:
            left = _unused(table, inside)
            figures |= {("classes", name, f"unused_{key}"): value for key, value in left.items() if key != "gain"}
    preferred = np.array(_preferred(table), dtype=object)
    for name in table.unimodal:
        inside = weights * (preferred == name)
        if (preferred == name).any():
            for other, values in {"fused": table.fused, **table.unimodal}.items():
                figures["subsets", name, other] = _mean(np.abs(values - table.labels), inside)
    return figures


def _where(table: DecisionTable, weights: np.ndarray) -> Figures:
    """Where the weight of the decision lies, as far as it can be taken apart."""
    figures: Figures = {("where", "gate", name): _mean(values, weights) for name, values in table.gates.items()}
    if "shift" in table.parts:
        shift, text = (float((table.parts[name] * weights).sum()) for name in ("shift", "text"))
        figures["where", "injection_ratio"] = shift / text if text > 0 else np.nan
    for name, norm in table.norms.items():
        figures["where", "weight_norm", name] = norm
        figures["where", "scale", name] = _deviation(table.parts[name], weights)
    return figures


def _calibration(table: DecisionTable, values: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """The line of labels over predictions (slope 1 is calibrated, above 1 is timid), skill, spread and correlation."""
    known = weights * np.isfinite(values)
    if not known.any():
        return dict.fromkeys(("slope", "offset", "skill", "spread", "corr"), np.nan)
    predictions, labels = np.nan_to_num(values), table.labels
    spread, spread_of_labels = _deviation(values, weights), _deviation(labels, known)
    means = _mean(predictions, known), _mean(labels, known)
    covariance = _mean((predictions - means[0]) * (labels - means[1]), known)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.float64(covariance) / spread**2
        error, of_mean = _mean((predictions - labels) ** 2, known), _mean((labels - table.mean_label) ** 2, known)
        return {
            "slope": float(slope),
            "offset": float(means[1] - slope * means[0]),
            "skill": float(skill(error, of_mean)),
            "spread": float(np.float64(spread) / spread_of_labels),
            "corr": float(np.float64(covariance) / (spread * spread_of_labels)),
        }


def _worth(table: DecisionTable, weights: np.ndarray) -> dict[tuple[str, ...], float]:
    """The skill of each coalition's prediction, which is below 0 where the mean label is better."""
    of_mean = _mean((table.labels - table.mean_label) ** 2, weights)
    return {
        names: float(skill(_mean((values - table.labels) ** 2, weights), of_mean))
        for names, values in table.coalitions.items()
    }


def _use(modalities: list[str], worth: Mapping[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """What each modality is worth alone, on average over orders (Shapley), and last; interaction and imbalance."""
    everything = tuple(modalities)
    tensors = {names: torch.tensor(value, dtype=torch.float64) for names, value in worth.items()}
    shapley = dict(zip(modalities, shapley_values(tensors, modalities).tolist(), strict=True))
    use: dict[tuple[str, ...], float] = {}
    for name in modalities:
        others = tuple(other for other in modalities if other != name)
        use[name, "solo"] = worth[name,]
        use[name, "shapley"] = shapley[name]
        use[name, "last"] = worth[everything] - (worth[others] if others else 0.0)
    use["all", "interaction"] = worth[everything] - sum(worth[name,] for name in modalities)
    if len(modalities) > 1:
        pairs = itertools.combinations(shapley.values(), 2)
        use["all", "imbalance"] = float(np.mean([abs(one - other) for one, other in pairs]))
    return use


def _unused(table: DecisionTable, weights: np.ndarray) -> dict[str, float]:
    """Coefficients of the residual on the centred heads, over samples that have all; and the squared error they save.

    0 for all: the decision loses nothing of what the heads know. Above 0: the modality has too little weight.
    """
    if not table.unimodal:
        return {}
    heads = np.stack([*table.unimodal.values()], axis=1)
    known = weights * np.isfinite(heads).all(axis=1)
    if (known > 0).sum() <= len(table.unimodal) + 1:
        return dict.fromkeys((*table.unimodal, "gain"), np.nan)
    heads, residual = np.nan_to_num(heads), table.labels - table.fused
    share = known / known.sum()
    heads, residual = heads - share @ heads, residual - share @ residual
    covariance = heads.T @ (share[:, None] * heads)
    coefficients = np.linalg.lstsq(covariance, heads.T @ (share * residual), rcond=None)[0]
    gain = float(coefficients @ covariance @ coefficients)
    return dict(zip(table.unimodal, coefficients.tolist(), strict=True)) | {"gain": gain}


def _preferred(table: DecisionTable) -> list[str]:
    """The modality whose head is nearest to each sample's label; empty where fewer than two heads know the sample."""
    if len(table.unimodal) < 2:
        return [""] * len(table.labels)
    errors = np.stack([np.abs(values - table.labels) for values in table.unimodal.values()], axis=1)
    nearest = np.where(np.isfinite(errors), errors, np.inf).argmin(axis=1)
    enough, names = np.isfinite(errors).sum(axis=1) > 1, list(table.unimodal)
    return [names[index] if known else "" for index, known in zip(nearest, enough, strict=True)]


def _notes(table: DecisionTable, num_groups: int) -> list[str]:
    notes = []
    if not table.unimodal:
        notes.append(
            "The model has no predictions from one modality alone: calibration of heads, what is unused, preferred "
            "subsets and decision weights are left out."
        )
    if not table.parts:
        notes.append("The decision of this architecture is not a sum of parts: where its weight lies is left out.")
    if num_groups < FEWEST_IN_CLASS:
        notes.append(f"{num_groups} groups: with so few, intervals hold less than they say.")
    return notes


def _class_name(number: float) -> str:
    return f"{int(number):+d}" if number else "0"  # -0.0 too


def _counts(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    known = weights * np.isfinite(values)
    total = float(known.sum())
    return float(np.nan_to_num(values) @ known) / total if total > 0 else np.nan


def _deviation(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.sqrt(_mean((values - _mean(values, weights)) ** 2, weights)))


__all__ = ["diagnose"]
