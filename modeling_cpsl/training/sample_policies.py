"""Policies: which modalities the samples of a step keep, decided before its forward pass; `POLICIES` is their list.

A policy knows what was known before the step, so that its decision is the same however the step is cut into batches
and ranks. It needs PyTorch only and serves any model: a loop of one's own calls it for each batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..modulation.rules.contract import Method, check_in_range
from ..modulation.rules.ogm import mean_ratios
from .resampling import ContributionSchedule, contribution_copies
from .sample_draws import sample_generator


@dataclass(frozen=True)
class StepSamples:
    """What is known of the samples of a batch before the step that it belongs to.

    Attributes:
        ids: The names of the B samples.
        modalities: The names of the M modalities.
        presence: (B, M) bool, which sample has which modality.
        step: Number of the optimizer step, counted from 0.
        seed: Seed of what is drawn.
        epoch: Epoch, counted from 0, with fractions.
        remembered: What a [`SampleTable`] holds of the samples, (B, width) by column; NaN where nothing.
    """

    ids: Sequence[str]
    modalities: Sequence[str]
    presence: Tensor
    step: int
    seed: int = 0
    epoch: float = 0.0
    remembered: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(kw_only=True)
class SamplePolicy(Method):
    """Decides which modalities each sample of a step keeps; here all.

    A policy extends this class and is a line in `POLICIES`. Its options are the fields of a dataclass, whose checks
    are in `__post_init__`; a field with `init=False` is state, which checkpoints keep. It runs on the device of the
    samples, without reading a value there. What it draws comes from [`sample_generator`].
    """

    # Which statistics of the step before it reads: `scores` for none or some of the modalities.
    needs: ClassVar[frozenset[str]] = frozenset()
    # Whether it also keeps something of a modality, which not every model can fuse.
    weakens: ClassVar[bool] = False

    def __call__(self, samples: StepSamples) -> Tensor:
        """(B, M), how much is kept of each modality, from 0 (nothing) to 1; bool where it is all or nothing.

        Nothing is kept of what a sample does not have, and something of at least one modality that it has.
        """
        return samples.presence

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """Called after each step with what [`GradientModulator.step`] returned, the same on all ranks."""

    @property
    def masks(self) -> bool:
        """Whether it can leave something out."""
        return type(self) is not SamplePolicy

    @property
    def first_epoch(self) -> float:
        """The first epoch in which it leaves something out, counted from 0."""
        return 0.0


@dataclass(kw_only=True)
class UniformMasking(SamplePolicy):
    """Modality dropout: leaves out each modality of each sample with the same probability.

    Args:
        probability: In [0, 1).

    Raises:
        ValueError: The probability is out of its range.
    """

    probability: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability < 1.0:
            raise ValueError(f"probability={self.probability} must be in [0, 1)")

    def __call__(self, samples: StepSamples) -> Tensor:
        """See [`SamplePolicy.__call__`]."""
        return leave_out(samples, self.probability)


@dataclass(kw_only=True)
class OPM(SamplePolicy):
    r"""On-the-fly prediction modulation (Wei et al., TPAMI 2024): leaves out what is ahead of the other modalities.

    Modality m is left out of a sample with the probability \\(q_m = base \, (1 + strength \tanh(rho_m - 1))\\), at
    most 1, where \\(rho_m > 1\\), else 0; \\(rho_m\\) is the mean over the other modalities of the ratio of
    their scores at the step before, as in [`OGM`]. A modality without a score stays. The kept features are not scaled
    up, as they are in the released code: a missing modality has no part in a prediction here.

    Args:
        base_probability: q of a modality that is hardly ahead, in [0, 1].
        strength: lambda, by how much of it q grows at most, at least 0.
        step_probability: The share of steps in which anything is left out, in [0, 1].
        start_epoch: The first epoch in which anything is left out, counted from 0.

    Raises:
        ValueError: An option is out of its range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"scores"})

    base_probability: float = 0.5
    strength: float = 0.5
    step_probability: float = 0.7
    start_epoch: int = 5
    scores: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_in_range("base_probability", self.base_probability, 0, 1)
        check_in_range("strength", self.strength, 0, 1e6)
        check_in_range("step_probability", self.step_probability, 0, 1)
        check_in_range("start_epoch", self.start_epoch, 0, 1e6)

    def __call__(self, samples: StepSamples) -> Tensor:
        """See [`SamplePolicy.__call__`]."""
        # one draw a step, by no sample's name
        is_chosen = sample_generator(samples.seed, samples.step, "", "opm").random() < self.step_probability
        if not is_chosen or samples.epoch < self.start_epoch or not self.scores:
            return samples.presence
        return leave_out(samples, self.probabilities(samples.modalities))

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """See [`SamplePolicy.observe`]."""
        prefix = "score_"
        self.scores = {
            name.removeprefix(prefix): value for name, value in statistics.items() if name.startswith(prefix)
        }

    def probabilities(self, modalities: Sequence[str]) -> Tensor:
        """q (M,) at the scores of the step before."""
        unknown = torch.full_like(next(iter(self.scores.values())), math.nan)
        ratios = mean_ratios(torch.stack([self.scores.get(name, unknown) for name in modalities]))
        grown = self.base_probability * (1 + self.strength * torch.tanh(ratios - 1))
        return torch.where(ratios > 1, grown.clamp(max=1.0), 0.0)

    @property
    def first_epoch(self) -> float:
        """See [`SamplePolicy.first_epoch`]."""
        return self.start_epoch


