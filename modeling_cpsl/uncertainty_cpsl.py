"""Prediction intervals and sets by split conformal prediction (Vovk et al. 2005; Lei et al. 2018)."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


logger = logging.getLogger(__name__)

DEFAULT_COVERAGE = 0.9


def modality_set(names: Iterable[str]) -> str:
    """The name of a set of modalities.

    Example:
        >>> modality_set(["text", "acoustic"])
        'acoustic+text'
    """
    return "+".join(sorted(names))


def conformal_quantiles(
    errors: np.ndarray, modality_sets: Sequence[str], coverage: float = DEFAULT_COVERAGE
) -> dict[str, Any]:
    """[`conformal_quantile`] for each set of modalities separately: without voice or face, errors are larger.

    A set with too few samples gets none, which is logged.

    Args:
        errors: (N,) or (N, K), the errors of predictions for samples that the model was not trained on, see
            [`Task.conformity_errors`].
        modality_sets: The name of the set of modalities that each of the N samples has, see [`modality_set`].
        coverage: Probability in (0, 1) that the error of a new sample shall not be larger.

    Returns:
        A number, or a list of K, by the name of the set.

    Raises:
        ValueError: As [`conformal_quantile`]; for too few samples only if every set has too few.
    """
    errors = np.asarray(errors)
    sizes = Counter(modality_sets).most_common()
    enough = [name for name, size in sizes if _rank(size, coverage) <= size]
    for name, size in sizes[len(enough) :] if enough else []:
        logger.warning("no interval for utterances with %s alone: too few of them (%d)", name, size)
    # Where no set is large enough, the error tells how many samples the largest one lacks.
    chosen = enough or [name for name, _ in sizes[:1]] or [""]
    found: dict[str, Any] = {}
    for name in chosen:
        members = errors[np.array([other == name for other in modality_sets], dtype=bool)]
        if errors.ndim == 1:
            found[name] = conformal_quantile(members, coverage)
        else:
            found[name] = [conformal_quantile(column, coverage) for column in members.T]
    return found


def conformal_half_width(
    predictions: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray, coverage: float = DEFAULT_COVERAGE
) -> float:
    """Half the width of an interval around a prediction that contains a new sample's label with a given probability.

    It is the [`conformal_quantile`] of the absolute residuals.

    Args:
        predictions: (N,), predictions for samples that the model was not trained on.
        labels: (N,).
        coverage: The probability, in (0, 1).

    Returns:
        A difference of sentiments; the interval is prediction +- this.

    Raises:
        ValueError: As [`conformal_quantile`], or the sizes differ.

    Example:
        >>> conformal_half_width([0.0] * 9, [0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9], coverage=0.9)
        0.9
    """
    predictions, labels = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if predictions.shape != labels.shape or predictions.ndim != 1:
        raise ValueError(f"{predictions.shape} predictions for {labels.shape} labels; each sample needs one of each")
    return conformal_quantile(np.abs(predictions - labels), coverage)


def conformal_quantile(errors: np.ndarray, coverage: float = DEFAULT_COVERAGE) -> float:
    """What the error of a new sample does not exceed, with a given probability.

    It is the ceil((N + 1) * coverage)-th smallest of these errors. The guarantee holds for new samples that are
    exchangeable with these N. So these must be held out: errors of training samples are too small.

    Args:
        errors: (N,), of predictions for samples that the model was not trained on.
        coverage: The probability, in (0, 1).

    Raises:
        ValueError: `coverage` is not in (0, 1), a value is not finite, or there are too few samples for this coverage.
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage={coverage} must be in (0, 1)")
    errors = np.sort(np.asarray(errors, dtype=np.float64))
    if not np.isfinite(errors).all():
        raise ValueError("a prediction or label is NaN or infinite")
    rank = _rank(len(errors), coverage)
    if rank > len(errors):
        needed = math.ceil(coverage / (1.0 - coverage) - 1e-9)
        raise ValueError(f"{len(errors)} held-out samples are too few for {coverage:.0%} coverage; give {needed}")
    return float(errors[rank - 1])


def _rank(count: int, coverage: float) -> int:
    # 100 * .07 is 7.000000000000001 in floating point: a rounding error must not raise the rank to 8.
    return math.ceil((count + 1) * coverage - 1e-9)


def interval_coverage(
    predictions: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    half_width: float | Sequence[float] | np.ndarray,
) -> float:
    """The share of samples whose label is within `half_width` of the prediction, in [0, 1].

    Args:
        predictions: (N,).
        labels: (N,).
        half_width: From [`conformal_half_width`], for all samples, or (N,).
    """
    return float(np.mean(np.abs(np.asarray(predictions) - np.asarray(labels)) <= np.asarray(half_width)))


__all__ = [
    "DEFAULT_COVERAGE",
    "conformal_half_width",
    "conformal_quantile",
    "conformal_quantiles",
    "interval_coverage",
    "modality_set",
]
