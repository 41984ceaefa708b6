"""Rules that turn the statistics of an optimizer step into gradient coefficients: pure functions, one a method.

A rule works on stacked tensors (M,), one entry per modality, on their device and without a host sync. A modality whose
error is not finite, because no sample of the step has it, takes no part in the comparison.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .config import ModulationConfig


EPS = 1e-8


@torch.no_grad()
def modulation_coefficients(
    errors: dict[str, Tensor],
    grad_norms: dict[str, Tensor] | None = None,
    *,
    alpha: float = ModulationConfig.alpha,
    penalty_factor: float = ModulationConfig.penalty_factor,
    modulate: bool = ModulationConfig.modulate,
    penalize: bool = ModulationConfig.penalize,
    eps: float = EPS,
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
        eps: Keeps the divisions finite.

    Returns:
        One finite coefficient in [0, 1] per modality, 0-dim tensors.

    Raises:
        ValueError: If `penalize` is set without `grad_norms`, the two name different modalities, or `alpha` or
            `penalty_factor` is out of range.
    """
    # the checks are those of the config
    ModulationConfig(modulate=modulate, penalize=penalize, enhance=False, alpha=alpha, penalty_factor=penalty_factor)
    if not penalize:
        grad_norms = None
    elif grad_norms is None:
        raise ValueError("penalize=True needs grad_norms: a conflict is a larger gradient norm beside a smaller error")
    elif grad_norms.keys() != errors.keys():
        raise ValueError(f"grad_norms name {sorted(grad_norms)} but errors name {sorted(errors)}")
    if not errors:
        return {}
    stacked = stack_scalars(errors.values())
    coefficients = damping(stacked, alpha, eps) if modulate else torch.ones_like(stacked)
    if grad_norms is not None:
        norms = stack_scalars((grad_norms[name] for name in errors), like=stacked)
        coefficients = coefficients * penalty(stacked, norms, penalty_factor)
    return dict(zip(errors, coefficients.unbind(), strict=True))


def damping(errors: Tensor, alpha: float, eps: float = EPS) -> Tensor:
    """Eq. 5: damps each modality whose score is above the mean of the others' scores.

    Args:
        errors: (M,), mean absolute errors.
        alpha: Strength of the damping.
        eps: Keeps the divisions finite.

    Returns:
        (M,), 1 for a modality that is not damped.
    """
    scores = 1 / (errors + eps)
    mean_of_others, is_above = _compare_with_others(scores, errors.isfinite())
    return torch.where(is_above, 1 - torch.tanh(alpha * scores / (mean_of_others + eps)), 1.0)


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
    _, has_larger_norm = _compare_with_others(grad_norms, comparable)
    lowest_other_error = torch.where(_others(comparable), errors, math.inf).amin(1)
    return comparable & has_larger_norm & (errors < lowest_other_error)


def stack_scalars(values: Iterable[int | Tensor], like: Tensor | None = None) -> Tensor:
    """Stacks scalars in at least float32 on one device, that of `like` or else of the first tensor."""
    values = list(values)
    device = next(value.device for value in (like, *values) if isinstance(value, Tensor))
    # `torch.full` fills on the device, where `torch.tensor` would copy from the host and wait
    tensors = [value if isinstance(value, Tensor) else torch.full((), value, device=device) for value in values]
    return torch.stack([tensor.to(device, torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors])


def _compare_with_others(values: Tensor, comparable: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the comparable others' values, and whether a modality's value is strictly above it, each (M,)."""
    others = _others(comparable)
    mean = torch.where(others, values, 0).sum(1) / others.sum(1)
    # as a sum of differences, for the mean of equal values may be rounded away from them
    is_above = torch.where(others, values[:, None] - values, 0).sum(1) > 0
    return mean, is_above


def _others(comparable: Tensor) -> Tensor:
    """(M, M) bool: which modalities (columns) each modality (row) is compared with."""
    return comparable & ~torch.eye(len(comparable), dtype=torch.bool, device=comparable.device)


__all__ = ["damping", "in_conflict", "modulation_coefficients", "penalty", "stack_scalars"]
