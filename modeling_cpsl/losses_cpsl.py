"""The losses: each a pure function, and `LOSSES`, the one list of what the objective (eq. 4) sums.

Every mean is over a sample's feature tokens first and over samples then, so that a batch cut into micro-batches gives
the same gradient; a concordance over a batch alone does not. A sample without feature tokens contributes 0 and is
counted.

A new loss is a function and a line in [`LOSSES`]. Its weight in the config and on the command line, its part in the
objective, its place in the logs and in the plots follow from that line.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from .latent_losses_cpsl import diversity_loss, kl_loss, reconstruction_loss, statistical_loss
from .pooling_cpsl import masked, sample_mean
from .task_cpsl import Task
from .tasks_cpsl import SENTIMENT


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
        labels: (B,), or (B, K) as the task says.
        logits: (B,) or (B, K), the predictions.
        unimodal_logits: As `logits` by modality, the predictions from that modality alone.
        presence: (B,) bool by modality.
        modalities: The non-text modalities by name.
        newest_logits: (B,) by modality, what the head that was added last adds to the prediction from that modality
            alone; empty where each has one head only.
        has_several_heads: 0-dim bool by modality, whether it has more than one by now; as `newest_logits`.
        weights: (B,), what each sample counts by; None where all count alike.
        task: What a label is.
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
    task: Task = SENTIMENT


def prediction_loss(
    predictions: Tensor,
    labels: Tensor,
    kind: str = "mse",
    presence: Tensor | None = None,
    weights: Tensor | None = None,
    task: Task = SENTIMENT,
) -> Tensor:
    """The loss of predictions over the samples of a batch.

    Args:
        predictions: (B,), or (B, K) as the task says.
        labels: As the task says.
        kind: A name of `TASK_LOSSES`: `mse`, `l1` or `smooth_l1`; for numbers.
        presence: (B,) bool; a sample where it is False contributes 0 and is counted. Default: all present.
        weights: (B,), what each sample counts by. Default: all count alike.
        task: What a label is.

    Returns:
        Scalar.
    """
    losses = task.losses(predictions, labels, kind)
    return sample_mean(losses if presence is None else torch.where(presence, losses, 0.0), weights)


def unimodal_loss(
    unimodal_logits: dict[str, Tensor],
    labels: Tensor,
    presence: dict[str, Tensor],
    weights: Tensor | None = None,
    task: Task = SENTIMENT,
) -> Tensor:
    """L_uni: the sum of the unimodal heads' losses, for numbers their mean squared errors.

    A missing modality contributes 0 and is counted.

    Args:
        unimodal_logits: (B,) by modality, or (B, K) as the task says.
        labels: As the task says.
        presence: (B,) bool by modality.
        weights: (B,), what each sample counts by. Default: all count alike.
        task: What a label is.

    Returns:
        Scalar.
    """
    losses = [
        prediction_loss(head.float(), labels, "mse", presence[name], weights, task)
        for name, head in unimodal_logits.items()
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
        losses.append(prediction_loss(newest, (inputs.labels - others).detach(), presence=counts, weights=weights))
        losses.append(prediction_loss(others, inputs.labels, presence=counts, weights=weights))
    return torch.stack(losses).sum()


def concordance_loss(predictions: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - CCC, Lin's concordance correlation of a batch's predictions and labels, the mean over several numbers.

    CCC = 2 cov / (var + var + (difference of means)^2), 0 where both are one constant. It is a statistic of the batch
    and depends on how a step is cut into batches.

    Args:
        predictions: (B,) or (B, K), float32.
        labels: As `predictions`.
        weights: (B,), at least 0, what each sample counts by in its moments. Default: all count alike.

    Returns:
        Scalar, 0 where fewer than `FEWEST_SAMPLES` samples count.
    """

    def mean(values: Tensor) -> Tensor:
        return sample_mean(values, weights)

    losses = []
    for x, y in zip(*(values.reshape(len(values), -1).unbind(dim=1) for values in (predictions, labels)), strict=True):
        from_x, from_y = x - mean(x), y - mean(y)
        scale = mean(from_x.square()) + mean(from_y.square()) + (mean(x) - mean(y)).square()
        losses.append(1 - 2 * mean(from_x * from_y) / scale.clamp(min=torch.finfo(scale.dtype).eps))
    counted = labels.new_ones(len(labels)) if weights is None else weights
    return masked(torch.stack(losses).mean(), (counted > 0).sum() >= FEWEST_SAMPLES)


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
        smallest_batch_size: The fewest samples for which it is computed; above 1 for a statistic of the batch.
    """

    function: Callable[[LossInputs], Tensor]
    title: str
    unit: str
    weight: float | None
    applies: Callable[[PreTrainedConfig], bool] = lambda config: True
    source: str = "eq. 4"
    smallest_batch_size: int = 1


# For a correlation over a batch; of fewer samples it is mostly chance.
FEWEST_SAMPLES = 4

TASK_TERM = LossTerm("task loss", "regression loss")


def _mean_over_modalities(loss: Callable[[ModalityState, LossInputs], Tensor]) -> Callable[[LossInputs], Tensor]:
    return lambda inputs: torch.stack([loss(modality, inputs) for modality in inputs.modalities.values()]).mean()


def _has_modalities(config: PreTrainedConfig) -> bool:
    return len(config.modality_sizes) > 0


LOSSES: dict[str, Loss] = {
    "task": Loss(
        lambda inputs: prediction_loss(
            inputs.logits, inputs.labels, inputs.config.task_loss, weights=inputs.weights, task=inputs.task
        ),
        *TASK_TERM,
        weight=None,
    ),
    "unimodal": Loss(
        lambda inputs: (
            unimodal_loss(inputs.unimodal_logits, inputs.labels, inputs.presence, inputs.weights, inputs.task)
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
    "concordance": Loss(
        lambda inputs: concordance_loss(inputs.logits, inputs.labels, inputs.weights),
        title="concordance loss",
        unit="1 - CCC",
        weight=0.0,
        applies=lambda config: config.concordance_weight > 0,
        source="1 - Lin's concordance correlation over a batch, for numbers; 0: left out",
        smallest_batch_size=FEWEST_SAMPLES,
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
    "FEWEST_SAMPLES",
    "LOSSES",
    "TASK_TERM",
    "Loss",
    "LossInputs",
    "LossTerm",
    "ModalityState",
    "boosting_loss",
    "compute_losses",
    "concordance_loss",
    "diversity_loss",
    "loss_names",
    "loss_weights",
    "prediction_loss",
    "reconstruction_loss",
    "statistical_loss",
    "total_loss",
    "unimodal_loss",
]
