"""OGM and OGM-GE: damps a modality by the ratio of its score to each other's (Peng et al., CVPR 2022)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .contract import EPS, CoefficientRule, StepStatistics, check_in_range, others


# How good a modality is, by the name that the option `score` gives it.
SCORES = ("likelihood", "inverse_error")


@dataclass(kw_only=True)
class OGM(CoefficientRule):
    r"""On-the-fly gradient modulation: \\(c_m = 1 - \tanh(alpha \, rho_m)\\) where \\(rho_m > 1\\), else 1.

    \\(rho_m\\) is the mean over the other modalities of the ratio of the scores (of several modalities: Wei et al.,
    TPAMI 2024). With two modalities and `score="inverse_error"` it is eq. 5 of arXiv:2605.28575. With gradient
    enhancement it is OGM-GE.

    Args:
        alpha: Strength of the damping, at least 0; published runs take 0.1 to 1.
        score: `likelihood` (the mean of exp(-error / tau), or of the probability of the true class) or
            `inverse_error`.

    Raises:
        ValueError: An option is out of its range.
    """

    enhances: ClassVar[bool] = True

    alpha: float = 1.0
    score: str = SCORES[0]

    def __post_init__(self) -> None:
        check_in_range("alpha", self.alpha, 0, 1e6)
        if self.score not in SCORES:
            raise ValueError(f"score={self.score!r} must be one of {', '.join(SCORES)}")

    @property
    def needs(self) -> frozenset[str]:
        """See [`CoefficientRule.needs`]."""
        return frozenset({"scores"}) if self.score == "likelihood" else frozenset()

    def __call__(self, statistics: StepStatistics) -> Tensor:
        """See [`CoefficientRule.__call__`]."""
        likelihood = self.score == "likelihood"
        ratios = mean_ratios(statistics.required("scores") if likelihood else 1 / (statistics.errors + EPS))
        return torch.where(ratios > 1, self.damp(ratios), 1.0)

    def damp(self, ratios: Tensor) -> Tensor:
        """The coefficients of modalities with these ratios above 1, (M,)."""
        return 1 - torch.tanh(self.alpha * ratios)


@dataclass(kw_only=True)
class OGMTanh(OGM):
    r"""The form that a re-implementation reads in TPAMI 2024: \\(c_m = \max(1 - alpha \tanh(rho_m - 1), 0)\\).

    It is continuous where two modalities are equally good, which [`OGM`] is not: at rho = 1.2 and alpha = 1 it gives
    0.803 where OGM gives 0.166.
    """

    def damp(self, ratios: Tensor) -> Tensor:
        """See [`OGM.damp`]."""
        return (1 - self.alpha * torch.tanh(ratios - 1)).clamp(min=0)


def mean_ratios(scores: Tensor) -> Tensor:
    """Mean over the other modalities of s_m / s_j, (M,); NaN for a modality without a score or without another one."""
    comparable = scores.isfinite()
    compared = others(comparable)
    ratios = torch.where(compared, scores[:, None] / scores.clamp(min=EPS), 0).sum(1) / compared.sum(1)
    # a tie must not be damped because of rounding
    equal = torch.where(compared, scores[:, None] - scores, 0).sum(1) == 0
    return torch.where(comparable, torch.where(equal, 1.0, ratios), math.nan)


__all__ = ["OGM", "SCORES", "OGMTanh", "mean_ratios"]
