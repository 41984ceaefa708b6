"""Sums a group of samples for labels of every kind, from which the metrics of their task follow; see [`group_sums`].

Of numbers they are errors, values, squares and products; of classes, how many samples have each class, were said to
have it, and both. All metrics of classes follow from these, so that no confusion matrix need be kept.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..class_task_cpsl import ClassTask, LabelSetTask
from ..number_task_cpsl import NumberTask
from ..task_cpsl import SIMS_CUTS, SIMS_RANGE, Task
from ..tasks_cpsl import SENTIMENT
from ..training.metrics import CLASS_FIGURES
from ..training.task_metrics import metrics_of, name_ends, overall_metrics, sentiment_column
from .group_sums import SUM_NAMES, added_up, correlation, group_sums, metrics_of_sums, moments, weighted_f1


_Values = dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]
_Named = Mapping[str, np.ndarray]


def _in_same_part(cuts: Sequence[float]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda predictions, labels: np.searchsorted(cuts, predictions) == np.searchsorted(cuts, labels)


# What is summed over the samples of a group, from predictions and labels (N, K): once a sample, (N,) ...
_OF_SAMPLES: _Values = {"n": lambda predictions, labels: np.ones(len(labels))}
_OF_CLASS_SAMPLES = _OF_SAMPLES | {"exact_match": lambda predictions, labels: (predictions == labels).all(axis=1)}
# ... and once a number or class, (N, K).
_OF_NUMBERS: _Values = {
    "absolute_error": lambda predictions, labels: np.abs(predictions - labels),
    "label": lambda predictions, labels: labels,
    "prediction": lambda predictions, labels: predictions,
    "label_squared": lambda predictions, labels: labels**2,
    "prediction_squared": lambda predictions, labels: predictions**2,
    "product": lambda predictions, labels: predictions * labels,
}
_OF_SIMS = _OF_NUMBERS | {
    "correct_of_3": _in_same_part(SIMS_CUTS[1:3]),
    "correct_of_5": _in_same_part(SIMS_CUTS),
    "true_positive": lambda predictions, labels: (predictions > 0) & (labels > 0),
    "false_positive": lambda predictions, labels: (predictions > 0) & (labels <= 0),
    "false_negative": lambda predictions, labels: (predictions <= 0) & (labels > 0),
    "true_negative": lambda predictions, labels: (predictions <= 0) & (labels <= 0),
}
_OF_CLASSES: _Values = {
    "label": lambda predictions, labels: labels,
    "prediction": lambda predictions, labels: predictions,
    "true_positive": lambda predictions, labels: predictions & labels,
}


def sum_names(task: Task = SENTIMENT) -> list[str]:
    """Names of the sums of a task, in their order; the first is the number of samples."""
    if task.is_sentiment:
        return SUM_NAMES
    of_samples, of_parts = _values(task)
    names = [*of_samples, *(f"{name} of {part}" for name in of_parts for part in task.names)]
    return names if sentiment_column(task) is None else [*names, *(f"{name} of a sentiment" for name in SUM_NAMES)]


def label_positions(task: Task = SENTIMENT) -> list[int]:
    """Where the sums stand that follow from labels alone: two systems with others were not given the same samples."""
    if task.is_sentiment:
        return [SUM_NAMES.index("all_n"), SUM_NAMES.index("all_label")]
    of_samples, of_parts = _values(task)
    first = len(of_samples) + [*of_parts].index("label") * len(task.names)
    return [0, *range(first, first + len(task.names))]


def task_sums(
    predictions: np.ndarray, labels: np.ndarray, groups: Sequence[str], task: Task = SENTIMENT
) -> dict[str, list[float]]:
    """The sums of each group of samples.

    Args:
        predictions: (N,) or (N, K), what the task's [`Task.predicted`] gives.
        labels: (N,) or (N, K), as losses take them.
        groups: N names of groups.
        task: What labels are.

    Returns:
        By name of the group, in alphabetical order, the values of [`sum_names`].
    """
    if task.is_sentiment:
        return group_sums(predictions, labels, groups)
    columns = _columns(task, np.asarray(predictions), np.asarray(labels))
    of_samples, of_parts = _values(task)
    values = [function(*columns)[:, None] for function in of_samples.values()]
    values += [function(*columns) for function in of_parts.values()]
    sums = added_up(np.concatenate(values, axis=1, dtype=np.float64), groups)
    if (column := sentiment_column(task)) is None:
        return sums
    predicted, true = columns
    of_sentiment = group_sums(predicted[:, column], true[:, column], groups)
    return {group: [*values, *of_sentiment[group]] for group, values in sums.items()}


def metrics_of_task_sums(sums: np.ndarray, task: Task = SENTIMENT) -> dict[str, np.ndarray]:
    """Every metric of [`metrics_of`] that follows from sums over samples.

    Args:
        sums: (..., S), added up over groups, in the order of [`sum_names`].
        task: What labels are.

    Returns:
        (...,) by name of the metric; NaN where there is no sample.
    """
    if task.is_sentiment:
        return metrics_of_sums(sums)
    named = _named(sums, task)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = _number_metrics(named, task) if isinstance(task, NumberTask) else _class_metrics(named, task)
    if (column := sentiment_column(task)) is not None:
        end = name_ends(task, taken=overall_metrics(task))[column]
        of_sentiment = metrics_of_sums(sums[..., -len(SUM_NAMES) :])
        found = {f"{name}_{end}": values for name, values in of_sentiment.items()} | found
    return {name: np.where(named["n"][..., 0] > 0, found[name], np.nan) for name in metrics_of(task) if name in found}


def uar_of_one_answer(sums: np.ndarray, task: ClassTask | LabelSetTask) -> np.ndarray:
    """The UAR (...,) of predictions that are the same for all samples; of several classes at once, for each class.

    Args:
        sums: (..., S), added up over groups.
        task: What labels are.
    """
    named = _named(sums, task)
    num_with, num_without = (number.sum(axis=-1) for number in _occurring(named))
    return 1 / num_with if isinstance(task, ClassTask) else len(task.names) / (num_with + num_without)


def _values(task: Task) -> tuple[_Values, _Values]:
    """What is summed, once a sample, and once a number or class."""
    if isinstance(task, NumberTask):
        return _OF_SAMPLES, _OF_SIMS if task.is_sims else _OF_NUMBERS
    return _OF_CLASS_SAMPLES, _OF_CLASSES


def _columns(task: Task, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels (N, K): numbers, or whether a sample has each class."""
    if isinstance(task, ClassTask):
        classes = np.arange(len(task.names))
        return predictions.argmax(axis=1)[:, None] == classes, labels[:, None] == classes
    if isinstance(task, LabelSetTask):
        return predictions >= 0.5, labels > 0.5
    predictions, labels = (values.reshape(len(values), -1).astype(np.float64) for values in (predictions, labels))
    return predictions.clip(*SIMS_RANGE) if task.is_sims else predictions, labels


