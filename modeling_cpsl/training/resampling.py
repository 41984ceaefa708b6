"""Which samples an epoch draws: those from which the modalities have most to learn more often."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..modulation.rules.contract import check_in_range


# The contribution, in mean absolute deviations of the labels, from which on a sample's weakest modality needs one copy
# of the sample fewer: SMV has .4 and -.1 for its scale of classes, and none from 1 on.
_CONTRIBUTION_CLASSES = (0.0, 0.25, 1.0)


def contribution_copies(contributions: Tensor) -> tuple[Tensor, Tensor]:
    """How many copies of each sample SMV adds for its weakest modality, the one that contributes least.

    Three where it harms the prediction (below 0), two below .25, one below 1, else none.

    Args:
        contributions: (N, M), Shapley values in mean absolute deviations of the labels; NaN where a sample lacks a
            modality or nothing is known of it.

    Returns:
        The copies (N,), 0 where fewer than two modalities are known: none of them is the weaker one then; and the
        number of the weakest modality (N,).
    """
    known = contributions.isfinite()
    least, weakest = contributions.masked_fill(~known, math.inf).min(dim=1)
    classes = torch.tensor(_CONTRIBUTION_CLASSES, device=least.device, dtype=least.dtype)
    copies = len(classes) - torch.bucketize(least, classes, right=True)
    return torch.where(known.sum(dim=1) > 1, copies, 0), weakest


@dataclass(kw_only=True)
class ContributionSchedule:
    """When contributions are computed, which costs an evaluation of the training data.

    Args:
        start_epoch: The first epoch that goes by contributions, those of the model that has been trained until then.
        every: After so many epochs contributions are computed anew.

    Raises:
        ValueError: An option is out of its range.
    """

    start_epoch: int = 5
    every: int = 1

    def __post_init__(self) -> None:
        check_in_range("start_epoch", self.start_epoch, 1, 10_000)
        check_in_range("every", self.every, 1, 10_000)

    def is_due(self, num_epochs: int) -> bool:
        """Whether contributions are computed when so many epochs are done."""
        return num_epochs >= self.start_epoch and (num_epochs - self.start_epoch) % self.every == 0


class Resampling:
    """How often a sample is drawn; a subclass is a dataclass of options.

    Attributes:
        start_epoch: The first epoch that is drawn by weights.
    """

    start_epoch: int = 0

    def weights(self, values: np.ndarray) -> np.ndarray:
        """The weights (N,) of N samples, above 0, of which only the ratios matter.

        Args:
            values: (N, M), what is known of the modalities of each sample; NaN where nothing is.
        """
        raise NotImplementedError


@dataclass(kw_only=True)
class NoResampling(Resampling):
    """Every sample once an epoch."""

    def weights(self, values: np.ndarray) -> np.ndarray:
        """See [`Resampling.weights`]."""
        return np.ones(len(values))


@dataclass(kw_only=True)
class ByContribution(ContributionSchedule, Resampling):
    """A sample is drawn once for itself and once for each copy that its weakest modality needs.

    Sample-level valuation (SMV, arXiv:2309.06255) in its released code adds copies to the data; its contributions are
    of right and wrong classes, and ours of errors, see [`contribution_copies`].
    """

    def weights(self, values: np.ndarray) -> np.ndarray:
        """See [`Resampling.weights`]; the values are contributions in mean absolute deviations of the labels."""
        return 1.0 + contribution_copies(torch.from_numpy(values))[0].numpy()


@dataclass(kw_only=True)
class ByDiscrepancy(Resampling):
    """Samples are drawn more often the fewer others one modality predicts better by as much.

    After Balanced Audiovisual Dataset (arXiv:2302.10912), which makes a data set whose samples differ evenly in how
    much better one modality is than the other. A sample's preferred modality is the one with the smallest error of a
    prediction from it alone; by how much the next best errs more is the discrepancy. The samples of a modality are
    counted in bins of equal width, together `bins` over the range from one modality's largest discrepancy to the
    others'; c samples in a bin weigh c^-gamma each, and none more than `cap` times what those of the fullest bin do.

    Args:
        bins: Number of bins.
        gamma: 0 draws all samples alike, 1 all bins.
        cap: Largest ratio of two weights.

    Raises:
        ValueError: An option is out of its range.
    """

    bins: int = 10
    gamma: float = 0.5
    cap: float = 5.0

    def __post_init__(self) -> None:
        check_in_range("bins", self.bins, 1, 1000)
        check_in_range("gamma", self.gamma, 0, 1)
        check_in_range("cap", self.cap, 1, 1000)

    def weights(self, values: np.ndarray) -> np.ndarray:
        """See [`Resampling.weights`]; the values are absolute errors of predictions from one modality alone.

        A sample with fewer than two of them has the mean weight.
        """
        preferred, discrepancy = preferred_modality(values)
        compared = np.isfinite(discrepancy)
        if not compared.any():
            return np.ones(len(values))
        own, modality = discrepancy[compared], preferred[compared]
        reach = sum(own[modality == each].max() for each in np.unique(modality))
        # a difference of nothing has no bins: all samples are alike
        places = np.floor(own * self.bins / reach).astype(int) if reach else np.zeros(len(own), int)
        _, cells, counts = np.unique(
            np.stack([modality, np.minimum(places, self.bins - 1)]), axis=1, return_inverse=True, return_counts=True
        )
        relative = np.minimum((counts.max() / counts) ** self.gamma, self.cap)[cells]
        weights = np.full(len(values), relative.mean())
        weights[compared] = relative
        return weights


def preferred_modality(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The modality that alone predicts a sample best, and its discrepancy: by how much the next best one errs more.

    Args:
        errors: (N, M), absolute errors of predictions from one modality alone; NaN where there is none.

    Returns:
        The number of the modality (N,), -1 without any; the discrepancy (N,), at least 0, NaN with fewer than two.
    """
    known = np.isfinite(errors)
    filled = np.where(known, errors, np.inf)
    preferred = np.where(known.any(axis=1), filled.argmin(axis=1), -1)
    if errors.shape[1] < 2:
        return preferred, np.full(len(errors), np.nan)
    best, second = np.sort(filled, axis=1)[:, :2].T
    with np.errstate(invalid="ignore"):
        return preferred, np.where(known.sum(axis=1) > 1, second - best, np.nan)


