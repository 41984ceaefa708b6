"""`Trainer` whose modulation follows how unlike the validation skills of the modalities are.

What it does in an epoch follows from the evaluations before it, which the log has and checkpoints keep: a training
that is resumed does the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..modulation.rules import ConflictAware
from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin
from .callbacks import EpochBeginnings


# The window closes after so many evaluations in which the imbalance of skill is not smaller than it was at its least.
EVALUATIONS_WITHOUT_FALL = 2

# The loss whose weight the strength scales.
SCALED_LOSS = "statistical"


def imbalances(history: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[tuple[float, float]]:
    """The epoch and the imbalance of evaluations: the largest difference between the skills of two modalities.

    Those in which no modality has any skill are left out: skills that are both 0 look balanced.

    Args:
        history: Rows of a log; evaluations have `eval_skill_<modality>`.
        names: The modulated modalities.
    """
    found = []
    for row in history:
        skills = [row[f"eval_skill_{name}"] for name in names if f"eval_skill_{name}" in row]
        if len(skills) > 1 and max(skills) > 0:
            found.append((row["epoch"], max(skills) - min(skills)))
    return found


def adapted_end_epoch(found: Sequence[tuple[float, float]], start_epoch: int) -> int | None:
    """The last epoch of a modulation window that closes by itself; None as long as it is open.

    The window closes for good once [`EVALUATIONS_WITHOUT_FALL`] evaluations in a row are not below the least imbalance
    so far. Evaluations before the window say nothing of it.

    Args:
        found: See [`imbalances`].
        start_epoch: First epoch of the window, counted from 0.
    """
    least, num_without_fall = math.inf, 0
    for epoch, imbalance in found:
        if epoch <= start_epoch:
            continue
        num_without_fall = 0 if imbalance < least else num_without_fall + 1
        least = min(least, imbalance)
        if num_without_fall == EVALUATIONS_WITHOUT_FALL:
            return math.ceil(epoch) - 1
    return None


def adapted_strength(found: Sequence[tuple[float, float]]) -> float:
    """How much of the imbalance at its largest there still is, in [0, 1]: the mean of the last two over the largest.

    Args:
        found: See [`imbalances`]. With fewer than two of them it is 1.
    """
    values = [imbalance for _, imbalance in found]
    if len(values) < 2:
        return 1.0
    return (values[-1] + values[-2]) / (2 * max(values)) if max(values) > 0 else 0.0


class AdaptiveModulationMixin(TrainableModelMixin):
    """Closes the window of modulation (`adaptive_window`), and sets the strength of CP and SL (`adaptive_strength`).

    With the strength lambda the penalty's factor is 1 - lambda (1 - `penalty_factor`), and the statistical loss counts
    lambda times its weight.
    """

    args: CPSLTrainingArguments
    strength: float = 1.0

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        penalizes = self.args.balance == "cpsl" and self.args.cp
        if self.args.adaptive_strength and not penalizes and SCALED_LOSS not in self.unwrapped_model.loss_names:
            raise ValueError(
                "adaptive_strength=True has nothing to scale: conflicts are not penalised (--cp), and the model has "
                "no Statistical Loss; leave it out"
            )
        if self.args.adaptive_window or self.args.adaptive_strength:
            self.add_callback(EpochBeginnings(self._adapt))

    def _adapt(self) -> None:
        modulator, num_epochs = self.modulator, int(self.state.epoch or 0.0)
        if modulator is None:
            return
        config = modulator.config
        # of an epoch that is resumed in its middle, evaluations in it had no say when it began
        history = [row for row in self.state.log_history if row.get("epoch", 0.0) <= num_epochs]
        found = imbalances(history, modulator.modalities)
        if self.args.adaptive_window:
            end = adapted_end_epoch(found, config.start_epoch)
            if end is not None and end < config.end_epoch:
                modulator.config = replace(config, end_epoch=end)
        if self.args.adaptive_strength:
            self.strength = adapted_strength(found)
            if isinstance(modulator.rule, ConflictAware):
                modulator.rule.penalty_factor = 1 - self.strength * (1 - config.penalty_factor)
            if SCALED_LOSS in self.unwrapped_model.loss_names:
                self.unwrapped_model.scale_loss(SCALED_LOSS, self.strength)


__all__ = ["AdaptiveModulationMixin", "adapted_end_epoch", "adapted_strength", "imbalances"]
