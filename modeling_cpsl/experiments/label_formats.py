"""What the labels of a data set are, as the configuration of a model says it, and the other way round."""

import math
from collections.abc import Mapping
from typing import Any

from datasets import Features

from data_builders.arrow_rows import label_format_of
from data_builders.labels import SENTIMENT, LabelFormat

from ..class_task_cpsl import ClassTask, LabelSetTask
from ..configuration_cpsl import CPSLConfig
from ..number_task_cpsl import NumberTask
from ..task_cpsl import Task
from ..tasks_cpsl import task_of


# The fields of a configuration that say what a label is.
TASK_FIELDS = ("problem_type", "id2label", "label_ranges")
_PROBLEM_TYPES = {
    **dict.fromkeys(("number", "numbers"), NumberTask.problem_type),
    "class": ClassTask.problem_type,
    "classes": LabelSetTask.problem_type,
}


def task_fields(features: Features) -> dict[str, Any]:
    """The fields of a model's configuration that say what the labels of a data set are; none for sentiments.

    Args:
        features: The columns of a split; see [`label_format_of`].
    """
    label_format = label_format_of(features)
    if label_format is None or label_format == SENTIMENT:
        return {}
    task: dict[str, Any] = {
        "problem_type": _PROBLEM_TYPES[label_format.kind],
        "id2label": dict(enumerate(label_format.names)),
    }
    numbers = zip(label_format.names, label_format.ranges, strict=False)
    ranges = {name: [*bounds] for name, bounds in numbers if bounds is not None}
    return task | ({"label_ranges": ranges} if ranges else {})


def task_of_fields(fields: Mapping[str, Any]) -> Task:
    """The task of a model whose configuration has these fields, see [`task_fields`]."""
    return task_of(CPSLConfig(**fields))


def format_of(task: Task) -> LabelFormat:
    """The labels of a task as a data set has them."""
    if not isinstance(task, NumberTask):
        return LabelFormat("class" if isinstance(task, ClassTask) else "classes", task.names, ())
    ranges = tuple(bounds if math.isfinite(bounds[1] - bounds[0]) else None for bounds in task.ranges)
    return LabelFormat("number" if task.is_one_number else "numbers", task.names, ranges)


__all__ = ["TASK_FIELDS", "format_of", "task_fields", "task_of_fields"]
