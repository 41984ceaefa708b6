"""Sentiment metrics in the two protocols of the field, each figure by name.

`*_nonzero` (MAG-BERT, ITHP) drops the samples whose label is exactly 0 from every figure. `*_has0` and the figures
without suffix (MMSA) keep all samples.

[`METRICS`] is the only list of metrics: what is computed, logged, accepted as `metric_for_best_model`, compared, shown
in tables and written into model cards follows from it. A new metric is one function and one line there.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..task_cpsl import sentiment_class


if TYPE_CHECKING:
    import evaluate
    from torch import Tensor


class Metric(NamedTuple):
    """How a metric is computed and what it is.

    Args:
        function: From predictions (N,) and labels (N,), both finite float64 and N > 0, to a float.
        samples: `all`, or `nonzero` for those whose label is not exactly 0.
        greater_is_better: Whether a larger value is better.
        hub_type: The metric's name on the Hub, for the metadata of model cards.
    """

    function: Callable[[np.ndarray, np.ndarray], float]
    samples: str
    greater_is_better: bool
    hub_type: str

    def as_text(self, value: float) -> str:
        """A value as tables have it: four decimals, or a whole number where samples are counted."""
        return f"{value:.0f}" if self.hub_type == "count" else f"{value:.4f}"


def mean_absolute_error(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.abs(predictions - labels).mean())


def pearson_correlation(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation; 0 with a warning where the predictions or the labels are constant."""
    from scipy.stats import pearsonr  # takes most of a second to import

    for name, values in (("predictions", predictions), ("labels", labels)):
        if (values == values[0]).all():
            warnings.warn(f"the {name} are constant ({values[0]}): the correlation is set to 0", stacklevel=3)
            return 0.0
    return float(pearsonr(predictions, labels).statistic)


def seven_class_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of predictions in the class of the label, the nearest integer from -3 to 3, halves to the even one."""
    return float((sentiment_class(predictions) == sentiment_class(labels)).mean())


def five_class_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """As [`seven_class_accuracy`], with the classes -2 to 2: the outer ones are merged."""
    classes = [np.round(np.clip(values, -2, 2)) for values in (predictions, labels)]
    return float((classes[0] == classes[1]).mean())


def binary_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of predictions on the label's side of 0; a sentiment of at least 0 is positive."""
    return float(((predictions >= 0) == (labels >= 0)).mean())


def weighted_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of the two classes of [`binary_accuracy`], weighted by the support of the true classes."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels >= 0, predictions >= 0, average="weighted"))


METRICS: dict[str, Metric] = {
    "mae": Metric(mean_absolute_error, samples="all", greater_is_better=False, hub_type="mae"),
    "corr": Metric(pearson_correlation, samples="all", greater_is_better=True, hub_type="pearsonr"),
    "acc7": Metric(seven_class_accuracy, samples="all", greater_is_better=True, hub_type="accuracy"),
    "acc5": Metric(five_class_accuracy, samples="all", greater_is_better=True, hub_type="accuracy"),
    "acc2_has0": Metric(binary_accuracy, samples="all", greater_is_better=True, hub_type="accuracy"),
    "f1_has0": Metric(weighted_f1, samples="all", greater_is_better=True, hub_type="f1"),
    "acc2_nonzero": Metric(binary_accuracy, samples="nonzero", greater_is_better=True, hub_type="accuracy"),
    "f1_nonzero": Metric(weighted_f1, samples="nonzero", greater_is_better=True, hub_type="f1"),
    "mae_nonzero": Metric(mean_absolute_error, samples="nonzero", greater_is_better=False, hub_type="mae"),
    "corr_nonzero": Metric(pearson_correlation, samples="nonzero", greater_is_better=True, hub_type="pearsonr"),
}


# What is measured of each class.
CLASS_FIGURES = ("precision", "recall", "f1", "count")
# What can be measured of each of several numbers.
NUMBER_FIGURES = ("ccc", *METRICS)


def measured(metric: Metric, predictions: np.ndarray, labels: np.ndarray) -> float:
    """A metric over those of the samples, (N,) each, on which it is taken; NaN where there are none."""
    if metric.samples == "nonzero":
        predictions, labels = predictions[labels != 0], labels[labels != 0]
    return metric.function(predictions, labels) if len(labels) else float("nan")


