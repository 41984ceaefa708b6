"""Averages of a model's weights over a training; `WEIGHT_AVERAGING` is the list of ways to average."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from ..modulation.rules.contract import check_in_range


@dataclass(frozen=True, kw_only=True)
class WeightAveraging:
    """How weights are averaged; here not at all."""

    @property
    def averages(self) -> bool:
        """Whether weights are averaged."""
        return type(self) is not WeightAveraging

    def is_due(self, progress: float, ends_epoch: bool) -> bool:
        """Whether the weights after a step count.

        Args:
            progress: The share of the training's steps that are done.
            ends_epoch: Whether the step is the last one of an epoch.
        """
        return False

    def update(self, averages: list[Tensor], weights: list[Tensor], count: int) -> None:
        """Takes weights into averages, in place, which are those of `count` earlier weights, at least 1."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class EpochAverage(WeightAveraging):
    """The mean of the weights at the ends of the last epochs, as in SWA (arXiv:1803.05407).

    The learning rate keeps its schedule, which falls where that of SWA stays or rises again.

    Args:
        start: The share of the training after which epochs count, at least 0 and at most 1.
    """

    start: float = 0.75

    def __post_init__(self) -> None:
        check_in_range("start", self.start, 0, 1)

    def is_due(self, progress: float, ends_epoch: bool) -> bool:
        """See [`WeightAveraging.is_due`]."""
        return ends_epoch and progress >= self.start

    def update(self, averages: list[Tensor], weights: list[Tensor], count: int) -> None:
        """See [`WeightAveraging.update`]."""
        get_swa_multi_avg_fn()(averages, weights, count)


@dataclass(frozen=True, kw_only=True)
class MovingAverage(EpochAverage):
    """The exponential moving average over steps: a = decay a + (1 - decay) w, from the first weights that count.

    Args:
        start: The share of the training after which steps count, at least 0 and at most 1.
        decay: What is left of an average after a step, at least 0 and at most 1.
    """

    start: float = 0.0
    decay: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        check_in_range("decay", self.decay, 0, 1)

    def is_due(self, progress: float, ends_epoch: bool) -> bool:
        """See [`WeightAveraging.is_due`]."""
        return progress >= self.start

    def update(self, averages: list[Tensor], weights: list[Tensor], count: int) -> None:
        """See [`WeightAveraging.update`]."""
        get_ema_multi_avg_fn(self.decay)(averages, weights, count)


WEIGHT_AVERAGING: dict[str, type[WeightAveraging]] = {
    "none": WeightAveraging,
    "swa": EpochAverage,
    "ema": MovingAverage,
}


class AveragedWeights:
    """The average of a model's trained parameters, which can take their place for a while.

    Buffers are the model's: the running bounds of features are moving averages already.

    Args:
        model: The model.
        averaging: How to average.
    """

    def __init__(self, model: nn.Module, averaging: WeightAveraging):
        self.averaging, self.count = averaging, 0
        self.parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.averages = [weight.detach().clone() for weight in self.parameters.values()]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the model's weights into the average."""
        weights = [weight.detach() for weight in self.parameters.values()]
        if self.count:
            self.averaging.update(self.averages, weights, self.count)
        else:
            torch._foreach_copy_(self.averages, weights)
        self.count += 1

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the model has the averages as its weights, if there are any yet."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def keep(self) -> None:
        """Gives the model the averages for good, if there are any."""
        if self.count:
            torch._foreach_copy_([weight.detach() for weight in self.parameters.values()], self.averages)

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs beside the averages: the weights of the training, while the averages are in place."""
        return {"count": self.count, "weights": dict(zip(self.parameters, self.averages, strict=True))}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a [`state_dict`] and a model whose weights are the averages; it then has its own again.

        Raises:
            ValueError: The state is of other parameters.
        """
        if state["weights"].keys() != self.parameters.keys():
            raise ValueError("other parameters were averaged before")
        self.count = state["count"]
        torch._foreach_copy_(self.averages, [*state["weights"].values()])
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        if not self.count:
            return
        for weight, average in zip(self.parameters.values(), self.averages, strict=True):
            held = weight.detach().clone()
            weight.copy_(average)
            average.copy_(held)


__all__ = ["WEIGHT_AVERAGING", "AveragedWeights", "WeightAveraging"]
