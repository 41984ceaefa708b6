"""CPSL's own rule: gradient modulation (GM, eq. 5) and the conflict-aware penalty (CP, eq. 6), arXiv:2605.28575."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .contract import EPS, CoefficientRule, StepStatistics, compare_with_others, others, stack_scalars


@dataclass(kw_only=True)
class ConflictAware(CoefficientRule):
    """Damps a modality whose error is smaller than the others', and once more if its gradients are larger.

    Args:
        modulate: Gradient modulation (GM), eq. 5.
        penalize: Conflict-aware penalty (CP), eq. 6. Without `modulate` it starts from a coefficient of 1.
        alpha: Strength of the damping in eq. 5, at least 0.
        penalty_factor: Factor of the penalty (eta of eq. 6), between 0 and 1.

    Raises:
        ValueError: An option is out of its range.
    """

    enhances: ClassVar[bool] = True

    modulate: bool = True
    penalize: bool = True
    alpha: float = 1.0
    penalty_factor: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha={self.alpha} must be finite and at least 0")
        if not 0 < self.penalty_factor < 1:
            raise ValueError(f"penalty_factor={self.penalty_factor} must lie between 0 and 1, both excluded")

    @property
    def balances(self) -> bool:
        """Whether one of GM and CP is on."""
        return self.modulate or self.penalize

    def __call__(self, statistics: StepStatistics) -> Tensor:
        """See [`CoefficientRule.__call__`]."""
        errors = statistics.errors
        coefficients = damping(errors, self.alpha) if self.modulate else torch.ones_like(errors)
        if self.penalize:
            coefficients = coefficients * penalty(errors, statistics.grad_norms, self.penalty_factor)
        return coefficients


@torch.no_grad()
def modulation_coefficients(
    errors: dict[str, Tensor],
    grad_norms: dict[str, Tensor] | None = None,
    *,
    alpha: float = ConflictAware.alpha,
    penalty_factor: float = ConflictAware.penalty_factor,
    modulate: bool = ConflictAware.modulate,
    penalize: bool = ConflictAware.penalize,
) -> dict[str, Tensor]:
    r"""Gradient coefficients of eq. 5 (GM) and eq. 6 (CP) of arXiv:2605.28575.

    With the scores \\(s_m = 1 / (error_m + eps)\\), a modality whose score is above the mean of the others' gets
    \\(c_m = 1 - \tanh(alpha \, s_m / (mean\,of\,others + eps))\\), every other one gets 1. A modality in conflict,
    that is with a smaller error than every other and a larger gradient norm than the mean of the others, has its
    coefficient multiplied by `penalty_factor`. With two modalities this is the paper's pair; with fewer, and in a tie,
    the coefficient is 1. Computed on the device of the errors without a host sync.

    ```python
    errors = {"acoustic": torch.tensor(0.5), "visual": torch.tensor(1.0)}
    grad_norms = {"acoustic": torch.tensor(2.0), "visual": torch.tensor(1.0)}
    modulation_coefficients(errors, grad_norms)  # acoustic: (1 - tanh(2)) / 2 = 0.018, visual: 1
    ```

    Args:
        errors: Mean absolute error of each modality, 0-dim tensors. A modality whose error is not finite (no sample of
            the step has it) is left out of the comparison and gets 1.
        grad_norms: Average gradient norm of each modality's encoder, 0-dim tensors; needed by `penalize`.
        alpha: Strength of the damping, at least 0.
        penalty_factor: Factor of the penalty (the paper's eta), in (0, 1).
        modulate: Whether to apply eq. 5. Without it the coefficients start from 1.
        penalize: Whether to apply eq. 6.

    Returns:
        One finite coefficient in [0, 1] per modality, 0-dim tensors.

    Raises:
        ValueError: If `penalize` is set without `grad_norms`, the two name different modalities, or `alpha` or
            `penalty_factor` is out of range.
    """
    rule = ConflictAware(modulate=modulate, penalize=penalize, alpha=alpha, penalty_factor=penalty_factor)
    if not penalize:
        grad_norms = errors
    elif grad_norms is None:
        raise ValueError("penalize=True needs grad_norms: a conflict is a larger gradient norm beside a smaller error")
    elif grad_norms.keys() != errors.keys():
        raise ValueError(f"grad_norms name {sorted(grad_norms)} but errors name {sorted(errors)}")
    if not errors:
        return {}
    stacked = stack_scalars(errors.values())
    norms = stack_scalars((grad_norms[name] for name in errors), like=stacked)
    statistics = StepStatistics(scores=None, errors=stacked, grad_norms=norms, contributions=None, epoch=0.0)
    return dict(zip(errors, rule(statistics).unbind(), strict=True))


def damping(errors: Tensor, alpha: float) -> Tensor:
    """Eq. 5: damps each modality whose score is above the mean of the others' scores.

    Args:
        errors: (M,), mean absolute errors.
        alpha: Strength of the damping.

    Returns:
        (M,), 1 for a modality that is not damped.
    """
    scores = 1 / (errors + EPS)
    mean_of_others, is_above = compare_with_others(scores, errors.isfinite())
    return torch.where(is_above, 1 - torch.tanh(alpha * scores / (mean_of_others + EPS)), 1.0)


def penalty(errors: Tensor, grad_norms: Tensor, penalty_factor: float) -> Tensor:
    """Eq. 6: the factor on the coefficient of each modality, `penalty_factor` in a conflict and 1 elsewhere, (M,)."""
    return torch.where(in_conflict(errors, grad_norms), penalty_factor, torch.ones_like(errors))


def in_conflict(errors: Tensor, grad_norms: Tensor) -> Tensor:
    """The condition of eq. 6: a smaller error than every other modality, and a larger gradient norm than their mean.

    Args:
        errors: (M,), mean absolute errors.
        grad_norms: (M,), average gradient norms.

    Returns:
        (M,) bool, True for at most one modality.
    """
    comparable = errors.isfinite() & grad_norms.isfinite()
    _, has_larger_norm = compare_with_others(grad_norms, comparable)
    lowest_other_error = torch.where(others(comparable), errors, math.inf).amin(1)
    return comparable & has_larger_norm & (errors < lowest_other_error)


__all__ = ["ConflictAware", "damping", "in_conflict", "modulation_coefficients", "penalty"]
