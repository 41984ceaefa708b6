"""Controls: without them a table cannot tell "balance helps" from "any change helps"."""

import random
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .conflict_aware import ConflictAware
from .contract import EPS, CoefficientRule, StepStatistics, check_in_range, exponential_mean


# How many past steps the rule `random` draws from.
HISTORY = 1024


@dataclass(kw_only=True)
class NoBalance(CoefficientRule):
    """No modality is changed."""

    @property
    def balances(self) -> bool:
        """It does not."""
        return False

    def __call__(self, statistics: StepStatistics) -> Tensor:
        """See [`CoefficientRule.__call__`]."""
        return torch.ones_like(statistics.errors)


@dataclass(kw_only=True)
class RandomCoefficients(CoefficientRule):
    """Each step takes what CPSL's rule, with its default options, gave at one of the last 1,024 steps.

    That step itself is one of them. The coefficients have the distribution of CPSL's own, and say nothing of the step
    that they are applied to.
    """

    enhances: ClassVar[bool] = True

    history: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def __call__(self, statistics: StepStatistics) -> Tensor:
        """See [`CoefficientRule.__call__`]."""
        self.history = [*self.history[1 - HISTORY :], ConflictAware()(statistics).detach()]
        draw = random.Random(f"{statistics.seed}/{statistics.step}/coefficients").randrange(len(self.history))
        return self.history[draw].to(statistics.errors.device)


@dataclass(kw_only=True)
class InverseVariance(CoefficientRule):
    r"""ARL-style: the more exact modality learns more, \\(c_m = M (1 / V_m) / \sum_j (1 / V_j)\\), in [0.25, 2].

    The opposite of damping the better one. V_m is the exponential mean of a modality's squared error: the variance of
    its error if it has no bias. Only the abstract of ARL (arXiv:2507.10203) was at hand; the formula is ours.

    Args:
        momentum: Momentum of the exponential mean.

    Raises:
        ValueError: An option is out of its range.
    """

    momentum: float = 0.9
    variances: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_in_range("momentum", self.momentum, 0, 1)

    @property
    def needs(self) -> frozenset[str]:
        """See [`CoefficientRule.needs`]."""
        return frozenset({"squared_errors"})

    def __call__(self, statistics: StepStatistics) -> Tensor:
        """See [`CoefficientRule.__call__`]."""
        self.variances = exponential_mean(self.variances, statistics.required("squared_errors"), self.momentum)
        known = self.variances.isfinite() & ~statistics.absent
        precisions = torch.where(known, 1 / (self.variances + EPS), 0)
        coefficients = (known.sum() * precisions / (precisions.sum() + EPS)).clamp(0.25, 2)
        return torch.where(known, coefficients, 1.0)


@dataclass(kw_only=True)
class Prioritize(CoefficientRule):
    """PDMP-style: the modality with the smallest error learns as it is, the others are damped.

    The opposite of OGM. Only the abstract of PDMP (arXiv:2604.05773) was at hand; the formula is ours.

    Args:
        alpha: The others' coefficient, between 0 and 1.

    Raises:
        ValueError: An option is out of its range.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        check_in_range("alpha", self.alpha, 0, 1)

    def __call__(self, statistics: StepStatistics) -> Tensor:
        """See [`CoefficientRule.__call__`]."""
        errors = statistics.errors
        smallest = torch.where(errors.isfinite(), errors, torch.inf).amin()
        return torch.where(errors > smallest, self.alpha, torch.ones_like(errors))


__all__ = ["InverseVariance", "NoBalance", "Prioritize", "RandomCoefficients"]
