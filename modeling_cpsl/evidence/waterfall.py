"""Ingredient by ingredient: rows of an experiment of which each adds something to the one before."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..task_cpsl import Task
from .statistics import Difference, holm, paired_differences
from .task_sums import metrics_of_task_sums


@dataclass(frozen=True)
class Step:
    """What an ingredient brings.

    Attributes:
        name: The row that has it.
        before: The row that lacks it and is otherwise the same.
        differences: Of the row from the one before, by metric.
        corrected_p: p values by metric, corrected for the number of steps by Holm's method.
    """

    name: str
    before: str
    differences: dict[str, Difference]
    corrected_p: dict[str, float]


@dataclass(frozen=True)
class Waterfall:
    """The steps from a first row to a last one, all on the same seeds and samples, so that they add up.

    Attributes:
        first: The first row.
        start: Its metrics, means over seeds.
        steps: The steps, in their order.
    """

    first: str
    start: dict[str, float]
    steps: list[Step]


def waterfall(systems: Mapping[str, np.ndarray], task: Task) -> Waterfall:
    """Compares each row with the one before.

    Args:
        systems: (seeds, G, S) by row, at least two, in their order: the sums of the same G groups for each of the same
            seeds, see [`task_sums`].
        task: What labels are.
    """
    names = list(systems)
    pairs = list(zip(names[1:], names[:-1], strict=True))
    differences = {name: paired_differences(systems[name], systems[before], task) for name, before in pairs}
    by_seed = metrics_of_task_sums(systems[names[0]].sum(axis=1), task)
    start = {metric: float(values.mean()) for metric, values in by_seed.items()}
    corrected = {metric: holm({name: found[metric].p for name, found in differences.items()}) for metric in start}
    steps = [
        Step(name, before, differences[name], {metric: p[name] for metric, p in corrected.items()})
        for name, before in pairs
    ]
    return Waterfall(names[0], start, steps)


__all__ = ["Step", "Waterfall", "waterfall"]
