"""CPSL: multimodal sentiment regression over a transformers text encoder (arXiv:2605.28575)."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertModel, BertPreTrainedModel, DebertaV2Model, MPNetModel, MPNetPreTrainedModel
from transformers import initialization as init
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_cpsl import CPSLBertConfig, CPSLConfig, CPSLMPNetConfig
from .encoding_cpsl import (
    INITIAL_VARIANCE_BIAS,
    AdaptiveModalityEncoder,
    FeatureNormalizer,
    ModalityDecoder,
    UnimodalHead,
)
from .features_cpsl import collect_features
from .fusion_cpsl import FUSION_BLOCKS, ResidualInjection
from .losses_cpsl import (
    diversity_loss,
    reconstruction_loss,
    regression_loss,
    statistical_loss,
    token_mean,
    total_loss,
)


@dataclass
class CPSLOutput(ModelOutput):
    """What a CPSL model returns. M stands for the modalities by name, `text` among them where it takes part.

    Args:
        loss: Scalar, the objective of eq. 4; given with `labels`.
        logits: (B,), the predicted sentiment.
        logits_std: (B,), its standard deviation over latent draws; given with `num_samples > 1`.
        losses: The parts of `loss` before weighting, scalars by name: `task`, `unimodal`, and with non-text
            modalities `reconstruction`, `diversity` and, with `config.sl`, `statistical`; given with `labels`.
        unimodal_logits: M -> (B,), the sentiment predicted from that modality alone.
        modality_errors: M -> (B,), |unimodal logit - label|, 0 where the modality is missing; given with `labels`.
        modality_presence: M -> (B,) bool, whether the sample has that modality.
        fusion_weights: Non-text modalities -> (B,), the fusion block's mean weight over feature tokens.
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


def default_feature_mask(attention_mask: Tensor) -> Tensor:
    """Feature tokens where a caller gives no mask: the attended tokens but each row's first and last, (B, L) bool."""
    attended = attention_mask.bool()
    from_left, from_right = attended.cumsum(dim=1), attended.flip(1).cumsum(dim=1).flip(1)
    return attended & (from_left > 1) & (from_right > 1)


def _label_vector(labels: Tensor, logits: Tensor) -> Tensor:
    """(B,) float32 labels from (B,) or (B, 1); other shapes would broadcast against other samples' logits."""
    if labels.shape == (*logits.shape, 1):
        labels = labels.squeeze(-1)
    if labels.shape != logits.shape:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected {tuple(logits.shape)}, one a sample")
    return labels.float()


