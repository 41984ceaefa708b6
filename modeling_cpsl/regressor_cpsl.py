"""Everything above the text encoder: modality encoders, fusion, injection, heads and losses (eq. 1-4)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_cpsl import CPSLConfig
from .encoding_cpsl import (
    INITIAL_VARIANCE_BIAS,
    AdaptiveModalityEncoder,
    FeatureNormalizer,
    ModalityDecoder,
    UnimodalHead,
)
from .fusion_cpsl import FUSION_BLOCKS, ResidualInjection
from .losses_cpsl import LossInputs, ModalityState, compute_losses, loss_weights, total_loss
from .pooling_cpsl import POOLINGS, token_mean


@dataclass
class CPSLOutput(ModelOutput):
    """The output of a CPSL model. M stands for the modalities by name, including `text` if the model reads it.

    Args:
        loss: Scalar, the objective of eq. 4; given with `labels`.
        logits: (B,), the predicted sentiment.
        logits_std: (B,), its standard deviation over latent draws; given with `num_samples > 1`.
        losses: The parts of `loss` before weighting, scalars by the names of `LOSSES`; given with `labels`.
        unimodal_logits: M -> (B,), the sentiment predicted from that modality alone.
        modality_errors: M -> (B,), |unimodal logit - label|, 0 where the modality is missing; given with `labels`.
        modality_presence: M -> (B,) bool, whether the sample has that modality.
        fusion_weights: Non-text modalities -> (B,), the fusion block's mean weight over feature tokens; None for a
            model of text alone.
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
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class EncodedModality(NamedTuple):
    """A non-text modality on its way to the fusion.

    Attributes:
        features: (B, L, d_m), normalised.
        mask: (B, L) bool, True at the feature tokens of samples that have the modality.
        mean: (B, L, d_z), the latent mean.
        variance: (B, L, d_z), the latent variance; (B, L, 1) without AME.
        latents: (B, L, d_z), Z_m.
    """

    features: Tensor
    mask: Tensor
    mean: Tensor
    variance: Tensor
    latents: Tensor


