"""The boundaries that take foreign files: valid ones for each, how they are written, and what reads them."""

import csv
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mutations import written


class Boundary(NamedTuple):
    """What takes foreign files.

    Attributes:
        folders: Valid folders: the value of each file by its name, whose suffix says how it is written.
        read: Takes a folder as its user would, to the end.
        odd_values: What its files can hold beside the values that every file can hold.
    """

    folders: list[dict[str, Any]]
    read: Callable[[Path], None]
    odd_values: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return "a boundary"  # values that are shared 10 billion times cannot be written out


def file_content(name: str, value: Any) -> bytes:
    """A file that holds the value; an exception of any kind for a value that it cannot hold."""
    return value if isinstance(value, bytes) else _CONTENT[name.rpartition(".")[2]](value)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return written(stream.getvalue())


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=2)
    return stream.getvalue()


def _hdf5(groups: dict[str, Any]) -> bytes:
    import h5py

    def fill(group: Any, members: dict[str, Any]) -> None:
        for name, value in members.items():
            if isinstance(value, dict):
                fill(group.create_group(name), value)
            else:
                compression = "gzip" if np.ndim(value) == 2 and len(value) == 6 else None
                group.create_dataset(name, data=value, compression=compression)

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        fill(file, groups)
    return stream.getvalue()


def _npz(arrays: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _torch(value: Any) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _safetensors(arrays: dict[str, Any]) -> bytes:
    from safetensors.numpy import save

    return save(arrays, metadata={"format": "pt"})


def _yaml(value: Any) -> bytes:
    import yaml

    return written(yaml.safe_dump(value, allow_unicode=True, width=10**9))


_CONTENT: dict[str, Callable[[Any], bytes]] = {
    "csd": _hdf5,
    "csv": _csv,
    "json": lambda value: written(json.dumps(value)),
    "jsonl": lambda rows: written("".join(json.dumps(row) + "\n" for row in rows)),
    "npy": _npy,
    "npz": _npz,
    "parquet": _parquet,
    "pkl": pickle.dumps,
    "pt": _torch,
    "pth": _torch,
    "safetensors": _safetensors,
    "yaml": _yaml,
}
