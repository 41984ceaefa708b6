"""`Trainer` that also learns from what other models predict for the training samples."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..pooling_cpsl import sample_mean
from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin
from .labels import task_of_model
from .optimizer_step import MicroBatch
from .sample_table import SampleTable, sample_ids


_LOGITS = "logits"  # the column of the table


class DistillationMixin(TrainableModelMixin):
    """Knowledge distillation (Hinton et al., arXiv:1503.02531) from predictions that are made before the training.

    With w the `distillation_weight`, the task loss counts 1 - w of itself in training, and w is the loss of how far
    the prediction is from the teacher's, see [`Task.distillation_losses`]. All other losses are as they were.
    """

    args: CPSLTrainingArguments
    _micro_batch: MicroBatch | None = None
    _teacher: SampleTable | None = None

    def set_teacher(self, logits: np.ndarray) -> None:
        """Has trainings learn from a teacher.

        Args:
            logits: (N,) or (N, K) as the model's, those of the training samples in their order.

        Raises:
            ValueError: There is one for another number of samples, or two samples have the same id.
        """
        ids = sample_ids(self.train_dataset)
        columns = torch.from_numpy(np.asarray(logits, dtype=np.float32).reshape(len(logits), -1))
        if len(ids) != len(columns):
            raise ValueError(f"the teacher has predictions for {len(columns)} samples, and there are {len(ids)}")
        self._teacher = SampleTable(ids, {_LOGITS: columns.shape[1]}, self.args.device)
        self._teacher.replace(**{_LOGITS: columns})

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Extends `Trainer.compute_loss` in a training step; the distance from the teacher is `distillation`."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if self._teacher is not None and self._micro_batch is not None:
            logits = outputs["logits"].float()
            teacher = self._teacher.rows(self._teacher.indices(self._micro_batch.ids))[_LOGITS].reshape(logits.shape)
            unwrapped = self.accelerator.unwrap_model(self.model)
            losses = task_of_model(unwrapped).distillation_losses(logits, teacher, unwrapped.config.task_loss)
            distillation = sample_mean(losses, inputs.get("sample_weight"))
            loss = loss + self.args.distillation_weight * (distillation - outputs["losses"]["task"])
            outputs["losses"] = outputs["losses"] | {"distillation": distillation}
        return (loss, outputs) if return_outputs else loss


__all__ = ["DistillationMixin"]
