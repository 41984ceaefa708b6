"""Which reader a file or folder needs, told from its content and never from its name."""

import importlib
from pathlib import Path
from typing import Any, cast

from ..files import DataError
from ..rows import SPLITS, Source
from . import READERS
from .contract import Head, Reader, ReadOptions
from .pickles import describe


# What no reader can read. What is almost in a format is refused by that format's reader.
_COMPRESSED = {
    b"PK\x03\x04": "a zip archive (of NumPy arrays, or a PyTorch checkpoint)",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
}


def open_source(path: Path, *, format: str | None = None, **options: Any) -> Source:
    """Opens a file or folder with the reader of its format.

    Args:
        path: The file or folder.
        format: The name of the format; `None` to recognise it.
        options: The fields of `contract.ReadOptions` other than `head`.

    Raises:
        DataError: The format is unknown, or the file is broken; the message says what the file is instead.
    """
    head = Head(path)
    reader = get_reader(format) if format else _recognize(path, head)
    source = reader.read(path, ReadOptions(head, **options))
    # A table names the format that it was converted from, and anybody can write a name there.
    name = source.format if source.format in READERS else reader.FORMAT
    splits = {split: source.splits[split] for split in SPLITS if split in source.splits}
    if not options.get("labels", True):  # a feature extractor writes empty splits beside the one to predict on
        splits = {split: shards for split, shards in splits.items() if shards} or splits
    return source._replace(format=name, splits=splits)


def get_reader(format: str) -> Reader:
    """The reader of a format.

    Raises:
        DataError: There is no such format.
    """
    if format not in READERS:
        raise DataError(f"format={format!r} is not one of {', '.join(READERS)}")
    return cast(Reader, importlib.import_module(f".{format}", __package__))


def _recognize(path: Path, head: Head) -> Reader:
    for signature, description in _COMPRESSED.items():
        if head.first_bytes.startswith(signature):
            raise DataError(f"{path}: this is {description}; unpack it and give the data file")
    for reader in map(get_reader, READERS):
        if reader.recognizes(path, head):
            return reader
    if path.is_dir() and not head.unpickled:
        raise DataError(
            f"{path}: the folder holds no .csd files, no tables (.parquet, .jsonl, .csv) and no train / dev / test "
            "pickles; give the file or folder of the data"
        )
    raise DataError(f"{path}: a pickle of none of the known layouts: {describe(head.unpickled)}")
