"""Training arguments of fine-tuning: what of the text encoder is trained, how fast, and what is averaged."""

import math
from dataclasses import dataclass, field

from data_builders.files import check_at_least_1

from .method_options import MethodOptions, check_method, chosen_method
from .weight_averaging import WEIGHT_AVERAGING, WeightAveraging


# Which rows of the text encoder's embedding table are trained, see `embedding_rows`.
TRAIN_EMBEDDINGS = ("used", "all", "none")


@dataclass
class FineTuningArguments:
    """The part of the training arguments that is of use in fine-tuning; the meaning of each is its `help` text."""

    train_embeddings: str = field(
        default=TRAIN_EMBEDDINGS[0],
        metadata={
            "help": "Which rows of the text encoder's embedding table are trained: used (those of tokens that the "
            "training data has), all, or none.",
            "choices": list(TRAIN_EMBEDDINGS),
        },
    )
    encoder_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the text encoder. Default: learning_rate."}
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Peak learning rate of all that stands above the text encoder. Default: learning_rate."},
    )
    layer_learning_rate_decay: float = field(
        default=1.0,
        metadata={
            "help": "Each layer of the text encoder has so many times the learning rate of the layer above it, down "
            "to the embeddings; the top layer has the whole one. 1: all layers learn alike."
        },
    )
    freeze_encoder: bool = field(
        default=False,
        metadata={"help": "Leave the text encoder as it is, and without dropout; only what stands above it learns."},
    )

    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "Train the linear layers of the text encoder by adapters of this rank (LoRA) and nothing else of "
            "it; saved models are plain. Needs the extra lora. Default: train the encoder itself."
        },
    )
    mixout: float = field(
        default=0.0,
        metadata={
            "help": "Mixout: in training the weights of each input of the text encoder's linear layers are with this "
            "probability those that the training began with, drawn anew in each pass (docs/transfer.md)."
        },
    )
    weight_averaging: str = field(
        default="none",
        metadata={
            "help": "Evaluate and keep an average of the weights: swa (the mean over the ends of the last epochs), "
            "ema (an exponential moving average over steps), or none (docs/transfer.md).",
            "choices": list(WEIGHT_AVERAGING),
        },
    )
    weight_averaging_options: MethodOptions = field(
        default=None, metadata={"help": "Options of weight_averaging, as in start=0.5; in YAML a mapping."}
    )
    rdrop_weight: float = field(
        default=0.0,
        metadata={
            "help": "Above 0: each training sample is predicted twice, and R-Drop's loss of how far apart the two "
            "are, by dropout and latent noise, has this weight. A step costs twice as much."
        },
    )

    distillation_members: int = field(
        default=0,
        metadata={
            "help": "Above 0: first train so many models with other seeds, and have this one learn from the mean of "
            "what they predict for the training samples, beside the labels (docs/transfer.md)."
        },
    )
    distillation_weight: float = field(
        default=0.5,
        metadata={"help": "How much of the task loss is that of the members' mean; the rest is that of the labels."},
    )

    @property
    def averaging(self) -> WeightAveraging:
        """The way to average weights that `weight_averaging` names."""
        return chosen_method(self, "weight_averaging", WEIGHT_AVERAGING)

    def check_fine_tuning(self) -> None:
        """ValueError where a value is out of range, or two of them contradict each other."""
        if self.train_embeddings not in TRAIN_EMBEDDINGS:
            raise ValueError(
                f"train_embeddings={self.train_embeddings!r} must be one of {', '.join(TRAIN_EMBEDDINGS)}"
            )
        for name in ("encoder_learning_rate", "head_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0.0 <= rate < math.inf:
                raise ValueError(f"{name}={rate} must be a finite number, at least 0")
        if not 0.0 < self.layer_learning_rate_decay <= 1.0:
            raise ValueError(
                f"layer_learning_rate_decay={self.layer_learning_rate_decay} must be above 0 and at most 1"
            )
        check_method(self, "weight_averaging", WEIGHT_AVERAGING)
        if not 0.0 <= self.rdrop_weight < math.inf:
            raise ValueError(f"rdrop_weight={self.rdrop_weight} must be a finite number, at least 0")
        if self.distillation_members < 0:
            raise ValueError(f"distillation_members={self.distillation_members} must be at least 0")
        if not 0.0 < self.distillation_weight <= 1.0:
            raise ValueError(f"distillation_weight={self.distillation_weight} must be above 0 and at most 1")
        check_at_least_1(lora_rank=self.lora_rank)
        if not 0.0 <= self.mixout < 1.0:
            raise ValueError(f"mixout={self.mixout} must be at least 0 and below 1")
        if self.mixout and self.lora_rank is not None:
            raise ValueError(
                "mixout has no effect with lora_rank, which trains no weight of an encoder; leave one out"
            )
        if self.freeze_encoder:
            of_no_effect = {
                "lora_rank": self.lora_rank is not None,
                "mixout": self.mixout > 0,
                "encoder_learning_rate": self.encoder_learning_rate is not None,
                "layer_learning_rate_decay": self.layer_learning_rate_decay != 1.0,
            }
            if given := [name for name, is_given in of_no_effect.items() if is_given]:
                raise ValueError(f"{given[0]} has no effect with freeze_encoder; leave one of them out")


__all__ = ["TRAIN_EMBEDDINGS", "FineTuningArguments"]
