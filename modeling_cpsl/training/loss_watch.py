"""Stops a training whose losses are no longer finite."""

from typing import Any

import torch
from torch import Tensor


class NonFiniteLossError(ValueError):
    """A loss became NaN or infinite; the message names the step, the losses and the samples."""


class LossWatch:
    """Checks that losses are finite without waiting for the device.

    Whether a micro-batch's losses are finite is copied to the host in the background and read when it has arrived.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Tensor, Any, list[str], str]] = []

    def add(self, losses: dict[str, Tensor], place: str) -> None:
        """Watches the losses of a micro-batch.

        Args:
            losses: 0-dim tensors by name.
            place: Describes the micro-batch in the error message.
        """
        finite = torch.stack([loss.detach().float() for loss in losses.values()]).isfinite()
        arrived = None
        if finite.is_cuda:
            finite = finite.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._pending.append((finite, arrived, list(losses), place))

    def check(self, wait: bool = False) -> None:
        """Reads what has arrived.

        Args:
            wait: Whether to wait for the micro-batches that have not arrived yet.

        Raises:
            NonFiniteLossError: A loss is not finite.
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


__all__ = ["LossWatch", "NonFiniteLossError"]
