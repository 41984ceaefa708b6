"""Configurations: the fields that CPSL adds to the configuration of a text encoder."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, make_dataclass
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import BertConfig, DebertaV2Config, MPNetConfig, PreTrainedConfig, PreTrainedTokenizerBase

from .architectures_cpsl import ARCHITECTURES, check_modality_count, checked_options, describe_options
from .decision_cpsl import check_decision_weights
from .encoding_cpsl import FEATURE_NORMALIZATIONS
from .fusion_cpsl import FUSION_BLOCKS
from .latent_losses_cpsl import STATISTICAL_DISTANCES
from .losses_cpsl import LOSSES
from .number_task_cpsl import TASK_LOSSES
from .pooling_cpsl import POOLINGS
from .regressor_cpsl import check_probability, check_size, check_weight, option
from .tasks_cpsl import SENTIMENT, check_task, task_of
from .utterances_cpsl import UTTERANCE_FIELDS


# CMU-MOSI: 74 COVAREP columns and 47 FACET columns.
DEFAULT_MODALITY_SIZES = {"acoustic": 74, "visual": 47}

# Fields of a backbone's configuration that identify the model or its task; all others describe its architecture.
_BACKBONE_IDENTITY = ("model_type", "architectures", "transformers_version", "auto_map")
_BACKBONE_TASK = ("id2label", "label2id", "num_labels", "problem_type")

# The largest text encoders have about 100; a damaged file that says more would be built for minutes first.
MOST_LAYERS = 1000

PIPELINE_TASK = "multimodal-sentiment"
# What transformers' `pipeline` needs to find it in a model's folder.
_PIPELINE = {
    "impl": "pipeline_cpsl.MultimodalSentimentPipeline",
    "pt": ["AutoModelForSequenceClassification"],
    "type": "multimodal",
}

# Names with another meaning in the data; tokenising adds the last two columns.
_RESERVED_NAMES = (*UTTERANCE_FIELDS, "input_ids", "word_index")


def check_modality_names(names: Iterable[str]) -> None:
    """Refuses names that a modality cannot have.

    Raises:
        ValueError: A name is not an identifier, or has another meaning in the data or in PyTorch.
    """
    for name in names:
        if not name.isidentifier() or name in _RESERVED_NAMES or hasattr(nn.ModuleDict(), name):
            raise ValueError(f"{name!r} cannot be the name of a modality; give its column another one")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int, name: str) -> None:
    """Refuses a tokenizer that is not the text encoder's own.

    Where files are missing, transformers makes a tokenizer that knows no word.

    Args:
        tokenizer: The tokenizer.
        vocab_size: The text encoder's number of embeddings.
        name: What the message begins with.
    """
    size = max(tokenizer.get_vocab().values()) + 1
    if not vocab_size / 2 < size <= vocab_size:
        raise ValueError(
            f"{name}: its tokenizer has {size} entries and the text encoder {vocab_size}; put the encoder's own "
            "tokenizer files there"
        )


# The default is None, which `__post_init__` replaces: on a finished config they are always dicts.
if TYPE_CHECKING:
    ModalitySizes = dict[str, int]
    ArchitectureOptions = dict[str, Any]
else:
    ModalitySizes = dict[str, int] | None
    ArchitectureOptions = dict[str, Any] | None

# Fields that a saved configuration leaves out where they say nothing.
_RARE_FIELDS = ("label_ranges", "class_weights")

# Fields that are fitted to a model's weights on held-out samples, and hold for no others.
FITTED_FIELDS = ("interval_half_widths", "interval_coverage", "decision_weights")

# One field `<name>_weight` for each loss that has a weight.
LossWeights: Any = make_dataclass(
    "LossWeights",
    [
        (
            f"{name}_weight",
            float | int,
            option(loss.weight, f"Weight of the {loss.title} in the objective ({loss.source})."),
        )
        for name, loss in LOSSES.items()
        if loss.weight is not None
    ],
    kw_only=True,
    repr=False,
    eq=False,
)


@dataclass(kw_only=True, repr=False, eq=False)
class CPSLConfigMixin(LossWeights):
    """The fields that CPSL adds to the configuration of any text encoder; defaults are the paper's (arXiv:2605.28575).

    Each field's meaning is its `help` text, which the command line's `--help` shows too.

    Raises:
        ValueError: A field is outside its range, or names an unknown choice.
    """

    if TYPE_CHECKING:  # of transformers' configuration
        problem_type: str | None
        id2label: dict[int, str]
        label2id: dict[str, int]

    # The output's fields that are not predictions.
    keys_to_ignore_at_inference = ["losses", "modality_errors", "modality_presence", "sample_values"]

    modality_sizes: ModalitySizes = option(
        None, "Feature size of each non-text modality by name; {} is text alone. Default: acoustic 74, visual 47."
    )
    use_text: bool = option(True, "Whether the model reads text.")
    architecture: str = option(
        "cpsl", "What stands above the text encoder: CPSL's own, or another system's.", ARCHITECTURES
    )
    architecture_options: ArchitectureOptions = option(
        None,
        f"Options of the architecture, a mapping (on the command line in JSON); {describe_options()}. Default: its "
        "own defaults.",
    )
    ame: bool = option(
        True, "Adaptive modality encoding (eq. 1): a variance head, and latent noise in training; off: Z = mean."
    )
    sl: bool = option(True, "Statistical Loss (eq. 3).")
    sl_kind: str = option(
        "mean_variance",
        "What the Statistical Loss compares of latents and features: mean and variance (the paper), skewness and "
        "kurtosis too (moments), or their distributions by a kernel (mmd).",
        STATISTICAL_DISTANCES,
    )
    modality_hidden_size: int = option(256, "Width of the modality encoders' and decoders' hidden layer.")
    latent_size: int = option(256, "Size d_z of the modality latents Z_m.")
    fusion_size: int = option(512, "Size d_f of the fused sequence F_av.")
    fusion: str = option("gated", "Fusion block.", FUSION_BLOCKS)
    boosted_heads: int = option(
        1,
        "Most unimodal heads of a modality. Above 1, the modality that predicts worst on validation gets another one "
        "after an epoch, which learns what its former ones have left over.",
    )
    residual_weight: float | int = option(1.0, "beta of eq. 2: weight of the injected shift.")
    encoder_dropout: float | int = option(0.3, "Dropout in the modality encoders.")
    classifier_dropout: float | int = option(0.5, "Dropout before the task head and the unimodal heads.")
    pooling: str = option(
        "mean",
        "Pooling of the fused sequence: the mean over words, attention over them with a learned query, or the first "
        "token (cls), by which voice and face do not reach the prediction.",
        POOLINGS,
    )
    feature_normalization: str = option(
        "minmax_running",
        "minmax_running: batch statistics in training, running ones in evaluation; minmax_batch: batch statistics in "
        "both (the paper to the letter; a prediction then depends on its batch); none: features as they come.",
        FEATURE_NORMALIZATIONS,
    )
    task_loss: str = option("mse", "Regression loss of the task head; classes have their cross-entropy.", TASK_LOSSES)
    label_ranges: dict[str, list[float | int]] | None = option(
        None,
        "The least and the greatest label of numbers by name. Default: [-3, 3] for the only number or one called "
        "sentiment, and no bounds for others.",
    )
    class_weights: dict[str, float | int] | None = option(
        None, "What each class counts by in the losses. Default: all alike."
    )
    interval_half_widths: dict[str, float | list[float]] | None = option(
        None,
        "Half the width of a prediction's interval, by the modalities that the utterance has; a list for several "
        "numbers. For classes the largest 1 - p of a class in the set that is predicted. Set by calibration on "
        "held-out samples, not by hand.",
    )
    interval_coverage: float | None = option(None, "The coverage that interval_half_widths were calibrated for.")
    decision_weights: dict[str, dict[str, list[float]]] | None = option(
        None,
        "How evaluation weighs the fused prediction and those from one modality alone: weight, offset and slope of "
        "each, by the modalities that the utterance has; set by fitting on held-out samples, not by hand.",
    )

    def __post_init__(self, **kwargs: Any) -> None:
        sizes = DEFAULT_MODALITY_SIZES if self.modality_sizes is None else self.modality_sizes
        # JSON sorts the keys of a saved config; an order taken from the dict would swap W_g's inputs on reload.
        self.modality_sizes = dict(sorted(sizes.items()))
        self._check_fields()
        names = self._modality_names()
        self.architecture_options = checked_options(self.architecture, self.architecture_options or {}, names)
        if not __name__.startswith("transformers_modules."):
            # The package has registered its own pipeline: without the folder's copy, trust_remote_code is not needed.
            kwargs.pop("custom_pipelines", None)
        if self.id2label is None:
            kwargs = {"num_labels": 1, **kwargs}
        super().__post_init__(**kwargs)
        self._check_task()

    def to_dict(self) -> dict[str, Any]:
        """As [`~transformers.PreTrainedConfig.to_dict`], with the pipeline, whose code is saved with the model."""
        values = {**super().to_dict(), "custom_pipelines": {PIPELINE_TASK: _PIPELINE}}
        return {name: value for name, value in values.items() if name not in _RARE_FIELDS or value is not None}

    def _modality_names(self) -> list[str]:
        return [*(["text"] if self.use_text else []), *self.modality_sizes]

    def _check_task(self) -> None:
        if self.problem_type is None:
            if self.num_labels != 1:
                raise ValueError(
                    f"num_labels={self.num_labels}: say with problem_type what they are; from_backbone() builds a "
                    "config that leaves an encoder's labels out"
                )
            # transformers' text-classification pipeline would otherwise put the prediction through a sigmoid.
            self.problem_type = SENTIMENT.problem_type
        if self.id2label == {0: "LABEL_0"}:
            (name,) = SENTIMENT.names
            self.id2label, self.label2id = {0: name}, {name: 0}
        check_task(self)
        if self.label2id is None:
            self.label2id = {name: place for place, name in self.id2label.items()}
        if not (task := task_of(self)).is_one_number:
            only_numbers = {
                f"architecture={self.architecture!r}": ARCHITECTURES[self.architecture].predicts_one_number,
                f"boosted_heads={self.boosted_heads}": self.boosted_heads > 1,
                "decision_weights": bool(self.decision_weights),
            }
            for given in (given for given, is_so in only_numbers.items() if is_so):
                raise ValueError(
                    f"{given} is made for labels that are one number, not for {', '.join(task.names)}; leave it out"
                )
        if self.task_loss != "mse" and self.problem_type != SENTIMENT.problem_type:
            raise ValueError(f"task_loss={self.task_loss!r} has no effect on classes; leave it out")
        if self.concordance_weight > 0 and self.problem_type != SENTIMENT.problem_type:
            raise ValueError(f"concordance_weight={self.concordance_weight} is for numbers, not classes; leave it out")

    def _check_fields(self) -> None:
        check_modality_names(self.modality_sizes)
        for name, size in self.modality_sizes.items():
            if size < 1:
                raise ValueError(f"modality_sizes: {name} has size {size}; it must be at least 1")
        if not self.use_text and not self.modality_sizes:
            raise ValueError("use_text=False with modality_sizes={} leaves the model without any modality")
        for field in dataclass_fields(CPSLConfigMixin):
            choices, value = field.metadata.get("choices"), getattr(self, field.name)
            if choices is not None and value not in choices:
                raise ValueError(f"{field.name}={value!r} is unknown; choose one of {', '.join(choices)}")
        check_modality_count(self.architecture, self._modality_names())
        read = ARCHITECTURES[self.architecture].config_fields
        for field in dataclass_fields(CPSLConfigMixin):
            value = getattr(self, field.name)
            if field.name in ARCHITECTURES["cpsl"].config_fields - read and value != field.default:
                raise ValueError(
                    f"{field.name}={value!r} has no effect with architecture={self.architecture!r}; leave it out"
                )
        for field_name in ("modality_hidden_size", "latent_size", "fusion_size", "boosted_heads"):
            check_size(field_name, getattr(self, field_name))
        for field_name in ("encoder_dropout", "classifier_dropout"):
            check_probability(field_name, getattr(self, field_name))
        for field in dataclass_fields(LossWeights):
            check_weight(field.name, getattr(self, field.name))
        check_decision_weights(self.decision_weights or {})
        if not math.isfinite(self.residual_weight):
            raise ValueError(f"residual_weight={self.residual_weight} must be finite")
        if self.num_hidden_layers > MOST_LAYERS:
            raise ValueError(f"num_hidden_layers={self.num_hidden_layers} must be at most {MOST_LAYERS}")
        if not self.use_text and self.pooling == "cls":
            raise ValueError("pooling='cls' reads the text encoder's first token, but use_text=False; use 'mean'")
        if not self.use_text and self.pooling != "mean" and self.architecture == "late":
            raise ValueError(
                f"pooling={self.pooling!r} with architecture='late' is of text, but use_text=False; use 'mean'"
            )

    @classmethod
    def from_backbone(cls, backbone: PreTrainedConfig, **fields: Any) -> "PreTrainedConfig":
        """Builds the configuration over a plain text encoder's.

        Args:
            backbone: The encoder's configuration, of the class that this one extends.
            **fields: Values for the fields of [`CPSLConfigMixin`].

        Raises:
            ValueError: `backbone` is of another architecture.
        """
        if not issubclass(cls, type(backbone)):
            raise ValueError(f"{cls.__name__} does not extend {type(backbone).__name__} ({backbone.model_type})")
        # BERT has a classifier_dropout of its own, with another meaning.
        left_out = {
            *_BACKBONE_IDENTITY,
            *_BACKBONE_TASK,
            *(field.name for field in dataclass_fields(CPSLConfigMixin)),
        }
        inherited = {name: value for name, value in backbone.to_dict().items() if name not in left_out}
        return cls(**{**inherited, **fields})

    def backbone_config(self) -> PreTrainedConfig:
        """The configuration of the plain text encoder, of the class that this one extends."""
        plain = next(
            base
            for base in type(self).__mro__
            if issubclass(base, PreTrainedConfig) and not issubclass(base, CPSLConfigMixin)
        )
        left_out = {"custom_pipelines", *_BACKBONE_IDENTITY, *_BACKBONE_TASK}
        left_out |= {field.name for field in dataclass_fields(CPSLConfigMixin)}
        return plain(**{name: value for name, value in self.to_dict().items() if name not in left_out})


@strict
class CPSLConfig(CPSLConfigMixin, DebertaV2Config):
    """Configuration of [`CPSLForSentimentRegression`]: DeBERTa-v3-base's values, and [`CPSLConfigMixin`]'s fields."""

    model_type = "cpsl"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    relative_attention: bool = True
    position_buckets: int = 256
    norm_rel_ebd: str = "layer_norm"
    share_att_key: bool = True
    pos_att_type: str | list[str] | None = "p2c|c2p"
    position_biased_input: bool = False


@strict
class CPSLBertConfig(CPSLConfigMixin, BertConfig):
    """Configuration of [`CPSLBertForSentimentRegression`]: BERT's values, and [`CPSLConfigMixin`]'s fields."""

    model_type = "cpsl-bert"


@strict
class CPSLMPNetConfig(CPSLConfigMixin, MPNetConfig):
    """Configuration of [`CPSLMPNetForSentimentRegression`]: MPNet's values, and [`CPSLConfigMixin`]'s fields."""

    model_type = "cpsl-mpnet"


__all__ = ["FITTED_FIELDS", "CPSLBertConfig", "CPSLConfig", "CPSLConfigMixin", "CPSLMPNetConfig"]