class MultimodalRegressor(nn.Module):
    """Regresses the sentiment on a text encoder's states and the features of other modalities, for any backbone.

    Args:
        config: The model's configuration, of this or another text encoder with [`CPSLConfigMixin`].
    """

    def __init__(self, config: CPSLConfig):
        super().__init__()
        self.config = config
        self.loss_weights = loss_weights(config)
        sizes, hidden_size = config.modality_sizes, config.hidden_size
        self.normalizers = nn.ModuleDict({name: FeatureNormalizer(config.feature_normalization) for name in sizes})
        self.encoders = nn.ModuleDict(
            {
                name: AdaptiveModalityEncoder(
                    size, config.modality_hidden_size, config.latent_size, config.encoder_dropout, config.ame
                )
                for name, size in sizes.items()
            }
        )
        self.decoders = nn.ModuleDict(
            {
                name: ModalityDecoder(config.latent_size, config.modality_hidden_size, size)
                for name, size in sizes.items()
            }
        )
        head_sizes = {"text": hidden_size} if config.use_text else {}
        head_sizes |= dict.fromkeys(sizes, config.latent_size)
        self.unimodal_heads = nn.ModuleDict(
            {name: UnimodalHead(size, config.classifier_dropout) for name, size in head_sizes.items()}
        )
        if sizes:
            self.fusion = FUSION_BLOCKS[config.fusion](list(sizes), config.latent_size, config.fusion_size)
            self.injection = ResidualInjection(config.fusion_size, hidden_size, config.residual_weight)
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(hidden_size, 1)

    def forward(
        self,
        hidden: Tensor | None,
        features: dict[str, Tensor],
        feature_mask: Tensor,
        labels: Tensor | None = None,
        modality_mask: dict[str, Tensor] | None = None,
        feature_bounds: dict[str, Tensor] | None = None,
        latent_noise: dict[str, Tensor] | None = None,
        num_samples: int = 1,
    ) -> CPSLOutput:
        """Fuses the text encoder's states with the other modalities and predicts the sentiment.

        Args:
            hidden: (B, L, d_t), T; None where there is no text.
            features: (B, L, d_m) by name; a modality that is not given is missing in all samples.
            feature_mask: (B, L), 1 at feature tokens.
            labels: (B,) or (B, 1); with them the losses are computed.
            modality_mask: (B,) bool by name, True where the sample has the modality. Default: in all, if given.
            feature_bounds: (2,) by name, see [`FeatureNormalizer`].
            latent_noise: (B, L, d_z) by name, the noise of AME in training. Default: fresh noise.
            num_samples: Number of latent draws to average in evaluation.

        Raises:
            ValueError: A modality is unknown, a shape does not fit, or latents are to be averaged in training.
        """
        mask = feature_mask.bool()
        presence = self._presence(hidden, features, mask, modality_mask or {})
        hidden = self._text_states(hidden, mask, modality_mask or {})
        modalities = self._encode(features, presence, mask, feature_bounds or {}, latent_noise or {})
        latents = {name: modality.latents for name, modality in modalities.items()}

        logits, weights = self._regress(hidden, latents, presence, mask)
        values: dict[str, Any] = {
            "logits": logits,
            "unimodal_logits": self._unimodal_logits(hidden, mask, modalities),
            "modality_presence": presence,
            "fusion_weights": {name: token_mean(weights[..., index], mask) for index, name in enumerate(modalities)},
        }
        if num_samples > 1:
            draws = self._draw_logits(hidden, modalities, presence, mask, num_samples)
            values |= {"logits": draws.mean(dim=0), "logits_std": draws.std(dim=0)}
        if labels is not None:
            labels = _label_vector(labels, logits)
            inputs = self._loss_inputs(values["logits"], values["unimodal_logits"], labels, presence, modalities)
            losses = compute_losses(inputs)
            values |= {"loss": total_loss(losses, self.loss_weights), "losses": losses}
            values["modality_errors"] = _modality_errors(values["unimodal_logits"], labels, presence)
        return CPSLOutput(**{name: _output_field(value) for name, value in values.items()})

    @torch.no_grad()
    def initialize_module(self, module: nn.Module) -> None:
        """Initialises a module of this part where the text encoder's own initialisation would not suit it."""
        if isinstance(module, FeatureNormalizer):
            module.reset_buffers()
        elif isinstance(module, nn.Linear) and module in self._feature_layers():
            # The text encoder's initializer_range suits its width; few features would give an almost zero signal.
            init.xavier_uniform_(module.weight)
            if module in {encoder.variance_head for encoder in self.encoders.values()}:
                init.constant_(module.bias, INITIAL_VARIANCE_BIAS)

    def update_feature_bounds(self, bounds: dict[str, Tensor]) -> None:
        """Tracks bounds (2,) by modality that were pooled over a step's micro-batches and given to each `forward`."""
        for name, modality_bounds in bounds.items():
            self.normalizers[name].update(modality_bounds, self._is_frozen(name))

    def forget_bounds(self, new_tensors: set[str]) -> None:
        """Forgets the bounds of each modality whose encoder is among these names of tensors, since it is a new one."""
        for name, normalizer in self.normalizers.items():
            if any(tensor.endswith(f"multimodal.encoders.{name}.trunk.0.weight") for tensor in new_tensors):
                normalizer.load_state_dict(FeatureNormalizer(normalizer.mode).state_dict())

    def _is_frozen(self, name: str) -> bool:
        """Whether a modality's encoder has frozen weights, be it whole or under an adapter."""
        return not all(parameter.requires_grad for parameter in self.encoders[name].parameters())

    def _feature_layers(self) -> set[nn.Module]:
        """The modules between the features and the injection, which do not have the text encoder's width."""
        parts = [self.encoders, self.decoders, *([self.fusion] if len(self.encoders) else [])]
        return {module for part in parts for module in part.modules()}

    def _presence(
        self, hidden: Tensor | None, features: dict[str, Tensor], mask: Tensor, modality_mask: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Which samples have which modality, (B,) bool by name; refuses unknown modalities and wrong shapes."""
        unknown = (features.keys() | modality_mask.keys()) - self.unimodal_heads.keys()
        if unknown:
            raise ValueError(
                f"modality {', '.join(sorted(unknown))} is not one of the model's: {', '.join(self.unimodal_heads)}"
            )
        presence = {}
        for name in self.unimodal_heads:
            given = hidden is not None if name == "text" else name in features
            if given and name != "text":
                self._check_features(name, features[name], mask)
            presence[name] = torch.full_like(mask[:, 0], given)
            if name in modality_mask:
                presence[name] = presence[name] & modality_mask[name].bool()
        return presence

    def _check_features(self, name: str, features: Tensor, mask: Tensor) -> None:
        expected = (*mask.shape, self.config.modality_sizes[name])
        if tuple(features.shape) != expected:
            raise ValueError(
                f"{name} features have shape {tuple(features.shape)}, the model expects {expected} "
                "(batch, tokens, feature size); align them with CPSLProcessor or set modality_sizes"
            )

    def _text_states(self, hidden: Tensor | None, mask: Tensor, modality_mask: dict[str, Tensor]) -> Tensor:
        """T (B, L, d_t), 0 in samples without text."""
        if hidden is None:
            dtype = self.norm.weight.dtype
            return torch.zeros(*mask.shape, self.config.hidden_size, dtype=dtype, device=mask.device)
        return hidden * modality_mask["text"].bool()[:, None, None] if "text" in modality_mask else hidden

    def _encode(
        self,
        features: dict[str, Tensor],
        presence: dict[str, Tensor],
        mask: Tensor,
        bounds: dict[str, Tensor],
        noise: dict[str, Tensor],
    ) -> dict[str, EncodedModality]:
        """Normalises and encodes each non-text modality (eq. 1); latents are drawn in training only."""
        encoded = {}
        for name, encoder in self.encoders.items():
            if name in features:
                values = features[name]
            else:
                values = torch.zeros(*mask.shape, self.config.modality_sizes[name], device=mask.device)
            present_tokens = mask & presence[name][:, None]
            normalized = self.normalizers[name](values, present_tokens, bounds.get(name), self._is_frozen(name))
            mean, variance = encoder(normalized.to(self.norm.weight.dtype))
            latents = encoder.sample(mean, variance, noise.get(name)) if self.training else mean
            encoded[name] = EncodedModality(normalized, present_tokens, mean, variance, latents)
        return encoded

    def _regress(
        self, hidden: Tensor, latents: dict[str, Tensor], presence: dict[str, Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fusion, injection and task head: logits (B,) and fusion weights (B, L, number of non-text modalities)."""
        weights = hidden.new_zeros(*mask.shape, len(latents))
        if latents:
            fused, weights = self.fusion(latents, presence)
            anything = torch.stack([presence[name] for name in latents]).any(dim=0)
            hidden = self.injection(hidden, fused, mask & anything[:, None])
        pooled = self._pool(self.dropout(self.norm(hidden)), mask)
        pooled = self.classifier_dropout(torch.tanh(self.dense(pooled)))
        return self.out_proj(pooled).squeeze(-1), weights

    def _pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        return POOLINGS[self.config.pooling](sequence, mask)

    def _unimodal_logits(
        self, hidden: Tensor, mask: Tensor, modalities: dict[str, EncodedModality]
    ) -> dict[str, Tensor]:
        """The sentiment (B,) predicted from each modality alone."""
        pooled = {"text": self._pool(hidden, mask)} if self.config.use_text else {}
        pooled |= {name: token_mean(modality.latents, modality.mask) for name, modality in modalities.items()}
        return {name: head(pooled[name]).squeeze(-1) for name, head in self.unimodal_heads.items()}

    def _draw_logits(
        self,
        hidden: Tensor,
        modalities: dict[str, EncodedModality],
        presence: dict[str, Tensor],
        mask: Tensor,
        num_samples: int,
    ) -> Tensor:
        """Logits (num_samples, B), each with latents drawn anew."""
        if self.training:
            raise ValueError("num_samples > 1 averages latent draws at inference; call model.eval() first")
        draws = []
        for _ in range(num_samples):
            latents = {
                name: self.encoders[name].sample(modality.mean, modality.variance)
                for name, modality in modalities.items()
            }
            draws.append(self._regress(hidden, latents, presence, mask)[0])
        return torch.stack(draws)

    def _loss_inputs(
        self,
        logits: Tensor,
        unimodal_logits: dict[str, Tensor],
        labels: Tensor,
        presence: dict[str, Tensor],
        modalities: dict[str, EncodedModality],
    ) -> LossInputs:
        states = {}
        for name, modality in modalities.items():
            states[name] = ModalityState(
                features=modality.features,
                mask=modality.mask,
                mean=modality.mean.float(),
                variance=modality.variance.float(),
                latents=modality.latents.float(),
                reconstruction=self.decoders[name](modality.latents).float(),
            )
        return LossInputs(
            config=self.config,
            labels=labels,
            logits=logits.float(),
            unimodal_logits={name: prediction.float() for name, prediction in unimodal_logits.items()},
            presence=presence,
            modalities=states,
        )


def _output_field(value: Any) -> Any:
    """A dict of an output as transformers' pipelines can cut it into samples; None for an empty one."""
    return (ModelOutput(value) if value else None) if isinstance(value, dict) else value


def _label_vector(labels: Tensor, logits: Tensor) -> Tensor:
    """(B,) float32 labels from (B,) or (B, 1); other shapes would broadcast against other samples' logits."""
    if labels.shape == (*logits.shape, 1):
        labels = labels.squeeze(-1)
    if labels.shape != logits.shape:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected {tuple(logits.shape)}, one per sample")
    return labels.float()


def _modality_errors(
    unimodal_logits: dict[str, Tensor], labels: Tensor, presence: dict[str, Tensor]
) -> dict[str, Tensor]:
    """|unimodal logit - label| (B,) by modality, 0 where the modality is missing."""
    return {
        name: torch.where(presence[name], (prediction.detach().float() - labels).abs(), 0.0)
        for name, prediction in unimodal_logits.items()
    }


__all__ = ["CPSLOutput", "EncodedModality", "MultimodalRegressor"]
