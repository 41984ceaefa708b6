"""`Trainer` that trains of the text encoder what is asked for."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin
from .checkpoints import load_training_state, resuming_from
from .embedding_rows import trained_embeddings
from .low_rank_adapters import LowRankAdapters
from .mixout import Mixout


# What a checkpoint keeps beside Trainer's own files, where adapters are trained, and with mixout.
ADAPTERS_FILE = "adapters.pt"
FIRST_WEIGHTS_FILE = "first_weights.pt"


class EncoderMixin(TrainableModelMixin):
    """Follows `freeze_encoder`, `lora_rank`, `mixout` and `train_embeddings` until `train` ends.

    Then the model has the parameters that it had before, trained. A model that reads no text stays as it is.
    """

    args: CPSLTrainingArguments
    _until_trained: contextlib.ExitStack
    _adapters: LowRankAdapters | None = None
    _mixout: Mixout | None = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.is_in_train:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._add_adapters()
        if self._adapters is None:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        own_weights = self._adapters.own_weights()
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = load_training_state(resume_from_checkpoint, ADAPTERS_FILE, self.args.device)
        with resuming_from(resume_from_checkpoint):
            self._adapters.load_state_dict(state, own_weights)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        self._add_adapters()
        if self.args.freeze_encoder and "text" in self.unwrapped_model.modality_names:
            self._until_trained.enter_context(frozen(self.unwrapped_model.modality_parameters("text")))
        self._add_mixout(resume_from_checkpoint)
        self._choose_trained_embeddings()
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and self._adapters is not None:
            torch.save(self._adapters.state_dict(), Path(output_dir) / ADAPTERS_FILE)
        if self.args.should_save and self._mixout is not None:
            torch.save(self._mixout.first_weights, Path(output_dir) / FIRST_WEIGHTS_FILE)

    def _add_adapters(self) -> None:
        """Adds the adapters that `lora_rank` asks for, unless they are there."""
        rank = self.args.lora_rank
        if rank is None or self._adapters is not None or "text" not in self.unwrapped_model.modality_names:
            return
        if self.optimizer is not None or self.is_fsdp_enabled:
            what = "FSDP shards" if self.is_fsdp_enabled else "an optimizer that is given has"
            raise ValueError(f"lora_rank={rank}: {what} the parameters of the encoder itself; leave one of them out")
        self._adapters = LowRankAdapters(self.model, rank)
        self._until_trained.callback(self._merge_adapters)

    def _merge_adapters(self) -> None:
        assert self._adapters is not None
        self._adapters.merge()
        self._adapters = None
        self._forget_optimizer()

    def _add_mixout(self, checkpoint: str | None) -> None:
        """Adds the `mixout` that is asked for, unless it is there; from a checkpoint with that training's weights."""
        model = self.unwrapped_model
        if not self.args.mixout or self._mixout is not None or "text" not in model.modality_names:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                f"mixout={self.args.mixout} needs whole weights, and FSDP and DeepSpeed shard them; leave it out"
            )
        self._mixout = Mixout(self.model, model.modality_parameters("text"), self.args.mixout)
        self._until_trained.callback(self._remove_mixout)
        if checkpoint is not None:
            state = load_training_state(checkpoint, FIRST_WEIGHTS_FILE, self.args.device)
            with resuming_from(checkpoint):
                self._mixout.load_first_weights(state)

    def _remove_mixout(self) -> None:
        assert self._mixout is not None
        self._mixout.remove()
        self._mixout = None

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
