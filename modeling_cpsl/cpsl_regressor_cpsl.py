"""CPSL's own architecture: modality encoders, fusion, injection, heads and losses (eq. 1-4)."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from .encoding_cpsl import INITIAL_VARIANCE_BIAS, AdaptiveModalityEncoder, BoostedHead, ModalityDecoder, UnimodalHead
from .fusion_cpsl import FUSION_BLOCKS, ResidualInjection
from .losses_cpsl import LOSSES, LossInputs, ModalityState, compute_losses, loss_names, loss_weights
from .outputs_cpsl import Regression, RegressorInputs
from .pooling_cpsl import POOLINGS, token_mean
from .regressor_cpsl import MultimodalRegressor


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


class CPSLRegressor(MultimodalRegressor):
    """Adaptive modality encoding, fusion, and injection into the text encoder's states (arXiv:2605.28575).

    Args:
        config: The model's configuration.
    """

    title = "CPSL"
    reference = "Dai, Liang and Mai (2026), arXiv:2605.28575"
    config_fields = frozenset(
        {
            *(
                "ame",
                "sl",
                "sl_kind",
                "modality_hidden_size",
                "latent_size",
                "fusion_size",
                "fusion",
                "residual_weight",
            ),
            *("encoder_dropout", "classifier_dropout", "pooling", "feature_normalization", "boosted_heads"),
            *(f"{name}_weight" for name, loss in LOSSES.items() if loss.weight is not None),
        }
    )
    loss_terms = LOSSES
    needs_text = False
    fewest_modalities = 1
    heads = frozenset({"out_proj", "unimodal_heads", "boosted_out_proj"})
    has_unimodal_heads = True
    weakens_modalities = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.loss_weights = loss_weights(config)
        self.smallest_batch_size = max(LOSSES[name].smallest_batch_size for name in self.loss_names)
        self.most_heads = config.boosted_heads
        sizes, hidden_size = config.modality_sizes, config.hidden_size
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
        self.unimodal_heads = nn.ModuleDict({name: self._new_head(size) for name, size in head_sizes.items()})
        if config.use_text:  # what matters to the head of text need not be what matters to all
            self.text_pooling = POOLINGS[config.pooling](hidden_size)
        if self.most_heads > 1:
            self.boosted_out_proj = nn.Linear(config.modality_hidden_size, 1)
        if sizes:
            self.fusion = FUSION_BLOCKS[config.fusion](list(sizes), config.latent_size, config.fusion_size)
            self.injection = ResidualInjection(config.fusion_size, hidden_size, config.residual_weight)
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(hidden_size, self.task.num_outputs)
        if config.pooling == "cls" and sizes:
            warnings.warn(
                "pooling='cls' reads the first token, where no voice and face are injected: they cannot change a "
                "prediction. Use pooling='mean'.",
                UserWarning,
                stacklevel=4,
            )

    @property
    def loss_names(self) -> list[str]:
        """See [`MultimodalRegressor.loss_names`]."""
        return loss_names(self.config)

    def latent_noise_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """(L, d_z) by non-text modality; empty without AME."""
        return dict.fromkeys(self.config.modality_sizes, (length, self.config.latent_size)) if self.config.ame else {}

    @property
    def head_counts(self) -> dict[str, int]:
        """See [`MultimodalRegressor.head_counts`]."""
        return {name: int(head.num_active) for name, head in self._boosted_heads().items()}

    def add_head(self, name: str) -> None:
        """See [`MultimodalRegressor.add_head`]."""
        self._boosted_heads()[name].num_active += 1

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of a modality's AME encoder."""
        return list(self.encoders[name].parameters())

    def regress(self, inputs: RegressorInputs) -> Regression:
        """Encodes each modality, fuses them and injects what is fused (eq. 1, 2), with the losses of eq. 4."""
        hidden, mask, presence = inputs.hidden, inputs.mask, inputs.presence
        modalities = self._encode(inputs)
        # heads and losses of the latents see a weakened modality as it is
        latents = {name: inputs.weakened(name, modality.latents) for name, modality in modalities.items()}
        logits, weights = self._regress(inputs.weakened("text", hidden), latents, presence, mask)
        heads = self._head_logits(hidden, mask, modalities)
        regression = Regression(
            logits,
            unimodal_logits={name: predictions.sum(dim=0) for name, predictions in heads.items()},
            fusion_weights={name: token_mean(weights[..., index], mask) for index, name in enumerate(modalities)},
        )
        if inputs.num_samples > 1:
            draws = self._draw_logits(hidden, modalities, presence, mask, inputs.num_samples)
            regression.logits, regression.logits_std = draws.mean(dim=0), draws.std(dim=0)
        if inputs.labels is not None:
            regression.losses = compute_losses(self._loss_inputs(regression, inputs, modalities, heads))
        return regression

    @torch.no_grad()
    def initialize_module(self, module: nn.Module) -> None:
        """See [`MultimodalRegressor.initialize_module`]; variances start at those of the features."""
        super().initialize_module(module)
        if isinstance(module, BoostedHead):
            module.reset_buffers()
        if module in {encoder.variance_head for encoder in self.encoders.values() if encoder.variance_head}:
            init.constant_(module.bias, INITIAL_VARIANCE_BIAS)

    def _feature_layers(self) -> set[nn.Module]:
        """The modules between the features and the injection, which do not have the text encoder's width."""
        parts = [self.encoders, self.decoders, *([self.fusion] if len(self.encoders) else [])]
        return {module for part in parts for module in part.modules()}

    def _encode(self, inputs: RegressorInputs) -> dict[str, EncodedModality]:
        """Normalises and encodes each non-text modality (eq. 1); latents are drawn in training only."""
        encoded = {}
        for name, encoder in self.encoders.items():
            normalized, present = self._normalize(name, inputs)
            mean, variance = encoder(normalized.to(self.norm.weight.dtype))
            latents = encoder.sample(mean, variance, inputs.noise.get(name)) if self.training else mean
            encoded[name] = EncodedModality(normalized, present, mean, variance, latents)
        return encoded

    def _regress(
        self, hidden: Tensor, latents: dict[str, Tensor], presence: dict[str, Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fusion, injection and task head: logits, and fusion weights (B, L, number of non-text modalities)."""
        weights = hidden.new_zeros(*mask.shape, len(latents))
        if latents:
            fused, weights = self.fusion(latents, presence)
            anything = torch.stack([presence[name] for name in latents]).any(dim=0)
            hidden = self.injection(hidden, fused, mask & anything[:, None])
        pooled = self._pool(self.dropout(self.norm(hidden)), mask)
        pooled = self.classifier_dropout(torch.tanh(self.dense(pooled)))
        return self.task.logits(self.out_proj(pooled)), weights

    def _new_head(self, size: int) -> nn.Module:
        dropout, config = self.config.classifier_dropout, self.config
        if self.most_heads > 1:
            return BoostedHead(size, config.modality_hidden_size, dropout, self.most_heads)
        return UnimodalHead(size, dropout, self.task.num_outputs)

    def _boosted_heads(self) -> dict[str, BoostedHead]:
        return {name: head for name, head in self.unimodal_heads.items() if isinstance(head, BoostedHead)}

    def _head_logits(self, hidden: Tensor, mask: Tensor, modalities: dict[str, EncodedModality]) -> dict[str, Tensor]:
        """What each head predicts from one modality alone, by modality: (number of heads, B) or (1, B, K)."""
        pooled = {"text": self.text_pooling(hidden, mask)} if self.config.use_text else {}
        pooled |= {name: token_mean(modality.latents, modality.mask) for name, modality in modalities.items()}
        if self.most_heads > 1:
            return {name: head(pooled[name], self.boosted_out_proj) for name, head in self.unimodal_heads.items()}
        return {name: self.task.logits(head(pooled[name]))[None] for name, head in self.unimodal_heads.items()}

    def _draw_logits(
        self,
        hidden: Tensor,
        modalities: dict[str, EncodedModality],
        presence: dict[str, Tensor],
        mask: Tensor,
        num_samples: int,
    ) -> Tensor:
        """Logits (num_samples, B) or (num_samples, B, K), each with latents drawn anew."""
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
        regression: Regression,
        inputs: RegressorInputs,
        modalities: dict[str, EncodedModality],
        heads: dict[str, Tensor],
    ) -> LossInputs:
        assert inputs.labels is not None
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
            labels=inputs.labels,
            logits=regression.logits.float(),
            unimodal_logits={name: prediction.float() for name, prediction in regression.unimodal_logits.items()},
            presence=inputs.presence,
            modalities=states,
            newest_logits={n: head.newest(heads[n].float()) for n, head in self._boosted_heads().items()},
            has_several_heads={n: head.num_active > 1 for n, head in self._boosted_heads().items()},
            weights=inputs.weights,
            task=self.task,
        )


__all__ = ["CPSLRegressor", "EncodedModality"]
