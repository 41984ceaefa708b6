"""What each modality contributes, for an experiment that has a row for every subset of some modalities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..class_task_cpsl import ClassTask, LabelSetTask
from ..modulation.contributions import shapley_weight
from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT
from .statistics import bootstrap, interval
from .task_sums import metrics_of_task_sums, uar_of_one_answer


_NUM_DRAWS = 2000


@dataclass(frozen=True)
class Contribution:
    """What a modality adds to the [`contribution_metric`].

    Attributes:
        modality: Its name.
        alone: That of the row with this modality alone.
        last: That of all modalities minus that of all others.
        shapley: Its Shapley value: the mean gain over all orders in which the modalities can be added to none. The
            values of all modalities add up to what all together have above one answer for all samples.
        low: Lower end of the Shapley value's bootstrap interval.
        high: Upper end of it.
    """

    modality: str
    alone: float
    last: float
    shapley: float
    low: float
    high: float


def contribution_metric(task: Task = SENTIMENT) -> str:
    """The metric that contributions are told in: one whose value without any modality follows from the labels alone.

    One answer for all samples has a correlation of 0, of numbers; of classes see [`uar_of_one_answer`].
    """
    return "uar" if isinstance(task, ClassTask | LabelSetTask) else "corr"


def subsets_of_rows(options: Mapping[str, Mapping[str, Any]]) -> dict[frozenset[str], str]:
    """The rows that differ in their modalities alone, if they are every subset of at least two; else none.

    Args:
        options: The options of each row, by its name.

    Returns:
        The row's name by subset.
    """
    rows = {
        frozenset(row["modalities"].split(",")): name for name, row in options.items() if row.keys() == {"modalities"}
    }
    modalities = frozenset[str]().union(*rows)
    return rows if len(modalities) > 1 and len(rows) == 2 ** len(modalities) - 1 else {}


def contributions(sums: Mapping[frozenset[str], np.ndarray], task: Task = SENTIMENT) -> list[Contribution]:
    """What each modality contributes.

    Args:
        sums: For every subset (seeds, G, S), the sums of the same G groups for each seed, see [`task_sums`].
        task: What labels are.

    Returns:
        For each modality, the largest Shapley value first.
    """
    subsets, metric = list(sums), contribution_metric(task)
    systems = np.stack([sums[subset] for subset in subsets])
    totals = systems.sum(axis=2)
    observed = metrics_of_task_sums(totals, task)[metric].mean(axis=1)
    draws = bootstrap(systems, np.random.default_rng(0), _NUM_DRAWS, task)[metric]
    nothing = 0.0
    if isinstance(task, ClassTask | LabelSetTask):
        nothing = float(uar_of_one_answer(totals[0], task).mean())
    modalities = sorted(frozenset[str]().union(*subsets))
    everything = frozenset(modalities)
    value = dict(zip(subsets, observed.tolist(), strict=True)) | {frozenset[str](): nothing}
    found = []
    for modality in modalities:
        weights = _shapley_weights(modality, subsets, len(modalities))
        of_nothing = nothing * shapley_weight(0, len(modalities))
        low, high = interval(weights @ draws - of_nothing)
        found.append(
            Contribution(
                modality=modality,
                alone=value[frozenset([modality])],
                last=value[everything] - value[everything - {modality}],
                shapley=float(weights @ observed) - of_nothing,
                low=low,
                high=high,
            )
        )
    return sorted(found, key=lambda each: -each.shapley)


def _shapley_weights(modality: str, subsets: Sequence[frozenset[str]], number: int) -> np.ndarray:
    """(R,), with which the values of the subsets add up to the Shapley value, but for the empty subset."""
    weights = []
    for subset in subsets:
        share = shapley_weight(len(subset - {modality}), number)
        weights.append(share if modality in subset else -share)
    return np.array(weights)


__all__ = ["Contribution", "contribution_metric", "contributions", "subsets_of_rows"]