def skill(squared_error: float | np.ndarray, squared_error_of_mean: float | np.ndarray) -> float | np.ndarray:
    """1 - `squared_error` / `squared_error_of_mean`: the share of the mean label's error that predictions avoid.

    1 is perfect, 0 no better than the mean label, and below 0 worse; NaN where the mean label has no error.

    Args:
        squared_error: Mean or sum of the squared errors of predictions.
        squared_error_of_mean: The same of the mean training label, over the same samples.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        of_mean = np.where(np.asarray(squared_error_of_mean) > 0, squared_error_of_mean, np.nan)
        return 1 - np.asarray(squared_error) / of_mean


def compute_sentiment_metrics(
    predictions: "np.ndarray | Tensor | Sequence[float]", labels: "np.ndarray | Tensor | Sequence[float]"
) -> dict[str, float]:
    """Metrics of multimodal sentiment regression.

    A sentiment of at least 0 counts as positive. `acc7` and `acc5` compare the values clipped to [-3, 3] and [-2, 2]
    and rounded, halves to even. F1 is weighted by the support of the true classes.

    Example:
        >>> metrics = compute_sentiment_metrics([0.5, -1.25, 2.0], [1.0, -0.5, 3.0])
        >>> metrics["mae"], metrics["acc2_has0"]
        (0.75, 1.0)

    Args:
        predictions: Predicted sentiments, (N,) or (N, 1), arrays, lists or tensors on the CPU.
        labels: True sentiments in [-3, 3], of the same size.

    Returns:
        Each metric of [`METRICS`] by name: `mae`, `corr` (Pearson; 0 with a warning where one side is constant),
        `acc7`, `acc5`, `acc2_has0`, `f1_has0` over all samples; `acc2_nonzero`, `f1_nonzero`, `mae_nonzero`,
        `corr_nonzero` over those with a label other than 0 (NaN with a warning where there is none). Accuracies and F1
        are fractions.

    Raises:
        ValueError: If there is no sample, the sizes differ, or a value is not finite.
    """
    predictions = _as_vector("predictions", predictions)
    labels = _as_vector("labels", labels)
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    if not labels.any():
        warnings.warn(f"all {len(labels)} labels are 0: the *_nonzero metrics are NaN", stacklevel=2)
    return {name: measured(metric, predictions, labels) for name, metric in METRICS.items()}


def is_better_if_greater(metric: str) -> bool:
    """Whether a larger value of a logged metric is better.

    Args:
        metric: A name of [`METRICS`], possibly with a prefix such as `eval_` or the name of a number or class behind
            it, which says nothing; or another one: losses are better if smaller, all else if greater, as in `Trainer`.
    """
    directions = dict.fromkeys((*NUMBER_FIGURES, *CLASS_FIGURES), True)
    directions |= {name: entry.greater_is_better for name, entry in METRICS.items()}
    words = f"_{metric}_"
    found = [(words.index(f"_{name}_"), greater) for name, greater in directions.items() if f"_{name}_" in words]
    return min(found)[1] if found else not metric.endswith("loss")


def load_metric(**kwargs: Any) -> "evaluate.Metric":
    """[`compute_sentiment_metrics`] as an `evaluate.Metric`, without the Hub; the trainer's metrics are its.

    Args:
        **kwargs: Passed to `evaluate.Metric`, for example `num_process` and `process_id`. With `keep_in_memory=True`
            it writes no file, and several processes of one machine cannot disturb each other.

    Returns:
        A metric with the inputs `predictions` and `references`, floats.
    """
    return _metric_class()(**kwargs)


@functools.cache
def _metric_class() -> type["evaluate.Metric"]:
    import datasets
    import evaluate  # takes most of a second to import

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

    return SentimentMetrics


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


__all__ = [
    "CLASS_FIGURES",
    "METRICS",
    "NUMBER_FIGURES",
    "Metric",
    "compute_sentiment_metrics",
    "is_better_if_greater",
    "load_metric",
    "measured",
    "skill",
]