# By the name that `--resample` gives it.
RESAMPLING: dict[str, type[Resampling]] = {
    "none": NoResampling,
    "discrepancy": ByDiscrepancy,
    "contribution": ByContribution,
}


class EpochSampler(Sampler[int]):
    """Draws as many samples an epoch as there are, by weights, in an order that follows from seed and epoch alone.

    Each sample is drawn as often as its share of the weights says, rounded up or down at random so that the mean over
    epochs is exact (systematic sampling); with equal weights every sample once. The draws are therefore the same on
    all ranks and after a restart.

    Args:
        num_samples: N.
        seed: Seed of the draws and of the order.
        lengths: N lengths of samples, to draw those of similar length together; None for a random order.
        batch_size: Number of samples of similar length that are drawn together.

    Attributes:
        weights: (N,), of which only the ratios matter.
    """

    def __init__(self, num_samples: int, seed: int, *, lengths: Sequence[int] | None = None, batch_size: int = 1):
        self.seed, self.epoch = seed, 0
        self.lengths, self.batch_size = lengths, batch_size
        self.weights = np.ones(num_samples)

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        drawn = self._drawn()
        if self.lengths is None:
            return iter(drawn)
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        lengths = [self.lengths[index] for index in drawn]
        return iter(
            [drawn[place] for place in get_length_grouped_indices(lengths, self.batch_size, generator=generator)]
        )

    def set_epoch(self, epoch: int) -> None:
        """Decides the draws; the data loader calls it."""
        self.epoch = epoch

    def _drawn(self) -> list[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        number = len(self.weights)
        # in a random order, so that neighbours in the data are not drawn together more often than others
        order = generator.permutation(number)
        ends = np.cumsum(self.weights[order])
        ends *= number / ends[-1]
        ends[-1] = number
        points = np.arange(number) + generator.random()
        drawn = order[np.searchsorted(ends, points, side="right")]
        return generator.permutation(drawn).tolist()


def effective_size(weights: np.ndarray) -> float:
    """The number of equal samples that say as much as samples of these weights (N,): (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


__all__ = [
    "RESAMPLING",
    "ByContribution",
    "ByDiscrepancy",
    "ContributionSchedule",
    "EpochSampler",
    "NoResampling",
    "Resampling",
    "contribution_copies",
    "effective_size",
    "preferred_modality",
]
