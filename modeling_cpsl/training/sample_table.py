"""A table with a row for each training sample: what is to be remembered of it from one epoch to the next."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_builders.columns import read_columns


class SampleTable:
    """Columns of numbers with a row for each training sample, of which each holds what was recorded last.

    The rows are found by the samples' ids, so their order in the data, which a shuffled stream changes each epoch,
    does not matter. Nothing is added to a table after it is made: it takes 4 bytes a number and 8 a row and column,
    on the device that the training runs on, so that neither writing nor reading waits for it.

    Args:
        ids: The ids of the N training samples, see [`sample_ids`].
        widths: The number of values that each column holds of a sample.
        device: Where the values are kept.

    Raises:
        ValueError: Two samples have the same id.
    """

    def __init__(self, ids: Sequence[str], widths: Mapping[str, int], device: torch.device | str = "cpu"):
        self._rows = {name: row for row, name in enumerate(ids)}
        if len(self._rows) < len(ids):
            repeated = next(name for row, name in enumerate(ids) if self._rows[name] != row)
            raise ValueError(
                f"train split: several samples have the id {repeated!r}, and something is to be remembered of each "
                "sample; give each sample an id of its own"
            )
        self._values = {
            name: torch.full((len(ids), width), torch.nan, device=device) for name, width in widths.items()
        }
        # The call of `record` that a row of a column is from, -1 for none.
        self._recorded = {name: torch.full((len(ids),), -1, device=device) for name in widths}
        self._num_calls = 0

    def indices(self, ids: Iterable[str]) -> Tensor:
        """The rows (n,) of samples, on the table's device."""
        return torch.tensor([self._rows[name] for name in ids], dtype=torch.long).to(self._device, non_blocking=True)

    def record(self, indices: Tensor, **columns: Tensor) -> None:
        """Replaces what columns hold of samples. Each rank calls it equally often, if need be for no sample.

        Args:
            indices: (n,), see [`indices`].
            **columns: (n, width) by column.
        """
        for name, values in columns.items():
            self._values[name].index_copy_(0, indices, values.detach().to(self._values[name]))
            self._recorded[name].index_fill_(0, indices, self._num_calls)
        self._num_calls += 1

    def replace(self, **columns: Tensor) -> None:
        """Replaces whole columns (N, width); every rank calls it with the same values."""
        for name, values in columns.items():
            self._values[name].copy_(values)

    def rows(self, indices: Tensor) -> dict[str, Tensor]:
        """What all columns hold of samples, (n, width) by column; NaN where nothing was recorded."""
        return {name: values[indices] for name, values in self._values.items()}

    def column(self, name: str) -> Tensor:
        """A column (N, width) in the order of the ids; NaN where nothing was recorded. Not a copy."""
        return self._values[name]

    @property
    def columns(self) -> dict[str, Tensor]:
        """All columns by name, see [`column`]."""
        return dict(self._values)

    def exchange(self) -> None:
        """Gives all ranks of a distributed training the latest record of each sample; every rank calls it.

        Of records that are equally late, as those of one step are, that of the first rank counts.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        num_ranks = dist.get_world_size()
        for name, values in self._values.items():
            own = self._recorded[name] * num_ranks + (num_ranks - 1 - dist.get_rank())
            latest = own.clone()
            dist.all_reduce(latest, op=dist.ReduceOp.MAX)
            # Exactly one rank has the latest record, so the sum is that rank's values, bit for bit.
            values.masked_fill_((own != latest)[:, None], 0.0)
            dist.all_reduce(values)
            self._recorded[name] = torch.div(latest, num_ranks, rounding_mode="floor")

    def state_dict(self) -> dict[str, Any]:
        """What a restart needs; the same on all ranks after [`exchange`]."""
        return {
            "samples": self._digest(),
            "values": self._values,
            "recorded": self._recorded,
            "num_calls": self._num_calls,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state of [`state_dict`].

        Raises:
            ValueError: The state is of other samples or columns.
        """
        if state["samples"] != self._digest():
            raise ValueError("what was remembered is of other training samples than these")
        for kind, kept in (("values", self._values), ("recorded", self._recorded)):
            shapes, given = ({name: tuple(column.shape) for name, column in of.items()} for of in (kept, state[kind]))
            if given != shapes:
                raise ValueError(
                    f"what was remembered of the samples has shapes {given}, this training needs {shapes}"
                )
        for name, values in self._values.items():
            values.copy_(state["values"][name])
            self._recorded[name].copy_(state["recorded"][name])
        self._num_calls = int(state["num_calls"])

    @property
    def _device(self) -> torch.device:
        return next(iter(self._values.values())).device

    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name in self._rows:
            digest.update(f"{len(name)}:{name}".encode())
        return digest.hexdigest()


def sample_ids(dataset: Any) -> list[str]:
    """The ids of the samples of an encoded training split; a streamed one is read once for them.

    Args:
        dataset: A split of [`encode_dataset`], or rows with an `id` each.
    """
    if hasattr(dataset, "select_columns"):
        return [str(name) for table in read_columns(dataset, ["id"]) for name in table["id"].to_pylist()]
    return [str(row["id"]) for row in dataset]


__all__ = ["SampleTable", "sample_ids"]
