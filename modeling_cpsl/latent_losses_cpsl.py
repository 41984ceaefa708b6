"""The losses of a modality's latents: reconstruction, Statistical Loss (eq. 3) and its relatives, diversity, KL."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .pooling_cpsl import masked, sample_mean, token_mean


# A token whose features vary less has no shape to be compared; the least bandwidth of MMD, too.
SMALLEST_VARIANCE = 1e-6
EPS = 1e-12

# A Gaussian kernel is the mean of cos(t (x - y) / h) over t ~ N(0, 1): here by Gauss-Hermite quadrature with 16 nodes,
# of which t and -t count as one.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
FREQUENCIES = _NODES[8:].tolist()
FREQUENCY_WEIGHTS = (2 * _WEIGHTS[8:] / _WEIGHTS.sum()).tolist()


def reconstruction_loss(reconstruction: Tensor, target: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """One modality's part of L_recon: |X - X^|^2 as the mean over features, feature tokens and samples.

    The objective averages it over modalities, which for two is the paper's factor 1/2.

    Args:
        reconstruction: (B, L, d_m), the decoder's output.
        target: (B, L, d_m), the normalised input.
        mask: (B, L), 1 at feature tokens.
        weights: (B,), what each sample counts by. Default: all count alike.

    Returns:
        Scalar.
    """
    error = masked(reconstruction - target, mask.bool()[..., None])
    return sample_mean(token_mean(error.square().mean(dim=-1), mask), weights)


def mean_variance_distances(latent_mean: Tensor, latent_variance: Tensor, features: Tensor) -> Tensor:
    """(B, L): at each token, the squared errors of the latent mean and of the latent variance (eq. 3), added up."""
    mean_error = latent_mean.mean(dim=-1) - features.mean(dim=-1)
    variance_error = latent_variance.mean(dim=-1) - features.var(dim=-1, correction=0)
    return mean_error.square() + variance_error.square()


def moment_distances(latent_mean: Tensor, latent_variance: Tensor, features: Tensor) -> Tensor:
    """(B, L): those of [`mean_variance_distances`] and the squared errors of skewness and kurtosis.

    Both are scaled to be bounded: m_3 / sqrt(m_2 m_4) lies in [-1, 1], m_2^2 / m_4 in (0, 1], m_k the central moments.
    A token whose features hardly differ has neither.
    """
    own, target = _shape(latent_mean, _own_variance(latent_mean, latent_variance)), _shape(features, 0.0)
    has_shape = features.var(dim=-1, correction=0) > SMALLEST_VARIANCE
    shape_errors = torch.where(has_shape, (own - target).square().sum(dim=0), 0.0)
    return mean_variance_distances(latent_mean, latent_variance, features) + shape_errors


def kernel_distances(latent_mean: Tensor, latent_variance: Tensor, features: Tensor) -> Tensor:
    """(B, L): at each token, the squared maximum mean discrepancy (MMD) of latents and features.

    Both are distributions on a line: the features are their own values, and the latents a mixture of normal
    distributions, one a dimension. The kernel is exp(-(x - y)^2 / (2 h^2)), h^2 the mean squared difference between a
    latent and a feature, without gradient. MMD is then an integral over the distance of the characteristic functions,
    which [`FREQUENCIES`] and [`FREQUENCY_WEIGHTS`] evaluate at a cost linear in the number of dimensions.
    """
    variance = _own_variance(latent_mean, latent_variance)
    spread = latent_mean.var(dim=-1, correction=0) + variance.mean(dim=-1) + features.var(dim=-1, correction=0)
    bandwidth = (spread + (latent_mean.mean(dim=-1) - features.mean(dim=-1)).square()).detach() + SMALLEST_VARIANCE
    distances = torch.zeros_like(bandwidth)
    for frequency, weight in zip(FREQUENCIES, FREQUENCY_WEIGHTS, strict=True):
        scale = (frequency / bandwidth.sqrt())[..., None]
        damping = torch.exp(-0.5 * scale.square() * variance)
        for wave in (torch.cos, torch.sin):
            difference = (damping * wave(scale * latent_mean)).mean(dim=-1) - wave(scale * features).mean(dim=-1)
            distances = distances + weight * difference.square()
    return distances


def _own_variance(latent_mean: Tensor, latent_variance: Tensor) -> Tensor:
    """The variance of each latent dimension; 0 without AME, where the one variance of a token is that of its means."""
    return latent_variance if latent_variance.shape == latent_mean.shape else torch.zeros_like(latent_mean)


def _shape(mean: Tensor, variance: Tensor | float) -> Tensor:
    """(2, B, L), skewness and kurtosis as in [`moment_distances`], of an equal mixture of N(mean, variance)."""
    deviation = mean - mean.mean(dim=-1, keepdim=True)
    second = (deviation.square() + variance).mean(dim=-1)
    third = (deviation**3 + 3 * deviation * variance).mean(dim=-1)
    fourth = (deviation**4 + 6 * deviation.square() * variance + 3 * variance**2).mean(dim=-1)
    return torch.stack([third / (second * fourth + EPS).sqrt(), second.square() / (fourth + EPS)])


# By the name that the config's `sl_kind` gives it: how far a modality's latents are from its features at each token,
# (B, L), from the latent mean and variance and the features.
STATISTICAL_DISTANCES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mean_variance": mean_variance_distances,
    "moments": moment_distances,
    "mmd": kernel_distances,
}


def statistical_loss(
    latent_mean: Tensor,
    latent_variance: Tensor,
    features: Tensor,
    mask: Tensor,
    kind: str = "mean_variance",
    weights: Tensor | None = None,
) -> Tensor:
    """One modality's half of the Statistical Loss: 1/2 (MSE of means + MSE of variances), eq. 3, or another distance.

    The latent statistics are averaged along the latent dimension, the empirical ones are taken along the feature
    dimension (biased variance) and carry no gradient. The objective averages this over modalities, which for two is
    the paper's factor 1/4.

    Args:
        latent_mean: (B, L, d_z), mu_m.
        latent_variance: (B, L, d_z), or (B, L, 1) where each token has a single variance.
        features: (B, L, d_m), the normalised input.
        mask: (B, L), 1 at feature tokens.
        kind: A name of `STATISTICAL_DISTANCES`.
        weights: (B,), what each sample counts by. Default: all count alike.

    Returns:
        Scalar.
    """
    kept = mask.bool()[..., None]
    features, latent_mean, latent_variance = (
        masked(values, kept) for values in (features.detach(), latent_mean, latent_variance)
    )
    distances = STATISTICAL_DISTANCES[kind](latent_mean, latent_variance, features)
    return 0.5 * sample_mean(token_mean(distances, mask), weights)


def diversity_loss(latent_variance: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """One modality's L_div = -H: the negated entropy of the latent posterior, averaged over its dimensions.

    Args:
        latent_variance: (B, L, d_z) or (B, L, 1).
        mask: (B, L), 1 at feature tokens.
        weights: (B,), what each sample counts by. Default: all count alike.

    Returns:
        Scalar; its negative is logged as `feature_entropy`, in nats.
    """
    variance = masked(latent_variance, mask.bool()[..., None])
    entropy = 0.5 * torch.log(2 * math.pi * math.e * (variance + 1e-6))
    return -sample_mean(token_mean(entropy.mean(dim=-1), mask), weights)


def kl_loss(latent_mean: Tensor, latent_variance: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """One modality's KL divergence of the latent posterior from N(0, I), averaged over its dimensions.

    It is what the multimodal information bottleneck (Mai et al., 2022, *Multimodal Information Bottleneck: Learning
    Minimal Sufficient Unimodal and Multimodal Representations*) adds to each modality's code; CPSL has none.

    Args:
        latent_mean: (B, L, d_z), mu_m.
        latent_variance: (B, L, d_z).
        mask: (B, L), 1 at feature tokens.
        weights: (B,), what each sample counts by. Default: all count alike.

    Returns:
        Scalar.
    """
    kept = mask.bool()[..., None]
    mean, variance = masked(latent_mean, kept), masked(latent_variance, kept) + 1e-6
    divergence = 0.5 * (mean.square() + variance - 1 - torch.log(variance))
    return sample_mean(token_mean(divergence.mean(dim=-1), mask), weights)


__all__ = ["STATISTICAL_DISTANCES", "diversity_loss", "kl_loss", "reconstruction_loss", "statistical_loss"]
