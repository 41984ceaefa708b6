"""`Trainer` whose evaluations say how much of the labels each modality can predict by itself."""

import functools
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..uncertainty_cpsl import modality_set
from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin
from .coalitions import squared_coalition_errors
from .labels import LabelStatistics, constant_errors, label_statistics, task_of_model
from .means import MeanTracker
from .metrics import skill
from .streaming import EncodedStream


class SkillMixin(TrainableModelMixin):
    """Adds the skill of each unimodal prediction to the metrics of an evaluation, and at times that of coalitions.

    `<prefix>_skill_<modality>` is R_m = max(0, 1 - MSE_m / MSE_0) over the samples that have the modality: MSE_m is
    the error of the prediction from it alone, MSE_0 that of the mean training label, or for classes of their
    frequencies, with 1 - p of the label as the error. In every `coalitions_every`-th
    epoch `<prefix>_coalition_<modalities>` is the same of what the whole model predicts from those modalities alone.
    As with losses, several processes also count the samples that fill up the last batch.
    """

    args: CPSLTrainingArguments
    _errors: MeanTracker | None = None  # squared ones by what predicts, within an evaluation
    _errors_of_mean: MeanTracker
    _counts_coalitions = False

    @functools.cached_property
    def training_labels(self) -> LabelStatistics | None:
        """What errors are judged by; None where the labels of the training data are not known."""
        split = self.train_dataset
        task = task_of_model(self.unwrapped_model)
        return label_statistics(split, task) if isinstance(split, Dataset | EncodedStream) else None

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Extends `Trainer.compute_loss`: in an evaluation, adds up the squared errors of the batch."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if self._errors is not None and self.training_labels is not None and not model.training:
            task, constant = task_of_model(self.unwrapped_model), self.training_labels.constant
            labels = task.label_tensor(inputs["labels"], len(inputs["labels"]))
            presence = outputs.get("modality_presence") or {}
            for name, error in (outputs.get("modality_errors") or {}).items():
                of_mean = constant_errors(task, constant, labels).square() * presence.get(name, 1.0)
                self._add(f"skill_{name}", error.square(), of_mean)
            if self._counts_coalitions:
                errors = squared_coalition_errors(self.unwrapped_model, inputs, constant)
                for names, error in errors.items():
                    if names:
                        self._add(f"coalition_{modality_set(names)}", error, errors[()])
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Extends `Trainer.evaluation_loop`: adds the skills to the metrics."""
        every, epoch = self.args.coalitions_every, self.state.epoch or 0.0
        self._counts_coalitions = self.is_in_train and every > 0 and epoch == int(epoch) and epoch % every == 0
        self._errors, self._errors_of_mean = MeanTracker(), MeanTracker()
        try:
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
            errors, errors_of_mean = self._errors.pop(self.accelerator), self._errors_of_mean.pop(self.accelerator)
        finally:
            self._errors = None
        for name, error in errors.items():
            if errors_of_mean[name] > 0:  # else no sample has the modality
                value = float(np.maximum(skill(error, errors_of_mean[name]), 0.0))
                output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    def _add(self, name: str, errors: Tensor, errors_of_mean: Tensor) -> None:
        assert self._errors is not None
        self._errors.update({name: errors.sum()})
        self._errors_of_mean.update({name: errors_of_mean.sum()})


__all__ = ["SkillMixin"]
