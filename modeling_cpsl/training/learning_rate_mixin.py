"""`Trainer` with a learning rate for the text encoder and another for all that stands above it."""

from typing import Any

import torch

from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin


class LearningRateMixin(TrainableModelMixin):
    """Follows `encoder_learning_rate`, `head_learning_rate`, `layer_learning_rate_decay`; else does nothing.

    A scheduler multiplies all rates by the same factor. Weight decay is what it is without: none on biases and norms.
    The decay by layer is that of Sun et al. (2019), *How to Fine-Tune BERT for Text Classification?*, section 5.3.3.
    """

    args: CPSLTrainingArguments
    # The part of the model that each of the optimizer's groups belongs to; empty where there is one rate.
    _parts: tuple[str, ...] = ()

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Extends `Trainer.create_optimizer`: parameters with different rates are in groups of their own.

        Raises:
            ValueError: The trainer was given an optimizer, which has learning rates already.
        """
        rates = self.args.encoder_learning_rate, self.args.head_learning_rate
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if rates == (None, None) and self.args.layer_learning_rate_decay == 1.0:
            self._parts = ()
        elif is_new:
            self._split(optimizer, *(self.args.learning_rate if rate is None else rate for rate in rates))
        elif not self._parts:
            raise ValueError(
                "encoder_learning_rate, head_learning_rate and layer_learning_rate_decay have no effect on an "
                "optimizer that is given; leave them out"
            )
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Extends `Trainer.log`: names the rate of each part beside `learning_rate`, which is the first one.

        That of the text encoder is its top layer's.
        """
        if "learning_rate" in logs and self._parts:
            assert self.optimizer is not None
            rates = [*zip(self._parts, self.optimizer.param_groups, strict=True)]
            logs |= {f"{part}_learning_rate": float(group["lr"]) for part, group in reversed(rates)}
        super().log(logs, start_time)

    def _split(self, optimizer: torch.optim.Optimizer, encoder_rate: float, head_rate: float) -> None:
        """Splits the groups of an optimizer that has not made a step yet; the encoder's come first, from the top."""
        head, places = ("head", head_rate), dict[int, tuple[str, float]]()
        for distance, layer in enumerate(reversed(self.unwrapped_model.encoder_layers())):
            place = ("encoder", encoder_rate * self.args.layer_learning_rate_decay**distance)
            places |= dict.fromkeys(map(id, layer), place)
        groups, parts = [], []
        for part, rate in dict.fromkeys([*places.values(), head]):
            for group in optimizer.param_groups:
                weights = [weight for weight in group["params"] if places.get(id(weight), head) == (part, rate)]
                if weights:
                    groups.append({**group, "params": weights, "lr": rate})
                    parts.append(part)
        optimizer.param_groups[:] = groups
        self._parts = tuple(parts)


__all__ = ["LearningRateMixin"]
