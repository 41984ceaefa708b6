"""Means: from the tokens of a sequence to one vector per sample, and over samples to one loss."""

from collections.abc import Callable

import torch
from torch import Tensor


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` with 0 where `mask` is False; NaN there changes neither the value nor the gradient."""
    return torch.where(mask, values, 0.0)


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens where `mask` is set; 0 for a sample without any.

    Args:
        values: (B, L) or (B, L, d).
        mask: (B, L), bool or 0 / 1.

    Returns:
        (B,) or (B, d).
    """
    mask = mask.bool().view(*mask.shape, *[1] * (values.dim() - 2))
    return masked(values, mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def sample_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean (scalar) of a loss over samples; 0 where the weights of all are 0.

    Args:
        values: (B,).
        weights: (B,), at least 0, what each sample counts by. Default: all count alike.
    """
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def first_token(values: Tensor, mask: Tensor) -> Tensor:
    """The sequence's first token, whatever the mask says of it; arguments as [`token_mean`]."""
    return values[:, 0]


# By the name that the config's `pooling` gives it.
POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": token_mean, "cls": first_token}

__all__ = ["POOLINGS", "first_token", "masked", "sample_mean", "token_mean"]