@dataclass(kw_only=True)
class ContributionMasking(ContributionSchedule, SamplePolicy):
    """Shows a sample's weakest modality without the others, as the copies of it that SMV (arXiv:2309.06255) adds do.

    A sample of c copies, see [`contribution_copies`], is shown so with the probability c / (1 + c). The text stays
    beside the weakest modality unless `mask_text`. Contributions are remembered in the column `contributions`.

    Args:
        start_epoch: See [`ContributionSchedule`].
        every: See there.
        mask_text: Whether the text is left out too.

    Raises:
        ValueError: An option is out of its range.
    """

    mask_text: bool = False

    def __call__(self, samples: StepSamples) -> Tensor:
        """See [`SamplePolicy.__call__`]."""
        copies, weakest = contribution_copies(samples.remembered["contributions"])
        generators = [sample_generator(samples.seed, samples.step, name, "contribution") for name in samples.ids]
        draws = torch.tensor([generator.random() for generator in generators]).to(copies.device)
        shown = torch.arange(len(samples.modalities), device=copies.device) == weakest[:, None]
        if "text" in samples.modalities and not self.mask_text:
            shown[:, samples.modalities.index("text")] = True
        return samples.presence & (shown | (draws >= copies / (1 + copies))[:, None])

    @property
    def first_epoch(self) -> float:
        """See [`SamplePolicy.first_epoch`]."""
        return self.start_epoch


@dataclass(kw_only=True)
class SoftMasking(SamplePolicy):
    """Weakens modalities against each other or leaves one out (Chumachenko et al., 2022, arXiv:2201.11095).

    The released code makes four batches of each: as it is, with the voice times a and the face times 1 - a, without
    voice and without face. Here each sample is one of these views, drawn anew in each step: the same in the mean, at
    the cost of one batch. Of M modalities there are M + 2 views, and shares that add up to 1, uniform over all such
    shares, in place of a and 1 - a. What is weakened is what the model fuses of a modality.

    Args:
        mask_text: Whether the text takes part; else it is kept as it is.
    """

    weakens: ClassVar[bool] = True

    mask_text: bool = False

    def __call__(self, samples: StepSamples) -> Tensor:
        """See [`SamplePolicy.__call__`]."""
        taking_part = [place for place, name in enumerate(samples.modalities) if name != "text" or self.mask_text]
        if not taking_part:
            return samples.presence
        strengths = np.ones((len(samples.ids), len(samples.modalities)), np.float32)
        for row, name in zip(strengths, samples.ids, strict=True):
            generator = sample_generator(samples.seed, samples.step, name, "soft")
            view = generator.integers(len(taking_part) + 2)
            if view < len(taking_part):
                row[taking_part[view]] = 0.0
            elif view == len(taking_part):
                row[taking_part] = generator.dirichlet(np.ones(len(taking_part)))
        drawn = torch.from_numpy(strengths).to(samples.presence.device)
        kept = keep_one(samples, drawn > 0, drawn)
        return torch.where(kept, torch.where(drawn > 0, drawn, 1.0), 0.0)


def leave_out(samples: StepSamples, probabilities: float | Tensor) -> Tensor:
    """Leaves modalities out of samples at random, one by one, but at least one stays in each sample that has any.

    Args:
        samples: The samples.
        probabilities: (M,), or one for all. Where a sample would lose all, the one with the largest draw stays.

    Returns:
        (B, M) bool, what is kept.
    """
    generators = [sample_generator(samples.seed, samples.step, name, "modality_dropout") for name in samples.ids]
    draws = torch.from_numpy(np.stack([generator.random(len(samples.modalities)) for generator in generators]))
    draws = draws.to(samples.presence.device)
    return keep_one(samples, draws >= probabilities, draws)


def keep_one(samples: StepSamples, kept: Tensor, preference: Tensor) -> Tensor:
    """What is kept, (B, M) bool, but of a sample that would lose all that it has, what comes first.

    Args:
        samples: The samples.
        kept: (B, M) bool.
        preference: (B, M), by modality; the highest value comes first.
    """
    kept = kept & samples.presence
    preference = preference.masked_fill(~samples.presence, -math.inf)
    first = (preference == preference.amax(dim=1, keepdim=True)) & samples.presence
    return kept | (first & ~kept.any(dim=1, keepdim=True))


# By the name that the option `modality_masking` gives it.
POLICIES: dict[str, type[SamplePolicy]] = {
    "none": SamplePolicy,
    "uniform": UniformMasking,
    "opm": OPM,
    "soft": SoftMasking,
    "contribution": ContributionMasking,
}


__all__ = [
    "OPM",
    "POLICIES",
    "ContributionMasking",
    "SamplePolicy",
    "SoftMasking",
    "StepSamples",
    "UniformMasking",
    "keep_one",
    "leave_out",
]
