"""What the labels of a training say: what errors are judged by, and what classes count by."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_builders.columns import Split, read_columns

from ..class_task_cpsl import ClassTask
from ..number_task_cpsl import NumberTask
from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT


def task_of_model(model: Any) -> Task:
    """What the labels of a model are; a sentiment where it does not say so by a `task`."""
    return getattr(model, "task", SENTIMENT)


def label_values(split: Split, task: Task) -> np.ndarray:
    """The labels of a split, (N,) or (N, K) as the task has them.

    Raises:
        ValueError: One is none of the task's.
    """
    column = [label for table in read_columns(split, ["label"]) for label in table["label"].to_pylist()]
    return task.label_array([task.checked_label(label) for label in column])


class LabelStatistics(NamedTuple):
    """What errors are judged by.

    Attributes:
        constant: The best prediction without any modality: the mean label, or of classes (K,) their frequencies.
        deviation: How far labels are from what all have in common; of one number the mean absolute deviation from the
            median, else the mean error of the constant. 1 if it is 0.
    """

    constant: Any = 0.0
    deviation: float = 1.0


def label_statistics(split: Split, task: Task = SENTIMENT) -> LabelStatistics:
    """The statistics of the labels of a split; the defaults of [`LabelStatistics`] where it has none."""
    if "label" not in split.features:
        return LabelStatistics()
    if not task.is_one_number:
        values = label_values(split, task)
        if not len(values):
            return LabelStatistics()
        constant = task.constant(values)
        errors = constant_errors(task, constant, torch.from_numpy(values))
        return LabelStatistics(constant, float(errors.double().mean()) or 1.0)
    values = np.concatenate([np.zeros(0), *(table["label"].to_numpy() for table in read_columns(split, ["label"]))])
    if not len(values):
        return LabelStatistics()
    return LabelStatistics(float(values.mean()), float(np.abs(values - np.median(values)).mean()) or 1.0)


def constant_errors(task: Task, constant: Any, labels: Tensor) -> Tensor:
    """The errors (B,) of a constant prediction, as [`LabelStatistics`] has it, for labels as the losses take them."""
    if isinstance(constant, np.ndarray):
        constant = torch.from_numpy(constant).to(labels.device, torch.float32)
    return task.distance(constant, labels)


def balanced_class_weights(split: Split, task: Task) -> dict[str, float]:
    """What makes classes count alike in the losses, whatever number of samples they have.

    One of K classes counts N / (K n), n of N samples being of it; among several at once a class counts (N - n) / n
    where a sample has it. A class without samples counts 1.

    Args:
        split: The training split.
        task: One of classes.

    Raises:
        ValueError: The labels are numbers.
    """
    if isinstance(task, NumberTask):
        raise ValueError("class_weights=balanced: the labels are numbers and have no classes; leave it out")
    shares = np.asarray(task.constant(label_values(split, task)))
    with np.errstate(divide="ignore"):
        weights = 1 / (len(shares) * shares) if isinstance(task, ClassTask) else (1 - shares) / shares
    return {
        name: float(weight) if 0 < share < 1 else 1.0
        for name, weight, share in zip(task.names, weights, shares, strict=True)
    }


def check_one_number(task: Task, options: Sequence[str]) -> None:
    """ValueError that names the first of these options of a training, where labels are not one number."""
    if options and not task.is_one_number:
        raise ValueError(f"{options[0]}: it is made for labels that are one number, and these are not; leave it out")


__all__ = [
    "LabelStatistics",
    "balanced_class_weights",
    "check_one_number",
    "constant_errors",
    "label_statistics",
    "label_values",
    "task_of_model",
]
