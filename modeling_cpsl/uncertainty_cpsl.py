"""Prediction intervals by split conformal prediction (Vovk et al. 2005; Lei et al. 2018)."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


logger = logging.getLogger(__name__)

DEFAULT_COVERAGE = 0.9


def modality_set(names: Iterable[str]) -> str:
    """What a set of modalities is called, such as `acoustic+text`."""
    return "+".join(sorted(names))


def conformal_half_widths(
    predictions: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    modality_sets: Sequence[str],
    coverage: float = DEFAULT_COVERAGE,
) -> dict[str, float]:
    """[`conformal_half_width`] of each set of modalities by itself, for without voice or face errors are larger.

    A set with too few samples has none, which is logged.

    Args:
        predictions: (N,), of samples that the model was not trained on.
        labels: (N,).
        modality_sets: The modalities that each of the N samples has, see [`modality_set`].
        coverage: Probability in (0, 1).

    Returns:
        Half the interval's width by set.

    Raises:
        ValueError: As [`conformal_half_width`]; too few samples only where that holds for every set.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    sizes = Counter(modality_sets).most_common()
    enough = [name for name, size in sizes if _rank(size, coverage) <= size]
    for name, size in sizes[len(enough) :] if enough else []:
        logger.warning("no interval for utterances with %s alone: there are only %d of them", name, size)
    # Where no set is large enough, the largest says what is lacking; of no sample at all there is no set.
    chosen = enough or [name for name, _ in sizes[:1]] or [""]
    members = {name: np.array([other == name for other in modality_sets], dtype=bool) for name in chosen}
    return {name: conformal_half_width(predictions[own], labels[own], coverage) for name, own in members.items()}


def conformal_half_width(
    predictions: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray, coverage: float = DEFAULT_COVERAGE
) -> float:
    """Half the width of an interval around a prediction that holds the label of a new sample with that probability.

    It is the ceil((N + 1) * coverage)-th smallest absolute residual. The guarantee is for new samples that are
    exchangeable with these N, so they must be held out: residuals of training samples are too small.

    Args:
        predictions: (N,), of samples that the model was not trained on.
        labels: (N,).
        coverage: Probability in (0, 1).

    Returns:
        A sentiment difference; prediction +- this is the interval.

    Raises:
        ValueError: `coverage` is not in (0, 1), the sizes differ, a value is not finite, or there are too few samples
            for this coverage.
    """
    predictions, labels = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage={coverage} must be in (0, 1)")
    if predictions.shape != labels.shape or predictions.ndim != 1:
        raise ValueError(f"{predictions.shape} predictions for {labels.shape} labels; give one of each a sample")
    residuals = np.sort(np.abs(predictions - labels))
    if not np.isfinite(residuals).all():
        raise ValueError("a prediction or label is NaN or infinite")
    rank = _rank(len(residuals), coverage)
    if rank > len(residuals):
        needed = math.ceil(coverage / (1.0 - coverage) - 1e-9)
        raise ValueError(f"{len(residuals)} held-out samples are too few for {coverage:.0%} coverage; give {needed}")
    return float(residuals[rank - 1])


def _rank(count: int, coverage: float) -> int:
    # 20 * .95 is 19.000000000000004 or the like for some products: a rounding error must not cost a rank.
    return math.ceil((count + 1) * coverage - 1e-9)


def interval_coverage(
    predictions: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    half_width: float | Sequence[float] | np.ndarray,
) -> float:
    """The share of samples whose label lies within `half_width` of the prediction.

    Args:
        predictions: (N,).
        labels: (N,).
        half_width: From [`conformal_half_width`]; one for all or one a sample.
    """
    return float(np.mean(np.abs(np.asarray(predictions) - np.asarray(labels)) <= np.asarray(half_width)))


__all__ = ["DEFAULT_COVERAGE", "conformal_half_width", "conformal_half_widths", "interval_coverage", "modality_set"]
