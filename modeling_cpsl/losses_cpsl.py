"""The losses of METHOD 4-7 as pure functions.

Every mean is over a sample's feature tokens first and over samples then, so that a batch cut into micro-batches gives
the same gradient. A sample without feature tokens contributes 0 and is counted.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens where `mask` is set; 0 for a sample that has none.

    Args:
        values: (B, L) or (B, L, d).
        mask: (B, L), bool or 0 / 1.

    Returns:
        (B,) or (B, d).
    """
    mask = mask.bool().view(*mask.shape, *[1] * (values.dim() - 2))
    return _cleared(values, mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _cleared(values: Tensor, mask: Tensor) -> Tensor:
    """`values` with 0 where `mask` is not set, which holds for NaN too, in the value and in the gradient."""
    return torch.where(mask, values, 0.0)


def regression_loss(predictions: Tensor, labels: Tensor, kind: str = "mse", presence: Tensor | None = None) -> Tensor:
    """Regression loss over the samples of a batch (METHOD 4).

    Args:
        predictions: (B,).
        labels: (B,).
        kind: `mse`, `l1` or `smooth_l1`.
        presence: (B,) bool; a sample where it is False contributes 0 and is counted. Default: all present.

    Returns:
        Scalar.
    """
    function = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[kind]
    losses = function(predictions, labels, reduction="none")
    return losses.mean() if presence is None else torch.where(presence, losses, 0.0).mean()


def reconstruction_loss(reconstruction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """One modality's part of L_recon: |X - X^|^2 as the mean over features, feature tokens and samples (METHOD 4).

    The model averages it over modalities, which for two is the paper's factor 1/2.

    Args:
        reconstruction: (B, L, d_m), the decoder's output.
        target: (B, L, d_m), the normalised input.
        mask: (B, L), 1 at feature tokens.

    Returns:
        Scalar.
    """
    error = _cleared(reconstruction - target, mask.bool()[..., None])
    return token_mean(error.square().mean(dim=-1), mask).mean()


def statistical_loss(latent_mean: Tensor, latent_variance: Tensor, features: Tensor, mask: Tensor) -> Tensor:
    """One modality's half of the Statistical Loss: 1/2 (MSE of means + MSE of variances), eq. 3.

    The latent statistics are averaged along the latent dimension, the empirical ones are taken along the feature
    dimension (biased variance) and carry no gradient. The model averages this over modalities, which for two is the
    paper's factor 1/4.

    Args:
        latent_mean: (B, L, d_z), mu_m.
        latent_variance: (B, L, d_z), or (B, L, 1) where there is one variance a token.
        features: (B, L, d_m), the normalised input.
        mask: (B, L), 1 at feature tokens.

    Returns:
        Scalar.
    """
    there = mask.bool()[..., None]
    features, latent_mean, latent_variance = (
        _cleared(values, there) for values in (features.detach(), latent_mean, latent_variance)
    )
    mean_error = latent_mean.mean(dim=-1) - features.mean(dim=-1)
    variance_error = latent_variance.mean(dim=-1) - features.var(dim=-1, correction=0)
    return 0.5 * token_mean(mean_error.square() + variance_error.square(), mask).mean()


def diversity_loss(latent_variance: Tensor, mask: Tensor) -> Tensor:
    """One modality's L_div = -H: the negated entropy of the latent posterior per dimension (METHOD 6).

    Args:
        latent_variance: (B, L, d_z) or (B, L, 1).
        mask: (B, L), 1 at feature tokens.

    Returns:
        Scalar; its negative is logged as `feature_entropy`, in nats.
    """
    variance = _cleared(latent_variance, mask.bool()[..., None])
    entropy = 0.5 * torch.log(2 * math.pi * math.e * (variance + 1e-6))
    return -token_mean(entropy.mean(dim=-1), mask).mean()


def total_loss(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The objective, eq. 4: the weighted sum of the losses at hand; a loss without a weight counts once.

    Args:
        losses: Scalars by name (`task`, `reconstruction`, `unimodal`, `diversity`, `statistical`).
        weights: Weights by the same names.

    Returns:
        Scalar.
    """
    return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()


__all__ = [
    "diversity_loss",
    "reconstruction_loss",
    "regression_loss",
    "statistical_loss",
    "token_mean",
    "total_loss",
]
