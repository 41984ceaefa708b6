"""Rules that read how much each modality contributes to the prediction, as Shapley values."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .contract import CoefficientRule, StepStatistics, check_in_range, exponential_mean


@dataclass(kw_only=True)
class Shapley(CoefficientRule):
    r"""PaSE-style: \\(c_m = \exp(psi_{min} / psi_m - 1)\\), in (1/e, 1]; the weakest modality gets 1.

    psi_m is a modality's share of the exponential means of the contributions, each at least `floor`. The formula is
    known from notes on PaSE (arXiv:2511.17585), not from its text; floor and mean are ours.

    Args:
        momentum: Momentum of the exponential mean.
        floor: Smallest contribution, above 0.

    Raises:
        ValueError: An option is out of its range.
    """

    momentum: float = 0.9
    floor: float = 0.02
    contributions: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_in_range("momentum", self.momentum, 0, 1)
        check_in_range("floor", self.floor, 1e-6, 1)

    @property
    def needs(self) -> frozenset[str]:
        """See [`CoefficientRule.needs`]."""
        return frozenset({"contributions"})

    def __call__(self, statistics: StepStatistics) -> Tensor:
        """See [`CoefficientRule.__call__`]."""
        if statistics.contributions is not None:
            self.contributions = exponential_mean(self.contributions, statistics.contributions, self.momentum)
        if self.contributions is None:
            return torch.ones_like(statistics.errors)
        known = self.contributions.isfinite() & ~statistics.absent
        shares = torch.where(known, self.contributions.clamp(min=self.floor), math.inf)
        return torch.where(known, torch.exp(shares.amin() / shares - 1), 1.0)


@dataclass(kw_only=True)
class Alternate(CoefficientRule):
    """Modality-Equilibrium-style: one modality learns at a time, the one that contributes least first.

    In a cycle of M steps each modality is moved once and what they share always; the order follows the contributions
    that were known when the epoch began. It needs M times the steps. Only the abstract of arXiv:2506.00030 was at
    hand; the schedule is ours, and its memory modules are left out.

    Args:
        momentum: Momentum of the exponential mean of the contributions.

    Raises:
        ValueError: An option is out of its range.
    """

    needs_update_target: ClassVar[bool] = True

    momentum: float = 0.9
    contributions: Tensor | None = field(default=None, init=False, repr=False)
    order: Tensor | None = field(default=None, init=False, repr=False)
    ordered_epoch: int = field(default=-1, init=False, repr=False)

    def __post_init__(self) -> None:
        check_in_range("momentum", self.momentum, 0, 1)

    @property
    def needs(self) -> frozenset[str]:
        """See [`CoefficientRule.needs`]."""
        return frozenset({"contributions"})

    def __call__(self, statistics: StepStatistics) -> Tensor:
        """See [`CoefficientRule.__call__`]."""
        errors, epoch = statistics.errors, math.floor(statistics.epoch)
        if self.order is None or epoch != self.ordered_epoch:
            # before anything is known, the modality with the largest error is the weakest
            known = -errors if self.contributions is None else self.contributions.to(errors.device)
            self.order, self.ordered_epoch = known.nan_to_num(nan=math.inf).argsort(), epoch
        if statistics.contributions is not None:
            self.contributions = exponential_mean(self.contributions, statistics.contributions, self.momentum)
        turn = self.order.to(errors.device)[statistics.step % len(errors)]
        moved = torch.arange(len(errors), device=errors.device) == turn
        # where nothing of the modality is in the step, the others learn
        return torch.where((moved & statistics.absent).any(), ~moved, moved).to(errors.dtype)


__all__ = ["Alternate", "Shapley"]
