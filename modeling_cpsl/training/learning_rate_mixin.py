"""`Trainer` with a learning rate for the text encoder and another for all that stands above it."""

from typing import Any

import torch

from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin


class LearningRateMixin(TrainableModelMixin):
    """Follows `encoder_learning_rate` and `head_learning_rate`; where neither is given it does nothing.

    A scheduler multiplies all rates by the same factor. Weight decay is what it is without: none on biases and norms.
    """

    args: CPSLTrainingArguments
    # The part of the model that each of the optimizer's groups belongs to; empty where there is one rate.
    _parts: tuple[str, ...] = ()

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Extends `Trainer.create_optimizer`: parameters with different rates are in groups of their own.

        Raises:
            ValueError: The trainer was given an optimizer, which has learning rates already.
        """
        rates = {"encoder": self.args.encoder_learning_rate, "head": self.args.head_learning_rate}
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if all(rate is None for rate in rates.values()):
            self._parts = ()
        elif is_new:
            self._split(
                optimizer, {part: self.args.learning_rate if rate is None else rate for part, rate in rates.items()}
            )
        elif not self._parts:
            raise ValueError(
                "encoder_learning_rate and head_learning_rate have no effect on an optimizer that is given; "
                "leave them out"
            )
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Extends `Trainer.log`: names the rate of each part beside `learning_rate`, which is the first one."""
        if "learning_rate" in logs and self._parts:
            assert self.optimizer is not None
            rates = zip(self._parts, self.optimizer.param_groups, strict=True)
            logs |= {f"{part}_learning_rate": float(group["lr"]) for part, group in rates}
        super().log(logs, start_time)

    def _split(self, optimizer: torch.optim.Optimizer, rates: dict[str, float]) -> None:
        """Splits the groups of an optimizer that has not made a step yet; those of the encoder come first."""
        encoder = {id(weight) for weight in self.unwrapped_model.encoder_parameters()}
        groups, parts = [], []
        for part, rate in rates.items():
            for group in optimizer.param_groups:
                weights = [weight for weight in group["params"] if (id(weight) in encoder) == (part == "encoder")]
                if weights:
                    groups.append({**group, "params": weights, "lr": rate})
                    parts.append(part)
        optimizer.param_groups[:] = groups
        self._parts = tuple(parts)


__all__ = ["LearningRateMixin"]
