"""Boosted heads: between epochs, the modality that predicts worst on validation gets another head (AUG)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy

from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin


# Skills that differ by no more are as good as equal.
LARGEST_GAP = 0.02
# A modality whose last heads have not made its skill better gets no more of them.
HEADS_WITHOUT_GAIN = 2


def next_head(history: Sequence[Mapping[str, Any]], head_counts: Mapping[str, int], most_heads: int) -> str | None:
    """The modality that is to get another head, if any.

    It is the one of the smallest skill, as long as the largest is more than [`LARGEST_GAP`] above it, it has fewer
    than `most_heads`, and one of its last [`HEADS_WITHOUT_GAIN`] heads has made its best skill so far better. After
    *Rethinking Multimodal Learning from the Perspective of Mitigating Classification Ability Disproportion*
    (arXiv:2502.20120), with validation skill in place of its confidence in training.

    Args:
        history: Rows of a log; evaluations have `eval_skill_<modality>` and `eval_heads_<modality>`.
        head_counts: Number of heads by modality.
        most_heads: The most that one may have.
    """
    evaluations = [row for row in history if all(f"eval_heads_{name}" in row for name in head_counts)]
    if not evaluations or not head_counts:
        return None
    latest = evaluations[-1]
    if any(latest[f"eval_heads_{name}"] != count for name, count in head_counts.items()):
        return None  # a head that was added since has not been evaluated
    skills = {name: latest[f"eval_skill_{name}"] for name in head_counts if f"eval_skill_{name}" in latest}
    if not skills or max(skills.values()) - min(skills.values()) <= LARGEST_GAP:
        return None
    weakest = min(skills, key=lambda name: skills[name])
    best: dict[int, float] = {}  # the best skill by the number of heads
    for row in evaluations:
        count, skill = int(row[f"eval_heads_{weakest}"]), row.get(f"eval_skill_{weakest}", 0.0)
        best[count] = max(skill, best.get(count, 0.0))
    counts = sorted(best)
    gains = [best[count] > max(best[former] for former in counts if former < count) for count in counts[1:]]
    is_spent = len(gains) >= HEADS_WITHOUT_GAIN and not any(gains[-HEADS_WITHOUT_GAIN:])
    return None if is_spent or head_counts[weakest] >= most_heads else weakest


class HeadGiver(TrainerCallback):
    """At the beginning of an epoch, when the checkpoint of the one before is written, adds the head that is due.

    What is due follows from the log, which checkpoints keep: a training that is resumed gives the same heads.
    """

    def __init__(self, add_head: Callable[[Sequence[Mapping[str, Any]]], None]):
        self.add_head = add_head

    def on_epoch_begin(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds at most one head."""
        self.add_head(state.log_history)


class BoostingMixin(TrainableModelMixin):
    """Gives heads to the modalities of a model with `most_heads` above 1, and logs how many they have."""

    args: CPSLTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.unwrapped_model.most_heads > 1:
            if self.args.eval_strategy == IntervalStrategy.NO:
                raise ValueError(
                    f"boosted_heads={self.unwrapped_model.most_heads}: heads are given by validation skill; set "
                    "eval_strategy to epoch, or leave boosted_heads out"
                )
            self.add_callback(HeadGiver(self._add_head))

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Extends `Trainer.evaluation_loop`: adds the number of heads of each modality to the metrics."""
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        counts = self.unwrapped_model.head_counts
        output.metrics.update({f"{metric_key_prefix}_heads_{name}": count for name, count in counts.items()})
        return output

    def _add_head(self, history: Sequence[Mapping[str, Any]]) -> None:
        model = self.unwrapped_model
        if (name := next_head(history, model.head_counts, model.most_heads)) is not None:
            model.add_head(name)


__all__ = ["BoostingMixin", "HeadGiver", "next_head"]
