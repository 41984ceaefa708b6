"""Sums a group of samples, from which every metric of any set of groups follows exactly: those of sentiments.

They are what may be published of predictions on somebody's data: no ids, no labels and no predictions. They add up, so
that metrics of groups drawn anew (a bootstrap) or exchanged between two systems (a permutation) need no predictions.
`task_sums` has those of labels of every kind.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..task_cpsl import sentiment_class
from ..training.metrics import METRICS


# What is summed over the samples of a group, once over all and once over those with a label other than 0.
_SUMS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "n": lambda predictions, labels: np.ones_like(labels),
    "absolute_error": lambda predictions, labels: np.abs(predictions - labels),
    "squared_error": lambda predictions, labels: (predictions - labels) ** 2,
    "label": lambda predictions, labels: labels,
    "prediction": lambda predictions, labels: predictions,
    "label_squared": lambda predictions, labels: labels**2,
    "prediction_squared": lambda predictions, labels: predictions**2,
    "product": lambda predictions, labels: predictions * labels,
    "correct_of_7": lambda predictions, labels: sentiment_class(predictions) == sentiment_class(labels),
    "correct_of_5": lambda predictions, labels: (
        np.clip(sentiment_class(predictions), -2, 2) == np.clip(sentiment_class(labels), -2, 2)
    ),
    "true_positive": lambda predictions, labels: (predictions >= 0) & (labels >= 0),
    "false_positive": lambda predictions, labels: (predictions >= 0) & (labels < 0),
    "false_negative": lambda predictions, labels: (predictions < 0) & (labels >= 0),
    "true_negative": lambda predictions, labels: (predictions < 0) & (labels < 0),
}
# The sums of fewer samples would nearly tell their labels.
SMALLEST_GROUP = 5
# A variance below this share of the mean square is a difference of rounded numbers.
_ROUNDING = 1e-12
# Names of the sums, in their order: `all_n`, ..., `nonzero_true_negative`.
SUM_NAMES = [f"{samples}_{name}" for samples in ("all", "nonzero") for name in _SUMS]


def group_sums(predictions: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> dict[str, list[float]]:
    """The sums of each group of samples.

    Args:
        predictions: (N,).
        labels: (N,).
        groups: N names of groups, such as the videos that the samples are from.

    Returns:
        By name of the group, in alphabetical order, the values of [`SUM_NAMES`].
    """
    predictions, labels = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    values = np.stack([function(predictions, labels) for function in _SUMS.values()], axis=1).astype(np.float64)
    return added_up(np.concatenate([values, values * (labels != 0)[:, None]], axis=1), groups)


def without_small_groups(groups: Sequence[str]) -> list[str]:
    """The groups (N,) of samples, those of fewer than 5 put together in alphabetical order, each under its first name.

    What is left at the end joins the last of these or, if it is the only one, the first large group.
    """
    sizes = Counter(groups)
    pools: list[list[str]] = []
    room = 0  # samples that the last pool still needs
    for name in sorted(name for name, size in sizes.items() if size < SMALLEST_GROUP):
        if room <= 0:
            pools.append([])
            room = SMALLEST_GROUP
        pools[-1].append(name)
        room -= sizes[name]
    first_of = {name: pool[0] for pool in pools for name in pool}
    if room > 0:
        large = sorted(name for name, size in sizes.items() if size >= SMALLEST_GROUP)
        target = [pool[0] for pool in pools[-2:-1]] or large[:1] or pools[-1][:1]
        first_of |= dict.fromkeys(pools[-1], target[0])
    return [first_of.get(name, name) for name in groups]


def added_up(values: np.ndarray, groups: Sequence[str]) -> dict[str, list[float]]:
    """The sums of values (N, S) over the samples of each group, by its name in alphabetical order."""
    names, positions = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, positions, values)
    return dict(zip(names.tolist(), sums.tolist(), strict=True))


def metrics_of_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of [`METRICS`] that follows from sums over samples.

    Args:
        sums: (..., S), added up over groups, in the order of [`SUM_NAMES`].

    Returns:
        (...,) by name of the metric; NaN where there is no sample, and a correlation of 0 where one side is constant.
    """
    named = dict(zip(SUM_NAMES, np.moveaxis(sums, -1, 0), strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            name: _FROM_SUMS[_kind(name)]({each: named[f"{metric.samples}_{each}"] for each in _SUMS})
            for name, metric in METRICS.items()
            if _kind(name) in _FROM_SUMS
        }


def _kind(metric: str) -> str:
    """A metric's name without the samples that it is computed over."""
    return metric.removesuffix("_has0").removesuffix("_nonzero")


def moments(sums: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The covariance of predictions and labels, and the variance of each; 0 where nothing but rounding is left."""
    n = sums["n"]
    covariance = sums["product"] / n - sums["prediction"] / n * sums["label"] / n
    variances = []
    for side in ("prediction", "label"):
        square = sums[f"{side}_squared"] / n
        variance = square - (sums[side] / n) ** 2
        variances.append(np.where(variance > _ROUNDING * square, variance, 0.0))
    return covariance, variances[0], variances[1]


def correlation(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pearson's correlation; 0 where predictions or labels are constant."""
    covariance, predicted, true = moments(sums)
    product = np.sqrt(predicted * true)
    return np.where(product > 0, covariance / np.where(product > 0, product, 1.0), sums["n"] * 0.0 / sums["n"])


def weighted_f1(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """F1 of the positive and of the negative ones, weighted by the number of each among the labels."""
    errors = sums["false_positive"] + sums["false_negative"]
    # F1 of a class that occurs neither in labels nor in predictions is 0, and has no weight.
    positive = 2 * sums["true_positive"] / np.maximum(2 * sums["true_positive"] + errors, 1)
    negative = 2 * sums["true_negative"] / np.maximum(2 * sums["true_negative"] + errors, 1)
    num_positive = sums["true_positive"] + sums["false_negative"]
    return (num_positive * positive + (sums["n"] - num_positive) * negative) / sums["n"]


_FROM_SUMS: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = {
    "mae": lambda sums: sums["absolute_error"] / sums["n"],
    "corr": correlation,
    "acc7": lambda sums: sums["correct_of_7"] / sums["n"],
    "acc5": lambda sums: sums["correct_of_5"] / sums["n"],
    "acc2": lambda sums: (sums["true_positive"] + sums["true_negative"]) / sums["n"],
    "f1": weighted_f1,
}


__all__ = [
    "SMALLEST_GROUP",
    "SUM_NAMES",
    "added_up",
    "correlation",
    "group_sums",
    "metrics_of_sums",
    "moments",
    "weighted_f1",
    "without_small_groups",
]
