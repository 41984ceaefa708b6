"""Configurations: the fields of CPSL over the configuration of a text encoder."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import BertConfig, DebertaV2Config, MPNetConfig, PreTrainedConfig


# CMU-MOSI: 74 COVAREP columns and 47 FACET columns.
DEFAULT_MODALITY_SIZES = {"acoustic": 74, "visual": 47}

FEATURE_NORMALIZATIONS = ("minmax_running", "minmax_batch", "none")
POOLINGS = ("mean", "cls")
TASK_LOSSES = ("mse", "l1", "smooth_l1")
FUSIONS = ("gated", "concat", "sum", "attention")

# What a backbone's configuration says of itself and not of its architecture.
_BACKBONE_IDENTITY = ("model_type", "architectures", "transformers_version", "auto_map", "id2label", "label2id")


# Columns of the encoded data that are no features.
_OTHER_COLUMNS = ("id", "words", "label", "text", "input_ids", "word_index")


def check_modality_names(names: Iterable[str]) -> None:
    """Refuses names that a modality cannot have.

    Raises:
        ValueError: A name is no identifier, or means something else in the data or to PyTorch.
    """
    for name in names:
        if not name.isidentifier() or name in _OTHER_COLUMNS or hasattr(nn.ModuleDict(), name):
            raise ValueError(f"{name!r} cannot be the name of a modality; give its column another one")


def _option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    metadata: dict[str, Any] = {"help": help}
    if choices is not None:
        metadata["choices"] = list(choices)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True, repr=False, eq=False)
class CPSLFields:
    """The fields that CPSL adds to the configuration of any text encoder; defaults are the paper's (arXiv:2605.28575).

    Each field's meaning is its `help` text, which is also what `run_train.py --help` shows.

    Raises:
        ValueError: A field is outside its range, or names an unknown choice.
    """

    modality_sizes: dict[str, int] | None = _option(
        None, "Feature size of each non-text modality by name; {} is text alone. Default: acoustic 74, visual 47."
    )
    use_text: bool = _option(True, "Whether the text encoder takes part.")
    ame: bool = _option(
        True, "Adaptive modality encoding (eq. 1): a variance head and latent noise in training; off: Z = mean."
    )
    sl: bool = _option(True, "Statistical Loss (eq. 3).")
    modality_hidden_size: int = _option(256, "Width of the modality encoders' and decoders' hidden layer.")
    latent_size: int = _option(256, "Size d_z of the modality latents Z_m.")
    fusion_size: int = _option(512, "Size d_f of the fused sequence F_av.")
    fusion: str = _option("gated", "Fusion block.", FUSIONS)
    residual_weight: float | int = _option(1.0, "beta of eq. 2: weight of the injected shift.")
    encoder_dropout: float | int = _option(0.3, "Dropout in the modality encoders.")
    classifier_dropout: float | int = _option(0.5, "Dropout before the task head and the unimodal heads.")
    pooling: str = _option(
        "mean", "Pooling of the fused sequence. `cls` leaves the prediction without voice and face.", POOLINGS
    )
    feature_normalization: str = _option(
        "minmax_running",
        "minmax_running: batch statistics in training, running ones in evaluation; minmax_batch: batch statistics in "
        "both (the paper to the letter; a prediction then depends on its batch); none: features as they come.",
        FEATURE_NORMALIZATIONS,
    )
    task_loss: str = _option("mse", "Regression loss of the task head.", TASK_LOSSES)
    reconstruction_weight: float | int = _option(1.0, "lambda_recon of eq. 4.")
    unimodal_weight: float | int = _option(0.5, "lambda_uni of eq. 4.")
    diversity_weight: float | int = _option(0.1, "lambda_div of eq. 4.")
    statistical_weight: float | int = _option(0.1, "lambda_stat of eq. 4.")
    interval_half_widths: dict[str, float] | None = _option(
        None,
        "Half the width of a prediction's interval, by the modalities that the utterance has; set by calibration on "
        "held-out samples, not by hand.",
    )
    interval_coverage: float | None = _option(None, "The coverage that interval_half_widths were calibrated for.")

    def __post_init__(self, **kwargs: Any) -> None:
        sizes = DEFAULT_MODALITY_SIZES if self.modality_sizes is None else self.modality_sizes
        # JSON sorts the keys of a saved config; an order taken from the dict would swap W_g's inputs on reload.
        self.modality_sizes = dict(sorted(sizes.items()))
        self._check_fields()
        if not __name__.startswith("transformers_modules."):
            # The package has registered its pipeline; the folder's copy would have to be trusted for nothing.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**{"num_labels": 1, **kwargs})
        if self.num_labels != 1:
            raise ValueError(
                f"num_labels={self.num_labels}: sentiment is one number; from_backbone() leaves labels out"
            )

    def _check_fields(self) -> None:
        check_modality_names(self.modality_sizes)
        for name, size in self.modality_sizes.items():
            if size < 1:
                raise ValueError(f"modality_sizes: {name} has size {size}; it must be at least 1")
        if not self.use_text and not self.modality_sizes:
            raise ValueError("use_text=False with modality_sizes={} leaves no modality at all")
        for field_name, choices in (
            ("fusion", FUSIONS),
            ("pooling", POOLINGS),
            ("feature_normalization", FEATURE_NORMALIZATIONS),
            ("task_loss", TASK_LOSSES),
        ):
            if getattr(self, field_name) not in choices:
                raise ValueError(f"{field_name}={getattr(self, field_name)!r} is none of {', '.join(choices)}")
        for field_name in ("modality_hidden_size", "latent_size", "fusion_size"):
            if getattr(self, field_name) < 1:
                raise ValueError(f"{field_name}={getattr(self, field_name)} must be at least 1")
        for field_name in ("encoder_dropout", "classifier_dropout"):
            if not 0.0 <= getattr(self, field_name) < 1.0:
                raise ValueError(f"{field_name}={getattr(self, field_name)} must be in [0, 1)")
        for loss in ("reconstruction", "unimodal", "diversity", "statistical"):
            if not 0.0 <= getattr(self, f"{loss}_weight") < float("inf"):
                raise ValueError(f"{loss}_weight={getattr(self, f'{loss}_weight')} must be finite and at least 0")
        if not math.isfinite(self.residual_weight):
            raise ValueError(f"residual_weight={self.residual_weight} must be finite")
        if not self.use_text and self.pooling == "cls":
            raise ValueError("pooling='cls' reads the text encoder's first token, but use_text=False; use 'mean'")

    @classmethod
    def from_backbone(cls, backbone: PreTrainedConfig, **fields: Any) -> "PreTrainedConfig":
        """Builds the configuration over a plain text encoder's.

        Args:
            backbone: The encoder's configuration, of the class that this one extends.
            **fields: Values for the fields of [`CPSLFields`].

        Raises:
            ValueError: `backbone` is of another architecture.
        """
        if not issubclass(cls, type(backbone)):
            raise ValueError(f"{cls.__name__} does not extend {type(backbone).__name__} ({backbone.model_type})")
        # BERT has a classifier_dropout of its own, which is not what it is here.
        left_out = {*_BACKBONE_IDENTITY, "num_labels", *(option.name for option in dataclass_fields(CPSLFields))}
        inherited = {name: value for name, value in backbone.to_dict().items() if name not in left_out}
        return cls(**{**inherited, **fields})


@strict
class CPSLConfig(CPSLFields, DebertaV2Config):
    """Configuration of [`CPSLForSentimentRegression`]: DeBERTa-v3-base's values and the fields of [`CPSLFields`]."""

    model_type = "cpsl"
    keys_to_ignore_at_inference = ["losses", "modality_errors", "modality_presence"]

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
class CPSLBertConfig(CPSLFields, BertConfig):
    """Configuration of [`CPSLBertForSentimentRegression`]: BERT's values and the fields of [`CPSLFields`]."""

    model_type = "cpsl-bert"
    keys_to_ignore_at_inference = CPSLConfig.keys_to_ignore_at_inference


@strict
class CPSLMPNetConfig(CPSLFields, MPNetConfig):
    """Configuration of [`CPSLMPNetForSentimentRegression`]: MPNet's values and the fields of [`CPSLFields`]."""

    model_type = "cpsl-mpnet"
    keys_to_ignore_at_inference = CPSLConfig.keys_to_ignore_at_inference


__all__ = ["CPSLBertConfig", "CPSLConfig", "CPSLFields", "CPSLMPNetConfig"]
