"""Running means of what a training logs."""

import torch
from accelerate import Accelerator
from torch import Tensor


class MeanTracker:
    """Running means of scalar tensors over all ranks, kept on the device until they are read.

    Non-finite values count too, so that they show.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float | Tensor] = {}

    def update(
        self, values: dict[str, Tensor], weight: float | Tensor = 1.0, count: float | Tensor | None = None
    ) -> None:
        """Adds values to the means.

        Args:
            values: 0-dim tensors by name.
            weight: What the values count by, such as the number of samples that they are the mean of; a number or a
                0-dim tensor on their device.
            count: By how much the divisor of the mean grows. Default: `weight`.
        """
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float() * weight
            self._counts[name] = self._counts.get(name, 0.0) + (weight if count is None else count)

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns the means over all ranks since the last call; empty where nothing was added. Every rank calls it."""
        totals = self._totals(accelerator)
        self._sums, self._counts = {}, {}
        return {name: (total[0] / total[1]).item() for name, total in totals.items()}

    def state_dict(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """Moves all ranks' sums and counts to the main process and returns them, (2,) by name; every rank calls it."""
        totals = self._totals(accelerator)
        self.load_state_dict(totals, accelerator)
        return totals

    def load_state_dict(self, state: dict[str, Tensor], accelerator: Accelerator) -> None:
        """Continues from what `state_dict` returned; every rank calls it."""
        share = 1.0 if accelerator.is_main_process else 0.0
        self._sums = {name: total[0] * share for name, total in state.items()}
        self._counts = {name: total[1].item() * share for name, total in state.items()}

    def _totals(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """Sum and count (2,) of each value over all ranks."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values()))
        counts = torch.stack(
            [torch.as_tensor(count, dtype=sums.dtype).to(sums.device) for count in self._counts.values()]
        )
        totals = accelerator.reduce(torch.stack([sums, counts], dim=1), reduction="sum")
        return dict(zip(self._sums, totals, strict=True))


__all__ = ["MeanTracker"]
