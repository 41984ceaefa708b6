"""Training arguments that say what of the text encoder is trained, and how fast."""

import math
from dataclasses import dataclass, field


# Which rows of the text encoder's embedding table are trained, see `embedding_rows`.
TRAIN_EMBEDDINGS = ("used", "all", "none")


@dataclass
class EncoderArguments:
    """The part of the training arguments that is about the text encoder; the meaning of each is its `help` text."""

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

    def check_encoder_arguments(self) -> None:
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
        if self.freeze_encoder:
            of_no_effect = {
                "encoder_learning_rate": self.encoder_learning_rate is not None,
                "layer_learning_rate_decay": self.layer_learning_rate_decay != 1.0,
            }
            if given := [name for name, is_given in of_no_effect.items() if is_given]:
                raise ValueError(f"{given[0]} has no effect with freeze_encoder; leave one of them out")


__all__ = ["TRAIN_EMBEDDINGS", "EncoderArguments"]
