"""The metrics of every task: those of sentiments, of other numbers, of classes, and of several classes at once.

[`metrics_of`] is what is computed, logged and accepted as `metric_for_best_model` for a task; [`METRICS`] has those of
sentiments in [-3, 3].
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from ..class_task_cpsl import ClassTask, LabelSetTask
from ..number_task_cpsl import NumberTask
from ..task_cpsl import SIMS_CUTS, SIMS_RANGE, Task
from ..tasks_cpsl import SENTIMENT
from .metrics import (
    CLASS_FIGURES,
    METRICS,
    NUMBER_FIGURES,
    Metric,
    compute_sentiment_metrics,
    mean_absolute_error,
    measured,
    pearson_correlation,
)


Function = Callable[[np.ndarray, np.ndarray], float]


def concordance_correlation(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Lin's concordance correlation, 2 cov / (var + var + (difference of means)^2); 0 where both are one constant."""
    covariance = ((predictions - predictions.mean()) * (labels - labels.mean())).mean()
    scale = predictions.var() + labels.var() + (predictions.mean() - labels.mean()) ** 2
    return float(2 * covariance / scale) if scale > 0 else 0.0


def metrics_of(task: Task) -> dict[str, Metric]:
    """The metrics of a task by name; each takes what the task's [`Task.scores`] are and labels as losses take them."""
    if isinstance(task, ClassTask):
        return _class_metrics(task)
    if isinstance(task, LabelSetTask):
        return _label_set_metrics(task)
    assert isinstance(task, NumberTask)
    if task.is_sentiment:
        return METRICS
    if task.is_sims:
        return _sims_metrics()
    return _number_metrics(task)


def best_metric(task: Task) -> str:
    """The metric that picks the best epoch where none is named."""
    return {ClassTask: "f1_weighted", LabelSetTask: "f1_macro"}.get(type(task), "mae")


def judging_metric(task: Task, named: str) -> str:
    """The metric that is named, or [`best_metric`] where that is the option's default and none of the task's."""
    return best_metric(task) if named == best_metric(SENTIMENT) and named not in metrics_of(task) else named


def overall_metrics(task: Task) -> list[str]:
    """The metrics of [`metrics_of`] that are not of one class or target, [`best_metric`] first."""
    names = metrics_of(dataclasses.replace(task, names=()))  # where there are none, no metric is of one
    return sorted(names, key=lambda name: name != best_metric(task))


def compute_task_metrics(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Each metric of [`metrics_of`] by name.

    Args:
        task: What labels are.
        logits: (N,) or (N, K).
        labels: (N,) or (N, K), as losses take them.

    Raises:
        ValueError: There is no sample, or a prediction or label is not finite.
    """
    if isinstance(task, NumberTask) and task.is_sentiment:
        return compute_sentiment_metrics(logits, labels)
    if not len(logits):
        raise ValueError("predictions is empty")
    if not np.isfinite(logits).all() or not np.isfinite(labels).all():
        raise ValueError("a prediction or label is NaN or infinite: metrics need finite values")
    values = torch.from_numpy(np.asarray(logits, dtype=np.float32))
    predicted = (task.predicted(values) if isinstance(task, NumberTask) else task.scores(values)).double().numpy()
    return {name: metric.function(predicted, labels) for name, metric in metrics_of(task).items()}


def confusion(task: ClassTask, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many samples of each class (rows) were taken for each class (columns), (K, K)."""
    counts = np.zeros((len(task.names), len(task.names)), dtype=np.int64)
    np.add.at(counts, (np.asarray(labels, dtype=np.int64), scores.argmax(axis=1)), 1)
    return counts


def _greater(function: Function, hub_type: str = "f1") -> Metric:
    return Metric(function, samples="all", greater_is_better=True, hub_type=hub_type)


def _number_metrics(task: NumberTask) -> dict[str, Metric]:
    """MAE, Pearson's and the concordance correlation; of several numbers of each, and their means.

    A sentiment among several numbers also has all metrics that it has by itself.
    """
    kinds = {name: METRICS[name] for name in ("mae", "corr")} | {"ccc": _greater(concordance_correlation, "ccc")}
    if task.is_one_number:
        return kinds
    metrics = {name: kind._replace(function=_mean_over_columns(kind.function)) for name, kind in kinds.items()}
    ends = name_ends(task, taken=metrics)
    for name, kind in kinds.items():
        for column, end in enumerate(ends):
            metrics[f"{name}_{end}"] = kind._replace(function=_of_column(kind.function, column))
    if (place := sentiment_column(task)) is not None:
        for name in [name for name in METRICS if name not in kinds]:
            alone = functools.partial(measured, METRICS[name])
            metrics[f"{name}_{ends[place]}"] = METRICS[name]._replace(function=_of_column(alone, place))
    return metrics


def sentiment_column(task: Task) -> int | None:
    """Where among several numbers a sentiment stands: one of that name and range."""
    if not isinstance(task, NumberTask) or task.is_one_number:
        return None
    described = [*zip(task.names, task.ranges, strict=False)]  # of no names in `overall_metrics`
    sentiment = (SENTIMENT.names[0], SENTIMENT.ranges[0])
    return described.index(sentiment) if sentiment in described else None


def _of_column(function: Function, column: int) -> Function:
    return lambda predictions, labels: function(predictions[:, column], labels[:, column])


def _mean_over_columns(function: Function) -> Function:
    return lambda predictions, labels: float(np.mean([*map(function, predictions.T, np.asarray(labels).T)]))


def _sims_metrics() -> dict[str, Metric]:
    """MMSA's protocol of CH-SIMS: the predictions clipped to [-1, 1]; a sentiment of 0 is not positive."""

    def of_parts(cuts: tuple[float, ...], measure: Function) -> Function:
        def function(predictions: np.ndarray, labels: np.ndarray) -> float:
            parts = [np.searchsorted(cuts, values.clip(*SIMS_RANGE)) for values in (predictions, labels)]
            return measure(*parts)

        return function

    def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
        return float((predictions == labels).mean())

    def clipped(function: Function) -> Function:
        return lambda predictions, labels: function(predictions.clip(*SIMS_RANGE), labels)

    return {
        "mae": Metric(clipped(mean_absolute_error), "all", greater_is_better=False, hub_type="mae"),
        "corr": _greater(clipped(pearson_correlation), "pearsonr"),
        "acc2": _greater(of_parts((0.0,), accuracy), "accuracy"),
        "acc3": _greater(of_parts(SIMS_CUTS[1:3], accuracy), "accuracy"),
        "acc5": _greater(of_parts(SIMS_CUTS, accuracy), "accuracy"),
        "f1": _greater(of_parts((0.0,), functools.partial(_f1, average="weighted"))),
    }


def _f1(predicted: np.ndarray, labels: np.ndarray, average: str) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, average=average, zero_division=0))


