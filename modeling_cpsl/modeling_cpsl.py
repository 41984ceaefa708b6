"""CPSL: multimodal sentiment regression over a transformers text encoder (arXiv:2605.28575)."""

import itertools
import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    BertModel,
    BertPreTrainedModel,
    DebertaV2Model,
    MPNetModel,
    MPNetPreTrainedModel,
    PreTrainedConfig,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2PreTrainedModel
from transformers.utils import can_return_tuple

from .architectures_cpsl import ARCHITECTURES
from .configuration_cpsl import FITTED_FIELDS, CPSLBertConfig, CPSLConfig, CPSLConfigMixin, CPSLMPNetConfig
from .features_cpsl import collect_features
from .outputs_cpsl import CPSLOutput
from .packing_cpsl import encode_packed, packing_pays
from .pipeline_cpsl import MultimodalSentimentPipeline  # noqa: F401 - so that its code is saved with a model's
from .relative_positions_cpsl import use_reachable_positions
from .renewal_cpsl import renew_parts
from .task_cpsl import Task


def default_feature_mask(attention_mask: Tensor) -> Tensor:
    """The feature tokens where a caller gives no mask: all attended tokens but the first and last of each row.

    Args:
        attention_mask: (B, L), 1 on attended tokens.

    Returns:
        (B, L) bool.
    """
    attended = attention_mask.bool()
    from_left, from_right = attended.cumsum(dim=1), attended.flip(1).cumsum(dim=1).flip(1)
    return attended & (from_left > 1) & (from_right > 1)


_OPTIONS = {option.name for option in fields(CPSLConfigMixin)}
# Those of transformers' that say where a checkpoint is.
_PLACE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def _given(**arguments: Any) -> dict[str, Any]:
    """The arguments that are not None, which BERT would take for one that is off whatever its config says."""
    return {name: value for name, value in arguments.items() if value is not None}


def _feature_tokens(text: dict[str, Tensor], features: dict[str, Tensor], attention_mask: Tensor | None) -> Tensor:
    """The feature tokens (B, L) of inputs without a `feature_mask`."""
    attended = attention_mask
    if attended is None:
        given = next(iter((text or features).values()))
        attended = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
    if not text:  # without text there are no special tokens around features
        return attended
    if "inputs_embeds" in text and features:  # they may lack the tokens of a prompt
        attended = attended[:, -next(iter(features.values())).shape[1] :]
    return default_feature_mask(attended)


def _behind_prompt(values: Tensor, length: int) -> Tensor:
    """(B, L, ...) with zeros in front of it, up to `length` tokens."""
    prompt = values.new_zeros(len(values), max(length - values.shape[1], 0), *values.shape[2:])
    return torch.cat([prompt, values], dim=1)


# To a type checker the mixin is a model itself, since it is only ever mixed into one.
if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object