class MultimodalRegressor(nn.Module):
    """All that stands above the text encoder (METHOD 1-7); the same for every backbone.

    Args:
        config: A configuration with the fields of `CPSLFields`.
    """

    def __init__(self, config: CPSLConfig):
        super().__init__()
        self.config = config
        self.loss_weights = {
            "reconstruction": config.reconstruction_weight,
            "unimodal": config.unimodal_weight,
            "diversity": config.diversity_weight,
            "statistical": config.statistical_weight,
        }
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
        """Fuses the text encoder's output with the other modalities; arguments as [`CPSLModelMixin.forward`].

        Args:
            hidden: (B, L, d_t), T; None where there is no text.
            features: (B, L, d_m) by name; a modality that is not there is missing in all samples.
            feature_mask: (B, L), 1 at feature tokens.
            labels: (B,) or (B, 1).
            modality_mask: (B,) bool by name.
            feature_bounds: (2,) by name.
            latent_noise: (B, L, d_z) by name.
            num_samples: Number of latent draws to average in evaluation.
        """
        mask = feature_mask.bool()
        presence = self._presence(hidden, features, mask, modality_mask or {})
        dtype = self.norm.weight.dtype
        if hidden is None:
            hidden = torch.zeros(*mask.shape, self.config.hidden_size, dtype=dtype, device=mask.device)
        elif modality_mask and "text" in modality_mask:
            hidden = hidden * presence["text"][:, None, None]

        masks = {name: mask & presence[name][:, None] for name in self.encoders}
        normalized, means, variances, latents = {}, {}, {}, {}
        for name, encoder in self.encoders.items():
            values = features[name] if name in features else self._no_features(name, mask)
            bounds = (feature_bounds or {}).get(name)
            normalized[name] = self.normalizers[name](values, masks[name], bounds)
            means[name], variances[name] = encoder(normalized[name].to(dtype))
            noise = (latent_noise or {}).get(name)
            latents[name] = encoder.sample(means[name], variances[name], noise) if self.training else means[name]

        logits, weights = self._regress(hidden, latents, presence, mask)
        pooled = {"text": self._pool(hidden, mask)} if self.config.use_text else {}
        pooled |= {name: token_mean(latent, masks[name]) for name, latent in latents.items()}
        unimodal_logits = {name: head(pooled[name]).squeeze(-1) for name, head in self.unimodal_heads.items()}
        values: dict[str, Any] = {
            "logits": logits,
            "unimodal_logits": unimodal_logits,
            "modality_presence": presence,
            "fusion_weights": {
                name: token_mean(weights[..., index], mask) for index, name in enumerate(self.encoders)
            },
        }
        if num_samples > 1:
            draws = self._draw(hidden, means, variances, presence, mask, num_samples)
            values |= {"logits": draws.mean(dim=0), "logits_std": draws.std(dim=0)}
        if labels is not None:
            labels = _label_vector(labels, logits)
            losses = self._regression_losses(values["logits"], unimodal_logits, presence, labels)
            losses |= self._distribution_losses(latents, means, variances, normalized, masks)
            values |= {"loss": total_loss(losses, self.loss_weights), "losses": losses}
            values["modality_errors"] = {
                name: torch.where(presence[name], (prediction.detach().float() - labels).abs(), 0.0)
                for name, prediction in unimodal_logits.items()
            }
        return CPSLOutput(**values)

    def feature_layers(self) -> set[nn.Module]:
        """The modules between the features and the injection, which do not have the text encoder's width."""
        parts = [self.encoders, self.decoders, *([self.fusion] if len(self.encoders) else [])]
        return {module for part in parts for module in part.modules()}

    def update_feature_bounds(self, bounds: dict[str, Tensor]) -> None:
        """Tracks bounds (2,) by modality that were pooled over a step's micro-batches and given to each `forward`."""
        for name, modality_bounds in bounds.items():
            self.normalizers[name].update(modality_bounds)

    def _presence(
        self, hidden: Tensor | None, features: dict[str, Tensor], mask: Tensor, modality_mask: dict[str, Tensor]
    ) -> dict[str, Tensor]:
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
            everywhere = torch.full_like(mask[:, 0], given)
            presence[name] = everywhere & modality_mask[name].bool() if name in modality_mask else everywhere
        return presence

    def _check_features(self, name: str, features: Tensor, mask: Tensor) -> None:
        expected = (*mask.shape, self.config.modality_sizes[name])
        if tuple(features.shape) != expected:
            raise ValueError(
                f"{name} features have shape {tuple(features.shape)}, the model expects {expected} "
                "(batch, tokens, feature size); align them with CPSLProcessor or set modality_sizes"
            )

    def _no_features(self, name: str, mask: Tensor) -> Tensor:
        return torch.zeros(*mask.shape, self.config.modality_sizes[name], device=mask.device)

    def _pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        return sequence[:, 0] if self.config.pooling == "cls" else token_mean(sequence, mask)

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

    def _draw(
        self,
        hidden: Tensor,
        means: dict[str, Tensor],
        variances: dict[str, Tensor],
        presence: dict[str, Tensor],
        mask: Tensor,
        num_samples: int,
    ) -> Tensor:
        if self.training:
            raise ValueError("num_samples > 1 averages latent draws at inference; call model.eval() first")
        draws = []
        for _ in range(num_samples):
            latents = {name: self.encoders[name].sample(means[name], variances[name]) for name in means}
            draws.append(self._regress(hidden, latents, presence, mask)[0])
        return torch.stack(draws)

    def _regression_losses(
        self, logits: Tensor, unimodal_logits: dict[str, Tensor], presence: dict[str, Tensor], labels: Tensor
    ) -> dict[str, Tensor]:
        unimodal = [
            regression_loss(prediction.float(), labels, presence=presence[name])
            for name, prediction in unimodal_logits.items()
        ]
        return {
            "task": regression_loss(logits.float(), labels, self.config.task_loss),
            "unimodal": torch.stack(unimodal).sum(),
        }

    def _distribution_losses(
        self,
        latents: dict[str, Tensor],
        means: dict[str, Tensor],
        variances: dict[str, Tensor],
        normalized: dict[str, Tensor],
        masks: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Reconstruction, diversity and statistical loss, each averaged over the non-text modalities."""
        if not latents:
            return {}
        parts: dict[str, list[Tensor]] = {"reconstruction": [], "diversity": []}
        if self.config.sl:
            parts["statistical"] = []
        for name, mask in masks.items():
            variance = variances[name].float()
            reconstruction = self.decoders[name](latents[name]).float()
            parts["reconstruction"].append(reconstruction_loss(reconstruction, normalized[name], mask))
            parts["diversity"].append(diversity_loss(variance, mask))
            if self.config.sl:
                parts["statistical"].append(statistical_loss(means[name].float(), variance, normalized[name], mask))
        return {name: torch.stack(values).mean() for name, values in parts.items()}


class CPSLModelMixin:
    """Forward pass and initialisation shared by the CPSL models of all backbones."""

    # Trainer must not hand us `num_items_in_batch`: it would stop dividing by the accumulation steps.
    accepts_loss_kwargs = False
    # A plain checkpoint brings heads of its own; ours stand in `multimodal`.
    _keys_to_ignore_on_load_unexpected = (r"pooler\.", r"lm_predictions", r"mask_predictions", r"lm_head", r"cls\.")

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """transformers', which makes all that it loads trainable; a text encoder that takes no part stays frozen.

        An interval that was calibrated with other weights than those loaded is forgotten.
        """
        model, info = super().from_pretrained(*args, **{**kwargs, "output_loading_info": True})
        model._freeze_unused()
        if info["missing_keys"] or info["mismatched_keys"]:
            model.forget_calibration()
        return (model, info) if kwargs.get("output_loading_info") else model

    def set_calibration(self, half_widths: dict[str, float], coverage: float) -> None:
        """Stores prediction intervals that were fitted on held-out samples in the config.

        Args:
            half_widths: Half the width of an interval, by the modalities that an utterance has, see
                [`conformal_half_widths`].
            coverage: The share of labels that they were fitted to hold, in (0, 1).
        """
        self.config.interval_half_widths, self.config.interval_coverage = half_widths, coverage

    def forget_calibration(self) -> None:
        """Removes the prediction intervals: the weights are no longer those that they were fitted to."""
        self.config.interval_half_widths = self.config.interval_coverage = None

    def _attach_regressor(self) -> None:
        self.multimodal = MultimodalRegressor(self.config)
        self._freeze_unused()
        if self.config.pooling == "cls" and self.config.modality_sizes:
            warnings.warn(
                "pooling='cls' reads the first token, which the injection of voice and face does not reach: they "
                "cannot change a prediction. Use pooling='mean'.",
                UserWarning,
                stacklevel=3,
            )

    def _freeze_unused(self) -> None:
        # DDP waits for a gradient of each trainable parameter.
        if not self.config.use_text:
            self.base_model.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FeatureNormalizer):
            module.reset_buffers()
        elif isinstance(module, nn.Linear) and module in self.multimodal.feature_layers():
            # The text encoder's initializer_range suits its width; a few features would hardly be seen through it.
            init.xavier_uniform_(module.weight)
            if module in {encoder.variance_head for encoder in self.multimodal.encoders.values()}:
                init.constant_(module.bias, INITIAL_VARIANCE_BIAS)

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters that encode a modality, which gradient modulation scales (METHOD 8).

        Args:
            name: `text` (the whole text encoder) or a name of `config.modality_sizes` (its AME encoder).

        Raises:
            ValueError: The model has no such modality.
        """
        if name == "text" and self.config.use_text:
            return list(self.base_model.parameters())
        if name not in self.config.modality_sizes:
            raise ValueError(f"no modality {name!r}; the model has {', '.join(self.multimodal.unimodal_heads)}")
        return list(self.multimodal.encoders[name].parameters())

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        acoustic: Tensor | None = None,
        visual: Tensor | None = None,
        feature_mask: Tensor | None = None,
        labels: Tensor | None = None,
        modality_mask: dict[str, Tensor] | None = None,
        extra_features: dict[str, Tensor] | None = None,
        feature_bounds: dict[str, Tensor] | None = None,
        latent_noise: dict[str, Tensor] | None = None,
        num_samples: int = 1,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CPSLOutput:
        """Predicts the sentiment of B utterances of L subword tokens.

        Args:
            input_ids: (B, L) subword ids; None where there is no text.
            attention_mask: (B, L), 1 on attended tokens. Default: all.
            acoustic: (B, L, d_a) voice features aligned to the subwords; None where there are none.
            visual: (B, L, d_v) face features aligned to the subwords.
            feature_mask: (B, L), 1 where a word's feature row stands. Default: [`default_feature_mask`]; all attended
                tokens where there is no text.
            labels: (B,) or (B, 1), sentiment in [-3, 3]; with them the losses are computed.
            modality_mask: (B,) bool by modality, True where the sample has it. Default: what is given is there.
            extra_features: (B, L, d_m) by name, for modalities other than `acoustic` and `visual`.
            feature_bounds: (2,) minimum and maximum by modality for min-max in training, where the caller pooled
                them over a whole optimizer step. Default: the batch's own over all ranks.
            latent_noise: (B, L, d_z) standard normal noise by modality for AME in training. Default: fresh noise.
            num_samples: Above 1, evaluation averages over that many latent draws and returns their deviation.
            output_attentions: Whether to return the text encoder's attentions.
            output_hidden_states: Whether to return the text encoder's hidden states.
            return_dict: Whether to return a [`CPSLOutput`] or a tuple.

        Raises:
            ValueError: A modality is unknown, a shape does not fit, no modality is given, or `num_samples` < 1.
        """
        features = collect_features(acoustic, visual, extra_features)
        encoded = None
        if self.config.use_text and input_ids is not None:
            encoded = self.base_model(
                input_ids,
                attention_mask=attention_mask,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
            )
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples} must be at least 1")
        if encoded is None and not features:
            raise ValueError("no modality is given: pass input_ids or features")
        if attention_mask is None:
            shape = next(iter(features.values())).shape[:2] if encoded is None else input_ids.shape
            attention_mask = torch.ones(shape, dtype=torch.long, device=self.device)
        if feature_mask is None:
            # Features without text have no special tokens around them.
            feature_mask = attention_mask if encoded is None else default_feature_mask(attention_mask)
        output = self.multimodal(
            None if encoded is None else encoded.last_hidden_state,
            features,
            feature_mask,
            labels=labels,
            modality_mask=modality_mask,
            feature_bounds=feature_bounds,
            latent_noise=latent_noise,
            num_samples=num_samples,
        )
        if encoded is None:
            return output
        return CPSLOutput(**output, hidden_states=encoded.hidden_states, attentions=encoded.attentions)


