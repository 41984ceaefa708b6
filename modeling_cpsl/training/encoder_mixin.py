"""`Trainer` that trains of the text encoder what is asked for."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin
from .embedding_rows import trained_embeddings


class EncoderMixin(TrainableModelMixin):
    """Follows `freeze_encoder` and `train_embeddings` until `train` ends; then the model is as before, but trained."""

    args: CPSLTrainingArguments
    _until_trained: contextlib.ExitStack

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        names = self.unwrapped_model.modality_names
        if self.args.freeze_encoder and "text" in names:
            self._until_trained.enter_context(frozen(self.unwrapped_model.modality_parameters("text")))
        self._choose_trained_embeddings()
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _choose_trained_embeddings(self) -> None:
        """Lets the model train the embeddings that `train_embeddings` names."""
        # A given optimizer knows the parameters already; shards cannot be put back into the table by one process.
        is_fixed = self.optimizer is not None or self.is_fsdp_enabled or self.is_deepspeed_enabled
        choice = "all" if is_fixed and self.args.train_embeddings == "used" else self.args.train_embeddings
        if self._until_trained.enter_context(trained_embeddings(self.model, choice, self.train_dataset)):
            self._until_trained.callback(self._forget_optimizer)

    def _forget_optimizer(self) -> None:
        """Has the next training build its optimizer, scheduler and wrapped model anew, for the parameters it has."""
        self.optimizer = self.lr_scheduler = None
        self.model_wrapped = self.model


@contextlib.contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Keeps parameters from being trained within the block; those that were trainable are so again after it."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


__all__ = ["EncoderMixin", "frozen"]