class CPSLModelMixin(_Model):
    """The common part of the CPSL models: forward pass, initialisation, and what a trainer has to know of them."""

    # Trainer must not pass `num_items_in_batch`: it would then not divide the loss by the accumulation steps.
    accepts_loss_kwargs = False
    # A plain checkpoint contains heads that are not used here; CPSL's are in `multimodal`.
    _keys_to_ignore_on_load_unexpected = (r"pooler\.", r"lm_predictions", r"mask_predictions", r"lm_head", r"cls\.")

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As [`~transformers.PreTrainedModel.from_pretrained`], with the same arguments.

        A text encoder that is not used (`use_text=False`) stays frozen. Prediction intervals and decision weights that
        were fitted with other weights or options than those of this model are forgotten, whether the options are given
        one by one or as a `config`, and so are bounds of features of another size. What knows
        modalities by their place, or labels, is new where these are others than before, see [`renew_parts`].
        """
        model, info = super().from_pretrained(*args, **{**kwargs, "output_loading_info": True})
        model._freeze_unused()
        saved = model._saved_config(args[0] if args else kwargs.get("pretrained_model_name_or_path"), kwargs)
        if saved is not None:
            info["missing_keys"] = {*info["missing_keys"], *renew_parts(model, saved)}
        new = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
        options = _OPTIONS - {*FITTED_FIELDS}
        changed = saved is not None and any(getattr(saved, name) != getattr(model.config, name) for name in options)
        if new or info["unexpected_keys"] or changed:
            model.forget_calibration()
        model.multimodal.forget_bounds(new)
        return (model, info) if kwargs.get("output_loading_info") else model

    def _saved_config(self, name: str | os.PathLike | None, options: dict[str, Any]) -> CPSLConfigMixin | None:
        """The configuration beside the weights that were loaded; None where there is none of such a model."""
        place = {option: options[option] for option in _PLACE_OPTIONS if option in options}
        commit = getattr(self.config, "_commit_hash", None)
        try:
            saved, _ = PreTrainedConfig.get_config_dict(name, **place, _commit_hash=commit)
        except (OSError, TypeError):  # weights alone, in a folder or in memory
            return None
        same_type = saved.get("model_type") == self.config.model_type
        return type(self.config).from_dict(saved) if same_type else None

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As [`~transformers.PreTrainedModel.save_pretrained`], with code that `AutoModel` finds too."""
        if self._auto_class is not None:
            name = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
            self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | {"AutoModel": name}
        super().save_pretrained(*args, **kwargs)

    def set_calibration(self, half_widths: dict[str, Any], coverage: float) -> None:
        """Stores prediction intervals, or sets of classes, that were fitted on held-out samples in the config.

        Args:
            half_widths: Half the width of an interval, by the modalities that an utterance has, see
                [`conformal_quantiles`]; for classes their quantiles.
            coverage: The share of labels that they were fitted to hold, in (0, 1).
        """
        self.config.interval_half_widths, self.config.interval_coverage = half_widths, coverage

    def forget_calibration(self) -> None:
        """Removes prediction intervals and decision weights, which do not hold for other weights of the model."""
        for name in FITTED_FIELDS:
            setattr(self.config, name, None)

    def _attach_regressor(self) -> None:
        self.multimodal = ARCHITECTURES[self.config.architecture](self.config)
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        # DDP waits for a gradient of each trainable parameter.
        if not self.config.use_text:
            self.base_model.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        self.multimodal.initialize_module(module)

    def train(self, mode: bool = True) -> Any:
        """As [`~torch.nn.Module.train`]; a text encoder that is frozen as a whole stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.base_model.parameters()):
            self.base_model.eval()
        return self

    @property
    def task(self) -> Task:
        """What a label is, as the config says."""
        return self.multimodal.task

    @property
    def modality_names(self) -> list[str]:
        """The modalities that the model reads, `text` first if it is one of them."""
        return self.multimodal.modality_names

    @property
    def unimodal_names(self) -> list[str]:
        """The modalities with a prediction of their own: all, or none where the architecture has no such heads."""
        return self.multimodal.unimodal_names

    @property
    def loss_names(self) -> list[str]:
        """The names in the output's `losses`."""
        return self.multimodal.loss_names

    @property
    def smallest_batch_size(self) -> int:
        """The fewest samples for which all losses are computed; above 1 where some are statistics of a batch."""
        return self.multimodal.smallest_batch_size

    def scale_loss(self, name: str, factor: float) -> None:
        """In training, has a loss that has a weight count so many times that weight."""
        self.multimodal.scale_loss(name, factor)

    @property
    def normalized_modalities(self) -> list[str]:
        """The modalities whose features are min-max normalised, so that they have bounds to pool and update."""
        return self.multimodal.normalized_modalities

    def latent_noise_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """The shape of a sample's `latent_noise` by name, (L, d_z) for CPSL; empty for a model that draws none.

        Args:
            length: L, the number of tokens.
        """
        return self.multimodal.latent_noise_shapes(length)

    @property
    def sample_columns(self) -> dict[str, int]:
        """What a trainer is to remember of each training sample, the number of values by name; mostly nothing."""
        return self.multimodal.sample_columns

    def update_sample_columns(self, columns: dict[str, Tensor], num_epochs: int) -> dict[str, Tensor]:
        """What is remembered of the samples after an epoch, for those columns that change then.

        Args:
            columns: (N, width) by name, for all training samples; NaN where nothing is known.
            num_epochs: Number of epochs that are done.
        """
        return self.multimodal.update_sample_columns(columns, num_epochs)

    @property
    def weakens_modalities(self) -> bool:
        """Whether `modality_mask` may be a number from 0 to 1, how much of a modality is fused."""
        return self.multimodal.weakens_modalities

    @property
    def most_heads(self) -> int:
        """The most heads that may add up to the prediction from one modality alone; 1 where none is ever added."""
        return self.multimodal.most_heads

    @property
    def head_counts(self) -> dict[str, int]:
        """How many heads do so now, by modality; empty where `most_heads` is 1."""
        return self.multimodal.head_counts

    def add_head(self, name: str) -> None:
        """Gives a modality another head, which learns what its former ones have left over."""
        self.multimodal.add_head(name)

    def prepare_for_training(self) -> None:
        """Forgets a calibration, which will not hold for the new weights; a trainer calls this when it starts."""
        self.forget_calibration()
        self.multimodal.loss_scales.clear()

    def update_feature_bounds(self, bounds: dict[str, Tensor]) -> None:
        """Moves the running bounds of the features towards those of an optimizer step.

        Args:
            bounds: (2,) minimum and maximum by modality, pooled over the step and given to each of its `forward`s.
        """
        self.multimodal.update_feature_bounds(bounds)

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters that encode a modality, whose gradients modulation scales (eq. 5-6).

        Args:
            name: `text` (the whole text encoder) or a name of `config.modality_sizes` (for CPSL its AME encoder).

        Raises:
            ValueError: The model has no such modality.
        """
        if name not in self.modality_names:
            raise ValueError(f"no modality {name!r}; the model has {', '.join(self.modality_names)}")
        return list(self.base_model.parameters()) if name == "text" else self.multimodal.modality_parameters(name)

    def encoder_layers(self) -> list[list[nn.Parameter]]:
        """The parameters of the text encoder by layer, the embeddings first; empty for a model that reads no text.

        Embeddings of relative positions, which all layers read, are among the first. Parameters of other modalities
        that work inside the encoder, as MAG's do, are among the last: they are new.
        """
        if not self.config.use_text:
            return []
        layers = [list(layer.parameters()) for layer in self.base_model.encoder.layer]
        inside = {*itertools.chain.from_iterable(layers)}
        layers.insert(0, [weight for weight in self.base_model.parameters() if weight not in inside])
        layers[-1] += self.multimodal.encoder_parameters()
        return layers

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        acoustic: Tensor | None = None,
        visual: Tensor | None = None,
        feature_mask: Tensor | None = None,
        labels: Tensor | None = None,
        modality_mask: dict[str, Tensor] | Tensor | None = None,
        extra_features: dict[str, Tensor] | None = None,
        feature_bounds: dict[str, Tensor] | None = None,
        latent_noise: dict[str, Tensor] | None = None,
        sample_values: dict[str, Tensor] | None = None,
        sample_weight: Tensor | None = None,
        num_samples: int = 1,
        word_starts: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        ids: list[str] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CPSLOutput:
        """Predicts the label of B utterances of L subword tokens.

        Args:
            input_ids: (B, L) subword ids; None where there is no text.
            attention_mask: (B, L), 1 on attended tokens. Default: all.
            acoustic: (B, L, d_a) voice features aligned to the subwords; None where there are none.
            visual: (B, L, d_v) face features aligned to the subwords.
            feature_mask: (B, L), 1 at the tokens of words, which have a feature row. Default:
                [`default_feature_mask`]; without text, all attended tokens.
            labels: (B,) or (B, 1), sentiment in [-3, 3] or the numbers of classes; (B, K), several numbers, or 1 for
                each class that a sample has and 0 for the others, as the config's `problem_type` says. With them the
                losses are computed.
            modality_mask: (B,) bool by modality, True where the sample has it, or (B, M) in the order of
                [`modality_names`]. Default: in all, if given. A number, see [`weakens_modalities`].
            extra_features: (B, L, d_m) by name, for modalities other than `acoustic` and `visual`.
            feature_bounds: (2,) minimum and maximum by modality for min-max normalisation in training, from a caller
                who pooled them over a whole optimizer step. Default: those of the batch over all ranks.
            latent_noise: (B, L, d_z) standard normal noise by modality for AME in training. Default: fresh noise.
            sample_values: (B, width) by [`sample_columns`], what a trainer remembers of the samples. Default: nothing.
            sample_weight: (B,), at least 0, what each sample counts by in the losses. Default: all count alike.
            num_samples: Above 1, evaluation averages over that many latent draws and returns their deviation.
            word_starts: (B, L), 1 at the first token of each word, for architectures that read one feature row a word.
                Default: each token with a feature row is a word.
            token_type_ids: (B, L), for text encoders that have token types.
            position_ids: (B, L), for text encoders that have position embeddings.
            inputs_embeds: (B, L, d), embeddings in place of `input_ids`. Features and `feature_mask` may lack tokens
                at the front, where prompt tuning puts its own.
            ids: Names of the samples, as the data collator gives them; not used.
            output_attentions: Whether to return the text encoder's attentions. Default: as the config says.
            output_hidden_states: Whether to return the text encoder's hidden states. Default: as the config says.
            return_dict: Whether to return a [`CPSLOutput`] or a tuple. Default: as the config says.

        Raises:
            ValueError: A modality is unknown, a shape does not fit, no modality is given, or `num_samples` < 1.
        """
        features = collect_features(acoustic, visual, extra_features)
        if isinstance(modality_mask, Tensor):
            modality_mask = dict(zip(self.modality_names, modality_mask.unbind(dim=1), strict=True))
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples} must be at least 1")
        text = _given(input_ids=input_ids, inputs_embeds=inputs_embeds) if self.config.use_text else {}
        if not text and not features:
            raise ValueError("no modality is given: pass input_ids or features")
        if feature_mask is None:
            feature_mask = _feature_tokens(text, features, attention_mask)
        if "inputs_embeds" in text:
            length = text["inputs_embeds"].shape[1]
            features = {name: _behind_prompt(values, length) for name, values in features.items()}
            feature_mask = _behind_prompt(feature_mask, length)
            word_starts = None if word_starts is None else _behind_prompt(word_starts, length)
        encoded = None
        if text:
            text |= _given(token_type_ids=token_type_ids, position_ids=position_ids)
            outputs = _given(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
            embeddings = self.base_model.embeddings
            with self.multimodal.shifted_embeddings(embeddings, features, feature_mask, modality_mask):
                encoded = self._encode_text(text, attention_mask, outputs)
        output = self.multimodal(
            None if encoded is None else encoded.last_hidden_state,
            features,
            feature_mask,
            labels=labels,
            modality_mask=modality_mask,
            feature_bounds=feature_bounds,
            latent_noise=latent_noise,
            sample_values=sample_values,
            sample_weight=sample_weight,
            num_samples=num_samples,
            word_starts=word_starts,
        )
        if encoded is None:
            return output
        return CPSLOutput(**output, hidden_states=encoded.hidden_states, attentions=encoded.attentions)

    def _encode_text(
        self, inputs: dict[str, Tensor], attention_mask: Tensor | None, outputs: dict[str, bool]
    ) -> BaseModelOutput:
        """The text encoder's output; computed without padding where that is faster and gives all that is asked for."""
        asked = {name: getattr(self.config, name) for name in ("output_attentions", "output_hidden_states")} | outputs
        if attention_mask is not None and not any(asked.values()) and packing_pays(self.base_model, attention_mask):
            return BaseModelOutput(encode_packed(self.base_model, attention_mask, **inputs))
        return self.base_model(**inputs, attention_mask=attention_mask, **outputs, return_dict=True)


class CPSLForSentimentRegression(CPSLModelMixin, DebertaV2PreTrainedModel):
    """CPSL over DeBERTa-v2 / v3; loads a plain DeBERTa checkpoint, whose tensors it keeps."""

    config_class = CPSLConfig

    def __init__(self, config: CPSLConfig):
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        use_reachable_positions(self.deberta)
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
