"""`Trainer` that predicts each training sample twice and has both predictions agree."""

from typing import Any

import torch
from torch import Tensor

from ..pooling_cpsl import sample_mean
from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin
from .labels import task_of_model


class RDropMixin(TrainableModelMixin):
    """R-Drop (Liang et al., arXiv:2106.14448): predictions under two draws of dropout, and of latents, are to agree.

    With `rdrop_weight` above 0 the loss in training is the mean of the losses of two forward passes, and the weight
    times how far apart their predictions are, see [`Task.divergence`]. What is observed of modalities is that of the
    first pass.
    """

    args: CPSLTrainingArguments

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Extends `Trainer.compute_loss` in training; the divergence is the loss `rdrop`."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training and self.args.rdrop_weight > 0:
            other_loss, other = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            divergences = task_of_model(self.unwrapped_model).divergence(outputs["logits"], other["logits"])
            divergence = sample_mean(divergences, inputs.get("sample_weight"))
            losses = {name: (value + other["losses"][name]) / 2 for name, value in outputs["losses"].items()}
            outputs["losses"] = losses | {"rdrop": divergence}
            loss = (loss + other_loss) / 2 + self.args.rdrop_weight * divergence
        return (loss, outputs) if return_outputs else loss


__all__ = ["RDropMixin"]
