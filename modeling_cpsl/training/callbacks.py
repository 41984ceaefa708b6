"""What happens at the steps and epochs of a training, as callbacks of transformers' `Trainer`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from ..modulation import GradientModulator
from .arguments import CPSLTrainingArguments


# The window closes after so many evaluations in which the imbalance of skill is not smaller than it was at its least.
EVALUATIONS_WITHOUT_FALL = 2


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


def adapted_end_epoch(history: Sequence[Mapping[str, Any]], names: Sequence[str], start_epoch: int) -> int | None:
    """The last epoch of a modulation window that closes by itself; None as long as it is open.

    The imbalance after an epoch is the largest difference between the validation skills of two modalities. The window
    closes for good once [`EVALUATIONS_WITHOUT_FALL`] evaluations in a row are not below its least value so far.
    Evaluations before the window, and those in which no modality has any skill, say nothing of it.

    Args:
        history: Rows of a log; evaluations have `eval_skill_<modality>`.
        names: The modulated modalities.
        start_epoch: First epoch of the window, counted from 0.
    """
    least, num_without_fall = math.inf, 0
    for row in history:
        skills = [row[f"eval_skill_{name}"] for name in names if f"eval_skill_{name}" in row]
        if len(skills) < 2 or not max(skills) > 0 or row["epoch"] <= start_epoch:
            continue
        imbalance = max(skills) - min(skills)
        num_without_fall = 0 if imbalance < least else num_without_fall + 1
        least = min(least, imbalance)
        if num_without_fall == EVALUATIONS_WITHOUT_FALL:
            return math.ceil(row["epoch"]) - 1
    return None


class AdaptiveWindow(TrainerCallback):
    """Closes the modulation's window when an epoch begins, by [`adapted_end_epoch`] of the log.

    Checkpoints keep the log, so that a training that is resumed has the same window.
    """

    def __init__(self, modulator: Callable[[], GradientModulator | None]):
        self.modulator = modulator

    def on_train_begin(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes the window of a training that is resumed."""
        modulator = self.modulator()
        if modulator is not None:
            config = modulator.config
            end = adapted_end_epoch(state.log_history, modulator.modalities, config.start_epoch)
            if end is not None and end < config.end_epoch:
                modulator.config = replace(config, end_epoch=end)

    def on_epoch_begin(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes the window where it is time."""
        self.on_train_begin(args, state, control)


__all__ = ["AdaptiveWindow", "EarlyStopping", "EpochBoundaries", "StepEnds", "adapted_end_epoch"]
