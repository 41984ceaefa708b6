"""What every architecture above the text encoder has in common: its inputs, their checks, and its output."""

import contextlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.utils import ModelOutput

from .decision_cpsl import combine, combine_deviation
from .encoding_cpsl import FeatureNormalizer
from .losses_cpsl import TASK_TERM, Loss, LossTerm, prediction_loss, total_loss
from .outputs_cpsl import CPSLOutput, Regression, RegressorInputs
from .pooling_cpsl import POOLINGS, AttentionPooling
from .tasks_cpsl import task_of


@dataclass
class NoOptions:
    """The `architecture_options` of an architecture that has none."""


def option(default: Any, help: str, choices: Collection[str] | None = None) -> Any:
    """A field of options with its default, what it means, and what it can be."""
    return field(default=default, metadata={"help": help} if choices is None else {"help": help, "choices": choices})


def check_probability(name: str, value: float) -> None:
    """ValueError for an option that is not in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name}={value} must be in [0, 1)")


def check_size(name: str, value: int) -> None:
    """ValueError for an option that is not at least 1."""
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")


def check_weight(name: str, value: float) -> None:
    """ValueError for an option that is below 0 or not finite."""
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name}={value} must be finite and at least 0")


class MultimodalRegressor(nn.Module):
    """Predicts the label from a text encoder's states and the features of other modalities, for any backbone.

    An architecture extends it by [`regress`] and says with the attributes of its class what it is.

    Args:
        config: The model's configuration, of any text encoder with [`CPSLConfigMixin`].
    """

    # What tables and cards call the architecture, and where it was published.
    title: ClassVar[str]
    reference: ClassVar[str]
    # A dataclass of its options, which checks their values.
    Options: ClassVar[type] = NoOptions
    # The fields of the config beside those that every architecture reads; another value than their default is refused
    # by an architecture that does not read them.
    config_fields: ClassVar[frozenset[str]] = frozenset()
    # Its parts that read what other modalities make by their place, whatever name they have themselves; of a part
    # called `fusion` these are all that do not have a modality's name.
    parts_by_place: ClassVar[frozenset[str]] = frozenset()
    # Its parts that predict labels.
    heads: ClassVar[frozenset[str]] = frozenset({"out_proj", "unimodal_heads"})
    # Its losses by name, in the order of the log.
    loss_terms: ClassVar[Mapping[str, Loss | LossTerm]] = {"task": TASK_TERM}
    # Whether it works without text, and how many modalities it combines, text included.
    needs_text: ClassVar[bool] = True
    fewest_modalities: ClassVar[int] = 2
    most_modalities: ClassVar[int | None] = None
    # Whether each modality also has a prediction of its own.
    has_unimodal_heads: ClassVar[bool] = False
    most_heads: int = 1  # that may add up to the prediction from one modality alone
    smallest_batch_size: int = 1  # for which all losses are computed; above 1 where some are statistics of a batch
    # Whether it fuses a modality by its strength, see [`RegressorInputs.weakened`].
    weakens_modalities: ClassVar[bool] = False
    # Whether it reads one row a word, so that the processor has to say where words start.
    reads_word_starts: ClassVar[bool] = False
    # Whether it means one number by a label, and works for no other task.
    predicts_one_number: ClassVar[bool] = False
    # How the names of those parameters begin that the first step of a training leaves as they are.
    unchanged_by_first_step: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config, self.task = config, task_of(config)
        self.options = type(self).Options(**config.architecture_options)
        self.loss_weights: dict[str, float] = {}
        self.loss_scales: dict[str, float] = {}  # by which a training multiplies them
        self.pooling = POOLINGS[config.pooling](config.hidden_size)
        names = config.modality_sizes if "feature_normalization" in self.config_fields else ()
        self.normalizers = nn.ModuleDict({name: FeatureNormalizer(config.feature_normalization) for name in names})

    @classmethod
    def check_options(cls, options: Any, modality_names: list[str]) -> None:
        """Refuses options that do not fit the model's modalities, with a ValueError; here all do."""

    def regress(self, inputs: RegressorInputs) -> Regression:
        """Predicts the label, and with labels computes the losses; a missing modality must not have a say."""
        raise NotImplementedError

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters that encode a non-text modality and nothing else; empty where there are none."""
        raise NotImplementedError

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The parameters of this part that work inside the text encoder, and are trained at its rate; mostly none."""
        return []

    def shifted_embeddings(
        self,
        embeddings: nn.Module,
        features: dict[str, Tensor],
        feature_mask: Tensor,
        modality_mask: dict[str, Tensor] | None,
    ) -> contextlib.AbstractContextManager[None]:
        """Within this context the text encoder reads embeddings that the other modalities have changed; here none.

        Args:
            embeddings: The text encoder's module of embeddings.
            features: As for [`forward`].
            feature_mask: As for [`forward`].
            modality_mask: As for [`forward`].
        """
        return contextlib.nullcontext()

    @property
    def modality_names(self) -> list[str]:
        """The modalities that the model reads, `text` first if it is one of them."""
        return [*(["text"] if self.config.use_text else []), *self.config.modality_sizes]

    @property
    def unimodal_names(self) -> list[str]:
        """The modalities with a prediction of their own."""
        return self.modality_names if self.has_unimodal_heads else []

    @property
    def loss_names(self) -> list[str]:
        """The names in the output's `losses`."""
        return list(self.loss_terms)

    @property
    def normalized_modalities(self) -> list[str]:
        """The modalities whose features are min-max normalised."""
        return [name for name, normalizer in self.normalizers.items() if normalizer.mode != "none"]

    def scale_loss(self, name: str, factor: float) -> None:
        """In training, has a loss that has a weight count so many times that weight."""
        self.loss_scales[name] = factor

    @property
    def sample_columns(self) -> dict[str, int]:
        """What a trainer is to remember of each training sample, the number of values by name; empty for nothing."""
        return {}

    def update_sample_columns(self, columns: dict[str, Tensor], num_epochs: int) -> dict[str, Tensor]:
        """What is remembered of the N training samples after an epoch, for those columns that change then.

        Args:
            columns: (N, width) by name; NaN where nothing is known.
            num_epochs: Number of epochs that are done.
        """
        return {}

    @property
    def head_counts(self) -> dict[str, int]:
        """How many heads add up to the prediction from one modality alone, where more may be added; mostly nowhere."""
        return {}

    def add_head(self, name: str) -> None:
        """Gives a modality another head; called only where `most_heads` is above 1."""

    def latent_noise_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """The shape of one sample's noise by name, for an input of `length` tokens; empty where none is drawn."""
        return {}

    def forward(
        self,
        hidden: Tensor | None,
        features: dict[str, Tensor],
        feature_mask: Tensor,
        labels: Tensor | None = None,
        modality_mask: dict[str, Tensor] | None = None,
        feature_bounds: dict[str, Tensor] | None = None,
        latent_noise: dict[str, Tensor] | None = None,
        sample_values: dict[str, Tensor] | None = None,
        sample_weight: Tensor | None = None,
        num_samples: int = 1,
        word_starts: Tensor | None = None,
    ) -> CPSLOutput:
        """Combines the text encoder's states with the other modalities and predicts the label.

        Args:
            hidden: (B, L, d_t), T; None where there is no text.
            features: (B, L, d_m) by name; a modality that is not given is missing in all samples.
            feature_mask: (B, L), 1 at feature tokens.
            labels: As the task says, (B,) or (B, 1) for one number; with them the losses are computed.
            modality_mask: (B,) bool by name, True where the sample has the modality. Default: in all, if given. Where
                [`weakens_modalities`], also a number: how much of it is fused, from 0 (it is missing) to 1.
            feature_bounds: (2,) by name, see [`FeatureNormalizer`].
            latent_noise: Standard normal noise by name, see [`latent_noise_shapes`]. Default: fresh noise.
            sample_values: (B, width) by name, see [`sample_columns`]. Default: nothing is known of the samples.
            sample_weight: (B,), at least 0, what each sample counts by in the losses. Default: all count alike.
            num_samples: Number of latent draws to average in evaluation.
            word_starts: (B, L), 1 at the first feature token of each word. Default: each feature token is a word.

        Raises:
            ValueError: A modality is unknown, a shape does not fit, or latents are to be averaged in training.
        """
        if num_samples > 1 and self.training:
            raise ValueError("num_samples > 1 averages latent draws at inference; call model.eval() first")
        inputs = self._checked_inputs(
            hidden,
            features,
            feature_mask,
            modality_mask,
            word_starts,
            labels=None if labels is None else self.task.label_tensor(labels, len(feature_mask)),
            bounds=feature_bounds or {},
            noise=latent_noise or {},
            sample_values=sample_values or {},
            weights=sample_weight,
            num_samples=num_samples,
        )
        regression, presence = self.regress(inputs), inputs.presence
        values: dict[str, Any] = {**vars(regression), "modality_presence": presence}
        weights = None if self.training else self.config.decision_weights
        if weights and regression.unimodal_logits:
            values["logits"] = combine(regression.logits, regression.unimodal_logits, presence, weights)
            if regression.logits_std is not None:
                values["logits_std"] = combine_deviation(regression.logits_std, presence, weights)
        if inputs.labels is not None:
            scales = self.loss_scales if self.training else {}
            weights_of_losses = {name: value * scales.get(name, 1.0) for name, value in self.loss_weights.items()}
            values["loss"] = total_loss(regression.losses, weights_of_losses)
            values["modality_errors"] = self._modality_errors(regression, inputs)
        return CPSLOutput(**{name: _output_field(value) for name, value in values.items()})

    @torch.no_grad()
    def initialize_module(self, module: nn.Module) -> None:
        """Initialises a module of this part where the text encoder's own initialisation would not suit it."""
        if isinstance(module, FeatureNormalizer):
            module.reset_buffers()
        elif isinstance(module, AttentionPooling):
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Conv1d) and module in self._feature_layers():
            # The text encoder's initializer_range suits its width; few features would give an almost zero signal.
            init.xavier_uniform_(module.weight)

    def update_feature_bounds(self, bounds: dict[str, Tensor]) -> None:
        """Tracks bounds (2,) by modality that were pooled over a step's micro-batches and given to each `forward`."""
        for name, modality_bounds in bounds.items():
            self.normalizers[name].update(modality_bounds, self._is_frozen(name))

    def forget_bounds(self, new_tensors: set[str]) -> None:
        """Forgets the bounds of each modality whose encoder is among these names of tensors, since it is a new one."""
        for name, normalizer in self.normalizers.items():
            if any(tensor.endswith(f"multimodal.{self._feature_weight(name)}") for tensor in new_tensors):
                normalizer.load_state_dict(FeatureNormalizer(normalizer.mode).state_dict())

    def restart_bounds(self, names: list[str]) -> None:
        """Has the next step set the bounds of these modalities, whose features are on another scale than before."""
        for name in self.normalizers.keys() & {*names}:
            self.normalizers[name].num_updates.zero_()

    def _feature_weight(self, name: str) -> str:
        """The name of the tensor whose shape depends on a modality's feature size."""
        return f"encoders.{name}.trunk.0.weight"

    def _feature_layers(self) -> set[nn.Module]:
        """The modules whose weights are initialised by the number of their inputs and outputs; here all."""
        return {*self.modules()}

    def _normalize(self, name: str, inputs: RegressorInputs) -> tuple[Tensor, Tensor]:
        """A modality's features (B, L, d_m), normalised where the architecture does so, 0 where there are none.

        Also returns where there are some: (B, L) bool, the feature tokens of samples that have the modality.
        """
        if name in inputs.features:
            values = inputs.features[name]
        else:
            values = torch.zeros(*inputs.mask.shape, self.config.modality_sizes[name], device=inputs.mask.device)
        present = inputs.mask & inputs.presence[name][:, None]
        if name in self.normalizers:
            values = self.normalizers[name](values, present, inputs.bounds.get(name), self._is_frozen(name))
        else:
            values = torch.where(present[..., None], values.float(), 0.0)
        return values, present

    def _is_frozen(self, name: str) -> bool:
        """Whether a modality's encoder has frozen weights, be it whole or under an adapter."""
        return not all(parameter.requires_grad for parameter in self.modality_parameters(name))

    def _task_loss(self, logits: Tensor, inputs: RegressorInputs) -> Tensor:
        assert inputs.labels is not None
        return prediction_loss(
            logits.float(), inputs.labels, self.config.task_loss, weights=inputs.weights, task=self.task
        )

    def _modality_errors(self, regression: Regression, inputs: RegressorInputs) -> dict[str, Tensor]:
        """The errors (B,) of predictions from one modality alone, 0 where it is missing; for a number |u - y|."""
        assert inputs.labels is not None
        return {
            name: torch.where(inputs.presence[name], self.task.errors(prediction, inputs.labels), 0.0)
            for name, prediction in regression.unimodal_logits.items()
        }

    def _pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        return self.pooling(sequence, mask)

    def _checked_inputs(
        self,
        hidden: Tensor | None,
        features: dict[str, Tensor],
        feature_mask: Tensor,
        modality_mask: dict[str, Tensor] | None,
        word_starts: Tensor | None = None,
        **others: Any,
    ) -> RegressorInputs:
        mask, modality_mask = feature_mask.bool(), modality_mask or {}
        return RegressorInputs(
            hidden=self._text_states(hidden, mask, modality_mask),
            features=features,
            mask=mask,
            word_starts=mask if word_starts is None else mask & word_starts.bool(),
            presence=self._presence(hidden is not None, features, mask, modality_mask),
            strengths={name: value for name, value in modality_mask.items() if value.is_floating_point()},
            **others,
        )

    def _presence(
        self, has_text: bool, features: dict[str, Tensor], mask: Tensor, modality_mask: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Which samples have which modality, (B,) bool by name; refuses unknown modalities and wrong shapes."""
        names = self.modality_names
        unknown = (features.keys() | modality_mask.keys()) - {*names}
        if unknown:
            raise ValueError(f"modality {', '.join(sorted(unknown))} is not one of the model's: {', '.join(names)}")
        presence = {}
        for name in names:
            given = has_text if name == "text" else name in features
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
            dtype = next(self.parameters()).dtype
            return torch.zeros(*mask.shape, self.config.hidden_size, dtype=dtype, device=mask.device)
        return hidden * modality_mask["text"].bool()[:, None, None] if "text" in modality_mask else hidden


def _output_field(value: Any) -> Any:
    """A dict of an output as transformers' pipelines can cut it into samples; None for an empty one."""
    return (ModelOutput(value) if value else None) if isinstance(value, dict) else value


__all__ = [
    "MultimodalRegressor",
    "NoOptions",
    "check_probability",
    "check_size",
    "check_weight",
    "option",
]
