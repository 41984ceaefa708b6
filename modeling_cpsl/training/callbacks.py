"""What happens at the steps and epochs of a training, as callbacks of transformers' `Trainer`."""

from collections.abc import Callable
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from .arguments import CPSLTrainingArguments


class EpochBoundaries(TrainerCallback):
    """Ends an epoch as soon as its last step is done, before that step's checkpoint, and begins the next one."""

    def __init__(self, log_epoch_means: Callable[[], None], update_sample_table: Callable[[int], None]):
        self.log_epoch_means, self.update_sample_table = log_epoch_means, update_sample_table

    def on_train_begin(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends a training that has no step left."""
        # A training that ended in the middle of an epoch would take one step more when it is resumed.
        control.should_training_stop = state.global_step >= state.max_steps

    def on_epoch_begin(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Tells the data loader which epoch it is."""
        # On several processes Trainer's own call does not reach the sampler of an epoch resumed in its middle.
        if hasattr(kwargs["train_dataloader"], "set_epoch"):
            kwargs["train_dataloader"].set_epoch(int(state.epoch))

    def on_step_end(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the epoch with its last step: what is remembered of samples is updated, and means are logged."""
        if state.epoch == int(state.epoch):
            self.update_sample_table(int(state.epoch))
            self.on_epoch_end(args, state, control)

    def on_epoch_end(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs the means of the epoch."""
        should_log = control.should_log or args.logging_strategy == IntervalStrategy.EPOCH
        self.log_epoch_means()
        # `log` resets should_log; keep it for Trainer's own row.
        control.should_log = should_log


class StepEnds(TrainerCallback):
    """Does something after each optimizer step, before its checkpoint."""

    def __init__(self, function: Callable[[], None]):
        self.function = function

    def on_step_end(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Calls the function."""
        self.function()


class EarlyStopping(EarlyStoppingCallback):
    """As transformers', but each training counts anew, and one that is resumed goes on counting."""

    def on_train_begin(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends a training whose patience is spent."""
        super().on_train_begin(args, state, control, **kwargs)
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"] if saved else 0
        control.should_training_stop |= self.early_stopping_patience_counter >= self.early_stopping_patience


class EpochBeginnings(TrainerCallback):
    """Calls a function when an epoch begins, also one that is resumed in its middle."""

    def __init__(self, prepare_epoch: Callable[[], None]):
        self.prepare_epoch = prepare_epoch

    def on_epoch_begin(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Calls it."""
        self.prepare_epoch()


__all__ = ["EarlyStopping", "EpochBeginnings", "EpochBoundaries", "StepEnds"]
