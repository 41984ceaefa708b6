"""What the mixins of a trainer share."""

from typing import TYPE_CHECKING

from .contract import TrainableModel
from .means import MeanTracker


# To a type checker a mixin is a trainer itself, since it is only ever mixed into one.
if TYPE_CHECKING:
    from transformers import Trainer as TrainerBase
else:
    TrainerBase = object


class TrainableModelMixin(TrainerBase):
    """A trainer of a [`TrainableModel`]."""

    # Of what is logged in training, over: the run, the epoch, and the steps since the last row of the log.
    _train_means: dict[str, MeanTracker]

    @property
    def unwrapped_model(self) -> TrainableModel:
        """The model without what distributed training wraps around it."""
        return self.accelerator.unwrap_model(self.model)


__all__ = ["TrainableModelMixin", "TrainerBase"]
