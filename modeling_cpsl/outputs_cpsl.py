"""What an architecture is given, what it makes of that, and what a model returns."""

from dataclasses import dataclass, field

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class CPSLOutput(ModelOutput):
    """The output of a CPSL model. M stands for the modalities by name, including `text` if the model reads it.

    Args:
        loss: Scalar, the objective (of CPSL's own architecture: eq. 4); given with `labels`.
        logits: (B,), the predicted sentiment or other number, in evaluation re-weighted if the config has
            `decision_weights`; (B, K) for K classes or several numbers.
        logits_std: As `logits`, their standard deviation over latent draws; given with `num_samples > 1`.
        losses: The parts of `loss` before weighting, scalars by name; given with `labels`.
        unimodal_logits: M -> as `logits`, predicted from that modality alone; None where the architecture has
            no such predictions.
        modality_errors: M -> (B,), for numbers |unimodal logit - label|, for classes 1 - p of the label; 0 where the
            modality is missing; given with `labels`. None in training while the architecture does not train those
            predictions.
        modality_presence: M -> (B,) bool, whether the sample has that modality.
        fusion_weights: Non-text modalities -> (B,), the fusion block's mean weight over feature tokens; None where the
            architecture has no such weights.
        sample_values: (B, width) by name, what a trainer is to remember of the samples, see [`sample_columns`]; None
            without `labels`, and where the architecture has nothing to be remembered.
        hidden_states: The text encoder's, with `output_hidden_states=True`.
        attentions: The text encoder's, with `output_attentions=True`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    logits_std: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    unimodal_logits: dict[str, Tensor] | None = None
    modality_errors: dict[str, Tensor] | None = None
    modality_presence: dict[str, Tensor] | None = None
    fusion_weights: dict[str, Tensor] | None = None
    sample_values: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class RegressorInputs:
    """What an architecture is given, checked.

    Attributes:
        hidden: (B, L, d_t), T; 0 in samples without text.
        features: (B, L, d_m) by non-text modality, as they were given; a modality that is not given is left out.
        mask: (B, L) bool, True at feature tokens.
        word_starts: (B, L) bool, True at the first feature token of each word, for what reads one row a word.
        presence: (B,) bool by modality, `text` first if the model reads it.
        strengths: (B,) by modality, by how much of it a sample is to be fused, from 0 to 1; those not named wholly.
        labels: (B,) float32, None where there are none.
        bounds: (2,) by modality, see [`FeatureNormalizer`].
        noise: Standard normal noise for latents in training, by the names and shapes of `latent_noise_shapes`.
        sample_values: (B, width) by [`sample_columns`], what a trainer remembers of the samples; empty for nothing.
        weights: (B,), what each sample counts by in the losses; None where all count alike.
        num_samples: Number of latent draws to average in evaluation.
    """

    hidden: Tensor
    features: dict[str, Tensor]
    mask: Tensor
    word_starts: Tensor
    presence: dict[str, Tensor]
    strengths: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    bounds: dict[str, Tensor] = field(default_factory=dict)
    noise: dict[str, Tensor] = field(default_factory=dict)
    sample_values: dict[str, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None
    num_samples: int = 1

    def weakened(self, name: str, values: Tensor) -> Tensor:
        """What is fused of a modality's values (B, ...): each sample's times its strength."""
        if name not in self.strengths:
            return values
        return values * self.strengths[name].to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))


@dataclass
class Regression:
    """What an architecture makes of its inputs; the fields are those of [`CPSLOutput`].

    Attributes:
        logits: (B,).
        unimodal_logits: (B,) by modality, empty for an architecture without predictions from one modality alone.
        losses: With labels, scalars by `loss_names`; their sum with `loss_weights` is the objective.
        fusion_weights: (B,) by non-text modality, empty for an architecture without.
        sample_values: With labels, (B, width) for those of [`sample_columns`] that a step writes.
        logits_std: (B,), given with `num_samples > 1`.
    """

    logits: Tensor
    unimodal_logits: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    fusion_weights: dict[str, Tensor] = field(default_factory=dict)
    sample_values: dict[str, Tensor] = field(default_factory=dict)
    logits_std: Tensor | None = None


__all__ = ["CPSLOutput", "Regression", "RegressorInputs"]
