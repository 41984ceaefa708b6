"""Prediction intervals by split conformal prediction (Vovk et al. 2005; Lei et al. 2018)."""

import math
from collections.abc import Sequence

import numpy as np


DEFAULT_COVERAGE = 0.9


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
    # 20 * .95 is 19.000000000000004 or the like for some products: a rounding error must not cost a rank.
    rank = math.ceil((len(residuals) + 1) * coverage - 1e-9)
    if rank > len(residuals):
        needed = math.ceil(coverage / (1.0 - coverage) - 1e-9)
        raise ValueError(f"{len(residuals)} held-out samples are too few for {coverage:.0%} coverage; give {needed}")
    return float(residuals[rank - 1])


def interval_coverage(
    predictions: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray, half_width: float
) -> float:
    """The share of samples whose label lies within `half_width` of the prediction.

    Args:
        predictions: (N,).
        labels: (N,).
        half_width: From [`conformal_half_width`].
    """
    return float(np.mean(np.abs(np.asarray(predictions) - np.asarray(labels)) <= half_width))


__all__ = ["DEFAULT_COVERAGE", "conformal_half_width", "interval_coverage"]