def _named(sums: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """The sums by name, (..., 1) those of samples and (..., K) those of numbers or classes."""
    of_samples, of_parts = _values(task)
    ends = np.cumsum([*(1 for _ in of_samples), *(len(task.names) for _ in of_parts)])
    parts = np.split(sums[..., : ends[-1]], ends[:-1], axis=-1)
    return dict(zip([*of_samples, *of_parts], parts, strict=True))


def _number_metrics(sums: _Named, task: NumberTask) -> dict[str, np.ndarray]:
    n = sums["n"]
    covariance, predicted, true = moments(sums)
    scale = predicted + true + ((sums["prediction"] - sums["label"]) / n) ** 2
    by_target = {
        "mae": sums["absolute_error"] / n,
        "corr": correlation(sums),
        "ccc": np.where(scale > 0, 2 * covariance / np.where(scale > 0, scale, 1.0), 0.0),
    }
    if "correct_of_5" in sums:
        by_target |= {
            "acc2": (sums["true_positive"] + sums["true_negative"]) / n,
            "acc3": sums["correct_of_3"] / n,
            "acc5": sums["correct_of_5"] / n,
            "f1": weighted_f1(sums),
        }
    metrics = {name: values.mean(axis=-1) for name, values in by_target.items()}
    return metrics | {
        f"{name}_{end}": values[..., column]
        for name, values in by_target.items()
        for column, end in enumerate(name_ends(task, taken=metrics))
    }


def _class_metrics(sums: _Named, task: Task) -> dict[str, np.ndarray]:
    n, has, chosen, hits = (sums[name] for name in ("n", "label", "prediction", "true_positive"))
    figures = {
        "precision": _share(hits, chosen),
        "recall": _share(hits, has),
        "f1": _share(2 * hits, has + chosen),
        "count": has,
    }
    f1 = figures["f1"]
    with_it, without = _occurring(sums)
    if isinstance(task, ClassTask):
        occurs = has + chosen > 0
        metrics = {
            "accuracy": (sums["exact_match"] / n)[..., 0],
            "uar": figures["recall"].sum(axis=-1) / with_it.sum(axis=-1),
            "f1_macro": f1.sum(axis=-1) / occurs.sum(axis=-1),
            "f1_weighted": (has * f1 / n).sum(axis=-1),
        }
    else:
        misses = n - has - chosen + hits  # rightly said not to have the class
        recalls = figures["recall"].sum(axis=-1) + _share(misses, n - has).sum(axis=-1)
        metrics = {
            "accuracy": ((hits + misses) / n).mean(axis=-1),
            "exact_match": (sums["exact_match"] / n)[..., 0],
            "uar": recalls / (with_it.sum(axis=-1) + without.sum(axis=-1)),
            "f1_macro": f1.mean(axis=-1),
            "f1_micro": _share(2 * hits.sum(axis=-1), (has + chosen).sum(axis=-1)),
            "f1_weighted": _share((has * f1).sum(axis=-1), has.sum(axis=-1)),
        }
    return metrics | {
        f"{figure}_{end}": figures[figure][..., column]
        for column, end in enumerate(name_ends(task, taken=metrics))
        for figure in CLASS_FIGURES
    }


def _occurring(sums: _Named) -> tuple[np.ndarray, np.ndarray]:
    """Whether some sample has each class, and whether some sample lacks it, (..., K) both."""
    return sums["label"] > 0, sums["n"] - sums["label"] > 0


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; 0 where nothing is to be divided by."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)


__all__ = ["label_positions", "metrics_of_task_sums", "sum_names", "task_sums", "uar_of_one_answer"]
