"""Sentiment metrics in the two protocols of the field, each figure by name.

`*_nonzero` (MAG-BERT, ITHP) drops the samples whose label is exactly 0 from every figure. `*_has0` and the figures
without suffix (MMSA) keep all samples.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import f1_score


if TYPE_CHECKING:
    import evaluate
    from torch import Tensor

METRICS = (
    *("mae", "corr", "acc7", "acc5", "acc2_has0", "f1_has0"),
    *("acc2_nonzero", "f1_nonzero", "mae_nonzero", "corr_nonzero"),
)
NONZERO_METRICS = ("acc2_nonzero", "f1_nonzero", "mae_nonzero", "corr_nonzero")


def compute_sentiment_metrics(
    predictions: "np.ndarray | Tensor | Sequence[float]", labels: "np.ndarray | Tensor | Sequence[float]"
) -> dict[str, float]:
    """Metrics of multimodal sentiment regression.

    A sentiment of at least 0 counts as positive. `acc7` and `acc5` compare the values clipped to [-3, 3] and [-2, 2]
    and rounded, halves to even. F1 is weighted by the support of the true classes.

    Args:
        predictions: Predicted sentiments, (N,) or (N, 1), arrays, lists or tensors on the CPU.
        labels: True sentiments in [-3, 3], of the same size.

    Returns:
        `mae`, `corr` (Pearson; 0 with a warning where one side is constant), `acc7`, `acc5`, `acc2_has0`, `f1_has0`
        over all samples; `acc2_nonzero`, `f1_nonzero`, `mae_nonzero`, `corr_nonzero` over those with a label other
        than 0 (NaN with a warning where there is none). Accuracies and F1 are fractions.

    Raises:
        ValueError: If there is no sample, the sizes differ, or a value is not finite.
    """
    predictions = _as_vector("predictions", predictions)
    labels = _as_vector("labels", labels)
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    metrics = {
        "mae": _mae(predictions, labels),
        "corr": _corr(predictions, labels),
        "acc7": _rounded_accuracy(predictions, labels, 3),
        "acc5": _rounded_accuracy(predictions, labels, 2),
        "acc2_has0": _acc2(predictions, labels),
        "f1_has0": _f1(predictions, labels),
    }
    nonzero = labels != 0
    if not nonzero.any():
        warnings.warn(f"all {len(labels)} labels are 0: the *_nonzero metrics are NaN", stacklevel=2)
        return metrics | dict.fromkeys(NONZERO_METRICS, float("nan"))
    predictions, labels = predictions[nonzero], labels[nonzero]
    return metrics | {
        "acc2_nonzero": _acc2(predictions, labels),
        "f1_nonzero": _f1(predictions, labels),
        "mae_nonzero": _mae(predictions, labels),
        "corr_nonzero": _corr(predictions, labels),
    }


def load_metric(**kwargs: Any) -> "evaluate.Metric":
    """[`compute_sentiment_metrics`] as an `evaluate.Metric`, without the Hub.

    Args:
        **kwargs: Passed to `evaluate.Metric`, for example `num_process` and `process_id`.

    Returns:
        A metric with the inputs `predictions` and `references`, floats.
    """
    import datasets
    import evaluate  # takes seconds to import

    class SentimentMetrics(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=__doc__,
                citation="",
                inputs_description=compute_sentiment_metrics.__doc__,
                features=datasets.Features(
                    {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
                ),
            )

        def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
            return compute_sentiment_metrics(predictions, references)

    return SentimentMetrics(**kwargs)


def _as_vector(name: str, values: "np.ndarray | Tensor | Sequence[float]") -> np.ndarray:
    if hasattr(values, "detach"):  # a tensor, possibly of a dtype that numpy lacks; torch is not needed for the rest
        values = values.detach().double()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 and array.shape[1:] != (1,):
        raise ValueError(f"{name} must be of shape (N,) or (N, 1), not {array.shape}")
    array = array.reshape(-1)
    if not len(array):
        raise ValueError(f"{name} is empty")
    if not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name}[{first}] is {array[first]}: metrics need finite values")
    return array


def _mae(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(np.abs(predictions - labels).mean())


def _corr(predictions: np.ndarray, labels: np.ndarray) -> float:
    for name, values in (("predictions", predictions), ("labels", labels)):
        if (values == values[0]).all():
            warnings.warn(f"the {name} are constant ({values[0]}): the correlation is set to 0", stacklevel=3)
            return 0.0
    return float(pearsonr(predictions, labels).statistic)


def _rounded_accuracy(predictions: np.ndarray, labels: np.ndarray, bound: int) -> float:
    rounded = [np.round(np.clip(values, -bound, bound)) for values in (predictions, labels)]
    return float((rounded[0] == rounded[1]).mean())


def _acc2(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(((predictions >= 0) == (labels >= 0)).mean())


def _f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(f1_score(labels >= 0, predictions >= 0, average="weighted"))