class CPSLForSentimentRegression(CPSLModelMixin, DebertaV2PreTrainedModel):
    """CPSL over DeBERTa-v2 / v3; loads a plain DeBERTa checkpoint, whose tensors it keeps."""

    config_class = CPSLConfig

    def __init__(self, config: CPSLConfig):
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        self._attach_regressor()
        self.post_init()


class CPSLBertForSentimentRegression(CPSLModelMixin, BertPreTrainedModel):
    """CPSL over BERT; loads a plain BERT checkpoint, whose tensors it keeps."""

    config_class = CPSLBertConfig

    def __init__(self, config: CPSLBertConfig):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self._attach_regressor()
        self.post_init()


class CPSLMPNetForSentimentRegression(CPSLModelMixin, MPNetPreTrainedModel):
    """CPSL over MPNet; loads a plain MPNet checkpoint, whose tensors it keeps."""

    config_class = CPSLMPNetConfig

    def __init__(self, config: CPSLMPNetConfig):
        super().__init__(config)
        self.mpnet = MPNetModel(config, add_pooling_layer=False)
        self._attach_regressor()
        self.post_init()


# The CPSL class over each text encoder, by the encoder's `model_type`.
CPSL_MODELS: dict[str, Any] = {
    "deberta-v2": CPSLForSentimentRegression,
    "bert": CPSLBertForSentimentRegression,
    "mpnet": CPSLMPNetForSentimentRegression,
}

__all__ = [
    "CPSL_MODELS",
    "CPSLBertForSentimentRegression",
    "CPSLForSentimentRegression",
    "CPSLMPNetForSentimentRegression",
    "CPSLOutput",
    "default_feature_mask",
]
