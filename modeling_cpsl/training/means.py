"""What is kept an eye on during training, on the device: means to log, and losses that must stay finite."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


_COUNT = "count"


class MeanTracker:
    """Running means of scalar tensors, kept on the device until they are read.

    A value counts by the number of samples that it is the mean of; non-finite values count too, so that they show.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def update(self, values: dict[str, Tensor], count: int) -> None:
        """Adds the means `values` over `count` samples."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value.detach().float() * count
        self.totals[_COUNT] = self.totals.get(_COUNT, 0.0) + torch.full_like(value, count, dtype=torch.float32)

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns the means over all ranks since the last call; empty where nothing was added."""
        totals = self._gather(accelerator)
        self.totals = {}
        count = totals.pop(_COUNT, None)
        return {name: (total / count).item() for name, total in totals.items()}

    def state_dict(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """Moves all ranks' totals to the main process and returns them; every rank calls it."""
        totals = self._gather(accelerator)
        self.totals = (
            dict(totals) if accelerator.is_main_process else {name: total * 0 for name, total in totals.items()}
        )
        return totals

    def load_state_dict(self, state: dict[str, Tensor], accelerator: Accelerator) -> None:
        """Continues from `state_dict`'s totals."""
        self.totals = (
            dict(state) if accelerator.is_main_process else {name: total * 0 for name, total in state.items()}
        )

    def _gather(self, accelerator: Accelerator) -> dict[str, Tensor]:
        if not self.totals:
            return {}
        summed = accelerator.reduce(torch.stack(list(self.totals.values())), reduction="sum")
        return dict(zip(self.totals, summed, strict=True))


class NonFiniteLossError(ValueError):
    """A loss became NaN or infinite; the message names the step, the losses and the samples."""


class LossWatch:
    """Stops a run whose losses are no longer finite, without waiting for the device.

    The verdict on a micro-batch is copied to the host in the background and read when it has arrived, at the latest at
    the end.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Tensor, Any, list[str], str]] = []

    def add(self, losses: dict[str, Tensor], place: str) -> None:
        """Watches scalar `losses` by name, of the micro-batch that `place` describes."""
        finite = torch.stack([loss.detach().float() for loss in losses.values()]).isfinite()
        arrived = None
        if finite.is_cuda:
            finite = finite.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._pending.append((finite, arrived, list(losses), place))

    def check(self, wait: bool = False) -> None:
        """Reads the verdicts that have arrived.

        Raises:
            NonFiniteLossError: One of them is bad.
        """
        while self._pending:
            finite, arrived, names, place = self._pending[0]
            if arrived is not None:
                if wait:
                    arrived.synchronize()
                elif not arrived.query():
                    return
            del self._pending[0]
            if not finite.all():
                bad = ", ".join(name for name, good in zip(names, finite.tolist(), strict=True) if not good)
                raise NonFiniteLossError(
                    f"{place}: {bad} is not finite; lower learning_rate or max_grad_norm, or look at these samples"
                )


__all__ = ["LossWatch", "MeanTracker", "NonFiniteLossError"]
