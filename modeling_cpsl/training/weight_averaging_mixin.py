"""`Trainer` that evaluates and keeps averages of weights."""

from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import TrainOutput

from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin
from .checkpoints import load_training_state, resuming_from
from .weight_averaging import AveragedWeights


# What a checkpoint keeps beside Trainer's own files, where weights are averaged.
WEIGHTS_FILE = "weights_of_training.pt"


class WeightAveragingMixin(TrainableModelMixin):
    """Averages weights as `weight_averaging` says.

    The training itself is what it is without. As soon as there is an average, it is what is evaluated and saved, so
    that validation chooses between it and earlier epochs; a training that does not look for the best epoch ends with
    it.
    """

    args: CPSLTrainingArguments
    _averaged: AveragedWeights | None = None

    def average_weights(self) -> None:
        """Called when a step is done: takes the weights into the average where they count."""
        if self._averaged is not None:
            state = self.state
            progress, ends_epoch = state.global_step / state.max_steps, state.epoch == int(state.epoch)
            if self._averaged.averaging.is_due(progress, ends_epoch):
                self._averaged.update()

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        averaging, self._averaged = self.args.averaging, None
        if not averaging.averages:
            return prepared
        if self.is_fsdp_enabled:
            raise ValueError("weight_averaging: weights that FSDP has sharded are not averaged; leave one of them out")
        self._averaged = AveragedWeights(self.unwrapped_model, averaging)
        if resume_from_checkpoint is not None:
            state = load_training_state(resume_from_checkpoint, WEIGHTS_FILE, self.args.device)
            with resuming_from(resume_from_checkpoint):
                self._averaged.load_state_dict(state)
        return prepared

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self._averaged is not None and (self.control.should_evaluate or self.control.should_save):
            with self._averaged.in_place():
                super()._maybe_log_save_evaluate(*args, **kwargs)
        else:
            super()._maybe_log_save_evaluate(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and self._averaged is not None:
            torch.save(self._averaged.state_dict(), Path(output_dir) / WEIGHTS_FILE)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        if self._averaged is not None:
            self._averaged.keep()  # the best epoch's weights, where they are looked for, take their place
            self._averaged = None
        return super()._finalize_training(*args, **kwargs)


__all__ = ["WeightAveragingMixin"]