def _class_metrics(task: ClassTask) -> dict[str, Metric]:
    """Accuracy, UAR, macro and weighted F1 over the classes that occur, and figures of each class."""

    def of_choice(measure: Function) -> Function:
        return lambda scores, labels: measure(scores.argmax(axis=1), np.asarray(labels, dtype=np.int64))

    def uar(predicted: np.ndarray, labels: np.ndarray) -> float:
        return float(np.mean([(predicted[labels == place] == place).mean() for place in np.unique(labels)]))

    metrics = {
        "accuracy": _greater(of_choice(lambda predicted, labels: float((predicted == labels).mean())), "accuracy"),
        "uar": _greater(of_choice(uar), "recall"),
        "f1_macro": _greater(of_choice(functools.partial(_f1, average="macro"))),
        "f1_weighted": _greater(of_choice(functools.partial(_f1, average="weighted"))),
    }
    for place, end in enumerate(name_ends(task, taken=metrics)):
        for figure in CLASS_FIGURES:
            one = functools.partial(_of_class, place=place, figure=figure)
            metrics[f"{figure}_{end}"] = _greater(of_choice(one), hub_type=figure)
    return metrics


def _of_class(predicted: np.ndarray, labels: np.ndarray, place: int, figure: str) -> float:
    """Precision, recall, F1 or number of the samples of a class; 0 where nothing is to be divided by."""
    has, chosen = labels == place, predicted == place
    hits = float((has & chosen).sum())
    totals = {"precision": chosen.sum(), "recall": has.sum(), "f1": (has.sum() + chosen.sum()) / 2}
    if figure == "count":
        return float(has.sum())
    return hits / float(totals[figure]) if totals[figure] else 0.0


def _label_set_metrics(task: LabelSetTask) -> dict[str, Metric]:
    """Accuracy of all decisions and of whole sets, UAR, macro, micro and weighted F1, and figures of each class."""

    def of_decisions(measure: Callable[[Any, Any], float]) -> Function:
        return lambda scores, labels: measure(scores >= 0.5, np.asarray(labels) > 0.5)

    def uar(predicted: np.ndarray, labels: np.ndarray) -> float:
        recalls = [
            (predicted[:, column][labels[:, column] == value] == value).mean()
            for column in range(labels.shape[1])
            for value in np.unique(labels[:, column])
        ]
        return float(np.mean(recalls))

    metrics = {
        "accuracy": _greater(of_decisions(lambda predicted, labels: float((predicted == labels).mean())), "accuracy"),
        "exact_match": _greater(
            of_decisions(lambda predicted, labels: float((predicted == labels).all(axis=1).mean())), "exact_match"
        ),
        "uar": _greater(of_decisions(uar), "recall"),
        **{
            f"f1_{average}": _greater(of_decisions(functools.partial(_f1, average=average)))
            for average in ("macro", "micro", "weighted")
        },
    }
    for column, end in enumerate(name_ends(task, taken=metrics)):
        for figure in CLASS_FIGURES:
            of_column = _of_column(functools.partial(_of_class, place=True, figure=figure), column)
            metrics[f"{figure}_{end}"] = _greater(of_decisions(of_column), hub_type=figure)
    return metrics


def name_ends(task: Task, taken: Iterable[str]) -> list[str]:
    """What stands for each number or class behind a figure of it, as `happy` in `f1_happy`.

    It is the name without blanks, which would end it in logs; with `_` behind it as often as is needed for its figures
    to be called like no other ones, since a class may be called `macro`.

    Args:
        task: What labels are.
        taken: The names of the metrics that are of no single number or class.
    """
    figures = NUMBER_FIGURES if isinstance(task, NumberTask) else CLASS_FIGURES
    used, ends = {*taken}, []
    for name in task.names:
        end = re.sub(r"\s+", "_", name.strip())
        while not used.isdisjoint(own := [f"{figure}_{end}" for figure in figures]):
            end += "_"
        used.update(own)
        ends.append(end)
    return ends


__all__ = [
    "best_metric",
    "compute_task_metrics",
    "concordance_correlation",
    "confusion",
    "judging_metric",
    "metrics_of",
    "name_ends",
    "overall_metrics",
    "sentiment_column",
]
