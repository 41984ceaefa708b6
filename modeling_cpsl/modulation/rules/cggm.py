"""CGGM: a modality learns less where it has just improved more than the others (Guo et al., NeurIPS 2024)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .contract import EPS, CoefficientRule, StepStatistics, check_in_range, exponential_mean


@dataclass(kw_only=True)
class CGGM(CoefficientRule):
    r"""\\(c_m = \frac{M}{M - 1} \frac{\sum_j d_j - d_m}{\sum_j d_j}\\), in [0, 2], of mean 1.

    d_m is the relative fall of the exponential mean of a modality's error in this step, at least `floor`: the raw
    change of a batch's accuracy, as in the released code, has the wrong sign in half of all steps. The released code
    also turns the fusion's gradient towards the modalities' own, which is left out here, and multiplies by a factor
    rho, which the learning rate can do.

    Args:
        momentum: Momentum of the exponential mean.
        floor: Smallest d_m, above 0.

    Raises:
        ValueError: An option is out of its range.
    """

    momentum: float = 0.9
    floor: float = 1e-3
    errors: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_in_range("momentum", self.momentum, 0, 1)
        check_in_range("floor", self.floor, 1e-6, 1)

    def __call__(self, statistics: StepStatistics) -> Tensor:
        """See [`CoefficientRule.__call__`]."""
        before, self.errors = self.errors, exponential_mean(self.errors, statistics.errors, self.momentum)
        if before is None:
            return torch.ones_like(self.errors)
        before = before.to(self.errors.device)
        known = (before - self.errors).isfinite() & ~statistics.absent
        falls = torch.where(known, (1 - (self.errors + EPS) / (before + EPS)).clamp(min=0) + self.floor, 0)
        number, total = known.sum(), falls.sum()
        coefficients = (number / (number - 1) * (total - falls) / total).clamp(0, 2)
        return torch.where(known & (number > 1), coefficients, 1.0)


__all__ = ["CGGM"]
