"""The losses: each a pure function, and `LOSSES`, the one list of what the objective (eq. 4) sums.

Every mean is over a sample's feature tokens first and over samples then, so that a batch cut into micro-batches gives
the same gradient. A sample without feature tokens contributes 0 and is counted.

A new loss is a function and a line in [`LOSSES`]. Its weight in the config and on the command line, its part in the
objective, its place in the logs and in the plots follow from that line.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .pooling_cpsl import masked, token_mean


# By the name that the config's `task_loss` gives it.
TASK_LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}

# A token whose features vary less has no shape to be compared; the least bandwidth of MMD, too.
SMALLEST_VARIANCE = 1e-6
EPS = 1e-12

# A Gaussian kernel is the mean of cos(t (x - y) / h) over t ~ N(0, 1): here by Gauss-Hermite quadrature with 16 nodes,
# of which t and -t count as one.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
FREQUENCIES = _NODES[8:].tolist()
FREQUENCY_WEIGHTS = (2 * _WEIGHTS[8:] / _WEIGHTS.sum()).tolist()


class ModalityState(NamedTuple):
    """What losses may read of one non-text modality, in float32.

    Attributes:
        features: (B, L, d_m), the normalised input.
        mask: (B, L) bool, True at the feature tokens of samples that have the modality.
        mean: (B, L, d_z), the latent mean mu_m.
        variance: (B, L, d_z), the latent variance; (B, L, 1) without AME.
        latents: (B, L, d_z), Z_m.
        reconstruction: (B, L, d_m), the decoder's output.
    """

    features: Tensor
    mask: Tensor
    mean: Tensor
    variance: Tensor
    latents: Tensor
    reconstruction: Tensor


class LossInputs(NamedTuple):
    """What a loss may read of a batch, in float32.

    Attributes:
        config: The model's configuration.
        labels: (B,).
        logits: (B,), the predictions.
        unimodal_logits: (B,) by modality, the predictions from that modality alone.
        presence: (B,) bool by modality.
        modalities: The non-text modalities by name.
        newest_logits: (B,) by modality, what the head that was added last adds to the prediction from that modality
            alone; empty where each has one head only.
        has_several_heads: 0-dim bool by modality, whether it has more than one by now; as `newest_logits`.
        weights: (B,), what each sample counts by; None where all count alike.
    """

    config: PreTrainedConfig
    labels: Tensor
    logits: Tensor
    unimodal_logits: dict[str, Tensor]
    presence: dict[str, Tensor]
    modalities: dict[str, ModalityState]
    newest_logits: dict[str, Tensor] = {}
    has_several_heads: dict[str, Tensor] = {}
    weights: Tensor | None = None


def sample_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean (scalar) of a loss over samples; 0 where the weights of all are 0.

    Args:
        values: (B,).
        weights: (B,), at least 0, what each sample counts by. Default: all count alike.
    """
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def regression_loss(
    predictions: Tensor,
    labels: Tensor,
    kind: str = "mse",
    presence: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Regression loss over the samples of a batch.

    Args:
        predictions: (B,).
        labels: (B,).
        kind: A name of `TASK_LOSSES`: `mse`, `l1` or `smooth_l1`.
        presence: (B,) bool; a sample where it is False contributes 0 and is counted. Default: all present.
        weights: (B,), what each sample counts by. Default: all count alike.

    Returns:
        Scalar.
    """
    losses = TASK_LOSSES[kind](predictions, labels, reduction="none")
    return sample_mean(losses if presence is None else torch.where(presence, losses, 0.0), weights)


def unimodal_loss(
    unimodal_logits: dict[str, Tensor], labels: Tensor, presence: dict[str, Tensor], weights: Tensor | None = None
) -> Tensor:
    """L_uni: the sum of the unimodal heads' mean squared errors; a missing modality contributes 0 and is counted.

    Args:
        unimodal_logits: (B,) by modality.
        labels: (B,).
        presence: (B,) bool by modality.
        weights: (B,), what each sample counts by. Default: all count alike.

    Returns:
        Scalar.
    """
    losses = [
        regression_loss(head.float(), labels, "mse", presence[name], weights) for name, head in unimodal_logits.items()
    ]
    return torch.stack(losses).sum()


def boosting_loss(inputs: LossInputs) -> Tensor:
    """What boosted heads add to L_uni (AUG, arXiv:2502.20120, lambda = 1), over modalities that have several.

    The newest head learns what the former ones have left over, and these go on learning the label: with p the newest
    head's part and s the sum of the others', mean (p - r)^2 + mean (s - y)^2, r = y - s without gradient.

    Returns:
        Scalar, 0 as long as each modality has one head.
    """
    losses, weights = [inputs.logits.new_zeros(())], inputs.weights
    for name, newest in inputs.newest_logits.items():
        others = inputs.unimodal_logits[name] - newest
        # Of the first head alone, the sum of the others would be the constant 0.
        counts = inputs.presence[name] & inputs.has_several_heads[name]
        losses.append(regression_loss(newest, (inputs.labels - others).detach(), presence=counts, weights=weights))
        losses.append(regression_loss(others, inputs.labels, presence=counts, weights=weights))
    return torch.stack(losses).sum()


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


class LossTerm(NamedTuple):
    """What plots call a loss of another architecture than CPSL's own, and the unit that they write beside its axis."""

    title: str
    unit: str


class Loss(NamedTuple):
    """A term of the objective.

    Attributes:
        function: The loss of a batch, a scalar.
        title: What a plot calls it.
        unit: What a plot writes beside its axis.
        weight: The paper's weight (0 for a loss that it does not have), and the default of the config's
            `<name>_weight`; None for a term that always counts once and has no such field.
        applies: Whether a model with this config has the loss.
        source: Where the loss is from, for the help of its weight.
    """

    function: Callable[[LossInputs], Tensor]
    title: str
    unit: str
    weight: float | None
    applies: Callable[[PreTrainedConfig], bool] = lambda config: True
    source: str = "eq. 4"


TASK_TERM = LossTerm("task loss", "regression loss")


def _mean_over_modalities(loss: Callable[[ModalityState, LossInputs], Tensor]) -> Callable[[LossInputs], Tensor]:
    return lambda inputs: torch.stack([loss(modality, inputs) for modality in inputs.modalities.values()]).mean()


def _has_modalities(config: PreTrainedConfig) -> bool:
    return len(config.modality_sizes) > 0


LOSSES: dict[str, Loss] = {
    "task": Loss(
        lambda inputs: regression_loss(inputs.logits, inputs.labels, inputs.config.task_loss, weights=inputs.weights),
        *TASK_TERM,
        weight=None,
    ),
    "unimodal": Loss(
        lambda inputs: (
            unimodal_loss(inputs.unimodal_logits, inputs.labels, inputs.presence, inputs.weights)
            + boosting_loss(inputs)
        ),
        title="unimodal loss",
        unit="sum of mean squared errors",
        weight=0.5,
    ),
    "reconstruction": Loss(
        _mean_over_modalities(
            lambda m, inputs: reconstruction_loss(m.reconstruction, m.features, m.mask, inputs.weights)
        ),
        title="reconstruction loss",
        unit="mean squared error",
        weight=1.0,
        applies=_has_modalities,
    ),
    "diversity": Loss(
        _mean_over_modalities(lambda m, inputs: diversity_loss(m.variance, m.mask, inputs.weights)),
        title="diversity loss",
        unit="nats",
        weight=0.1,
        applies=_has_modalities,
    ),
    "statistical": Loss(
        _mean_over_modalities(
            lambda m, inputs: statistical_loss(
                m.mean, m.variance, m.features, m.mask, inputs.config.sl_kind, inputs.weights
            )
        ),
        title="statistical loss",
        unit="mean squared error",
        weight=0.1,
        applies=lambda config: config.sl and _has_modalities(config),
    ),
    "kl": Loss(
        _mean_over_modalities(lambda m, inputs: kl_loss(m.mean, m.variance, m.mask, inputs.weights)),
        title="KL divergence",
        unit="nats",
        weight=0.0,
        applies=lambda config: config.kl_weight > 0 and config.ame and _has_modalities(config),
        source="of MIB, Mai et al., 2022; 0: left out, as without AME",
    ),
}


def loss_names(config: PreTrainedConfig) -> list[str]:
    """The losses of a model with this config, by the names that they have in [`CPSLOutput.losses`]."""
    return [name for name, loss in LOSSES.items() if loss.applies(config)]


def loss_weights(config: PreTrainedConfig) -> dict[str, float]:
    """The weights of the objective by loss, for those that have one: the config's fields `<name>_weight`."""
    return {name: getattr(config, f"{name}_weight") for name, loss in LOSSES.items() if loss.weight is not None}


def compute_losses(inputs: LossInputs) -> dict[str, Tensor]:
    """All losses of a batch before weighting, scalars by name."""
    return {name: LOSSES[name].function(inputs) for name in loss_names(inputs.config)}


def total_loss(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The objective, eq. 4: the weighted sum of the losses at hand; a loss without a weight counts once.

    Args:
        losses: Scalars by name, see [`compute_losses`].
        weights: Weights by the same names, see [`loss_weights`].

    Returns:
        Scalar.
    """
    return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()


__all__ = [
    "LOSSES",
    "STATISTICAL_DISTANCES",
    "TASK_LOSSES",
    "TASK_TERM",
    "Loss",
    "LossInputs",
    "LossTerm",
    "ModalityState",
    "boosting_loss",
    "compute_losses",
    "diversity_loss",
    "kl_loss",
    "loss_names",
    "loss_weights",
    "reconstruction_loss",
    "regression_loss",
    "sample_mean",
    "statistical_loss",
    "total_loss",
    "unimodal_loss",
]
