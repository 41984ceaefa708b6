"""Pooling: from the tokens of a sequence to one vector per sample, and over samples to one loss."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import initialization as init


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


class AttentionPooling(nn.Module):
    """Attention over a sample's tokens with a learned query q: sum_l a_l h_l, a = softmax(q h) where the mask is set.

    The query is 0 at first, so that a training begins with the mean.

    Args:
        size: d, the width of the sequence.
    """

    def __init__(self, size: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(size))

    def reset_parameters(self) -> None:
        """Sets the query to 0."""
        init.zeros_(self.query)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """The weighted mean (B, d) of tokens, 0 for a sample without any; arguments as [`token_mean`]."""
        values = masked(values, mask.bool()[..., None])
        scores = (values @ self.query.to(values.dtype)).float()
        weights = scores.masked_fill(~mask.bool(), torch.finfo(scores.dtype).min).softmax(dim=1)
        return (weights.to(values.dtype)[:, None] @ values)[:, 0]


Pooling = Callable[[Tensor, Tensor], Tensor]

# By the name that the config's `pooling` gives it: the function or module for a sequence of a width.
POOLINGS: dict[str, Callable[[int], Pooling]] = {
    "mean": lambda size: token_mean,
    "cls": lambda size: first_token,
    "attention": AttentionPooling,
}

__all__ = ["POOLINGS", "AttentionPooling", "Pooling", "first_token", "masked", "sample_mean", "token_mean"]
