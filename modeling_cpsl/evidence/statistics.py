"""What the runs of an experiment say about its rows: means, paired differences, and how sure they are.

The groups of the test samples (mostly videos) are what was sampled: samples of one group are not independent. So
intervals come from a bootstrap over groups, and p values from exchanging two rows' predictions group by group.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT
from .task_sums import metrics_of_task_sums


CONFIDENCE = 0.95
# A difference of this many standard errors is found in four of five repetitions (1.96 + 0.84).
_STANDARD_ERRORS_TO_TELL = 2.80
# From this number on, seeds are drawn anew in the bootstrap too.
FEWEST_SEEDS_TO_DRAW = 3
# Draws are made in blocks of this size, to bound memory.
_BLOCK = 500


@dataclass(frozen=True)
class Difference:
    """A row's difference from the reference in one metric.

    Attributes:
        value: The row's metric minus the reference's, each a mean over seeds, in the metric's own unit.
        low: Lower end of the bootstrap interval; NaN with a single group, as is `smallest`.
        high: Upper end of it.
        p: Two-sided p value of the permutation test, not corrected for the number of rows. It is of the trained
            models: seeds are not drawn in it.
        smallest: The smallest difference that this design finds in four of five repetitions.
        num_seeds: Number of seeds that both have.
    """

    value: float
    low: float
    high: float
    p: float
    smallest: float
    num_seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_differences(
    row: np.ndarray, reference: np.ndarray, task: Task = SENTIMENT, *, num_draws: int = 4000, seed: int = 0
) -> dict[str, Difference]:
    """How a row differs from the reference on the same samples.

    Args:
        row: (seeds, G, S), the sums of G groups for each seed, see [`task_sums`].
        reference: (seeds, G, S), of the same seeds and groups.
        task: What labels are.
        num_draws: Number of bootstrap draws, and of permutations, which are all made where they are not more.
        seed: Seed of both.

    Returns:
        By metric. Where the metric cannot be computed (no sample with a label other than 0), its values are NaN.
    """
    if row.shape != reference.shape:
        raise ValueError(f"sums of shape {row.shape} and {reference.shape} are not of the same seeds and groups")
    generator = np.random.default_rng(seed)
    observed = _difference(row.sum(axis=1), reference.sum(axis=1), task)
    resampled = bootstrap(np.stack([row, reference]), generator, num_draws, task)
    exchanges, added = _exchanges(row.shape[1], generator, num_draws)
    blocks = np.split(exchanges, range(_BLOCK, len(exchanges), _BLOCK))
    permuted = _concatenated(_exchanged(row, reference, kept, task) for kept in blocks)
    differences = {}
    for name, value in observed.items():
        draws = resampled[name][0] - resampled[name][1]
        draws = draws[np.isfinite(draws)]
        low, high = interval(draws)
        # Sums in another order differ in the last digits.
        as_far = np.abs(permuted[name]) >= abs(value) - 1e-12
        differences[name] = Difference(
            value=float(value),
            low=low,
            high=high,
            p=float((as_far.sum() + added) / (len(exchanges) + added)) if np.isfinite(value) else float("nan"),
            smallest=float(_STANDARD_ERRORS_TO_TELL * draws.std(ddof=1)) if len(draws) > 1 else float("nan"),
            num_seeds=len(row),
        )
    return differences


def bootstrap(
    systems: np.ndarray, generator: np.random.Generator, num_draws: int, task: Task = SENTIMENT
) -> dict[str, np.ndarray]:
    """The metrics, as means over seeds, with groups drawn anew, and seeds where there are enough: the same for all.

    Args:
        systems: (R, seeds, G, S), the sums of G groups for each of R systems and each seed, see [`task_sums`].
        generator: What draws.
        num_draws: Number of draws.
        task: What labels are.

    Returns:
        (R, num_draws) by metric; NaN with a single group, which says nothing of others.
    """
    if systems.shape[2] < 2:
        systems = np.full_like(systems, np.nan)
    return _concatenated(_bootstrap_block(systems, generator, size, task) for size in _block_sizes(num_draws))


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The ends of the percentile interval of draws (N,); NaN among them do not count."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return math.nan, math.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number, by Holm's method; NaN stay NaN and do not count.

    Args:
        p_values: p value by row.
    """
    counted = sorted((p, name) for name, p in p_values.items() if np.isfinite(p))
    corrected, largest = dict(p_values), 0.0
    for position, (p, name) in enumerate(counted):
        largest = max(largest, min(1.0, p * (len(counted) - position)))
        corrected[name] = largest
    return corrected


def _difference(row: np.ndarray, reference: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """Difference of the metrics' means over seeds, the first axis of the sums (seeds, ..., S)."""
    ours, theirs = metrics_of_task_sums(row, task), metrics_of_task_sums(reference, task)
    return {name: (ours[name] - theirs[name]).mean(axis=0) for name in ours}


def _bootstrap_block(
    systems: np.ndarray, generator: np.random.Generator, size: int, task: Task
) -> dict[str, np.ndarray]:
    _, num_seeds, num_groups, _ = systems.shape
    weights = generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size).astype(np.float64)
    metrics = metrics_of_task_sums(weights @ systems, task)  # (R, seeds, size) each
    if num_seeds < FEWEST_SEEDS_TO_DRAW:
        drawn = np.full((num_seeds, size), 1 / num_seeds)
    else:
        drawn = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=size).T / num_seeds
    return {name: (values * drawn).sum(axis=1) for name, values in metrics.items()}


def _exchanges(num_groups: int, generator: np.random.Generator, num_draws: int) -> tuple[np.ndarray, int]:
    """Exchanges (N, G) of two rows' predictions, 0 in the groups that change; and what is to be added to their count.

    All of them where they are not more than draws, and the one that changes nothing is among them; else random ones,
    to which it is added.
    """
    if 2**num_groups <= num_draws:
        numbers = np.arange(2**num_groups)[:, None]
        return (numbers >> np.arange(num_groups) & 1).astype(np.float64), 0
    return generator.integers(0, 2, size=(num_draws, num_groups)).astype(np.float64), 1


def _exchanged(row: np.ndarray, reference: np.ndarray, kept: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """Differences (N,) by metric with the two rows' predictions exchanged (N, G)."""
    return _difference(kept @ row + (1 - kept) @ reference, kept @ reference + (1 - kept) @ row, task)


def _block_sizes(number: int) -> list[int]:
    return [min(_BLOCK, number - start) for start in range(0, number, _BLOCK)]


def _concatenated(blocks: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    collected = list(blocks)
    return {name: np.concatenate([block[name] for block in collected], axis=-1) for name in collected[0]}


__all__ = ["CONFIDENCE", "FEWEST_SEEDS_TO_DRAW", "Difference", "bootstrap", "holm", "interval", "paired_differences"]
