"""What each modality contributes, for an experiment that has a row for every subset of some modalities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..modulation.contributions import shapley_weight
from .group_sums import metrics_of_sums
from .statistics import bootstrap, interval


# Its value without any modality is known: constant predictions have a correlation of 0.
CONTRIBUTION_METRIC = "corr"
_NUM_DRAWS = 2000


@dataclass(frozen=True)
class Contribution:
    """What a modality adds to the correlation.

    Attributes:
        modality: Its name.
        alone: Correlation of the row with this modality alone.
        last: Correlation of all modalities minus that of all others.
        shapley: Its Shapley value: the mean gain over all orders in which the modalities can be added to none. The
            values of all modalities add up to the correlation of all together.
        low: Lower end of the Shapley value's bootstrap interval.
        high: Upper end of it.
    """

    modality: str
    alone: float
    last: float
    shapley: float
    low: float
    high: float


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


def contributions(sums: Mapping[frozenset[str], np.ndarray]) -> list[Contribution]:
    """What each modality contributes.

    Args:
        sums: For every subset (seeds, G, S), the sums of the same G groups for each seed, see [`group_sums`].

    Returns:
        For each modality, the largest Shapley value first.
    """
    subsets = list(sums)
    systems = np.stack([sums[subset] for subset in subsets])
    observed = metrics_of_sums(systems.sum(axis=2))[CONTRIBUTION_METRIC].mean(axis=1)
    draws = bootstrap(systems, np.random.default_rng(0), _NUM_DRAWS)[CONTRIBUTION_METRIC]
    modalities = sorted(frozenset[str]().union(*subsets))
    everything = frozenset(modalities)
    value = dict(zip(subsets, observed.tolist(), strict=True)) | {frozenset[str](): 0.0}
    found = []
    for modality in modalities:
        weights = _shapley_weights(modality, subsets, len(modalities))
        low, high = interval(weights @ draws)
        found.append(
            Contribution(
                modality=modality,
                alone=value[frozenset([modality])],
                last=value[everything] - value[everything - {modality}],
                shapley=float(weights @ observed),
                low=low,
                high=high,
            )
        )
    return sorted(found, key=lambda each: -each.shapley)


def _shapley_weights(modality: str, subsets: Sequence[frozenset[str]], number: int) -> np.ndarray:
    """(R,), with which the values of the subsets add up to the Shapley value; the empty subset's value is 0."""
    weights = []
    for subset in subsets:
        share = shapley_weight(len(subset - {modality}), number)
        weights.append(share if modality in subset else -share)
    return np.array(weights)


__all__ = ["CONTRIBUTION_METRIC", "Contribution", "contributions", "subsets_of_rows"]
