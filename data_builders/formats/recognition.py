"""Which reader a file or folder needs, told from its content and never from its name."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from ..files import DataError, read_head
from ..labels import LabelFormat
from ..rows import SPLITS, Source, with_label_format
from . import READERS
from .contract import OPTIONS_OF_SOME, Head, Reader, ReadOptions
from .pickles import describe


# What no reader can read, by what is at its beginning. What is almost in a format is refused by that format's reader.
_UNPACK = "unpack it and give the data file"
_NAME_IN_TABLE = "make a table with its path in the column of its modality, and give the table"
_WRITE_TABLE = "write it as a table, with features as .npy files"
_NO_DATA = "give the file of words, features and labels that was made from it"
_MEDIA = rb"RIFF|ID3|\xff[\xfb\xf3\xf2\xf1]|fLaC|OggS|.{4}ftyp|\x1a\x45\xdf\xa3|FLV|\x30\x26\xb2\x75|FORM"
_UNREADABLE = {
    rb"PK\x03\x04.{26}(\[Content_Types\]|docProps|_rels|xl/|word/|mimetype)": (
        "an Office document",
        "save the sheet as CSV in UTF-8",
    ),
    rb"PK\x03\x04.{26}[^/]+?\.npy": ("an .npz file of NumPy arrays", _NAME_IN_TABLE),
    rb"PK\x03\x04.{26}[^/]+/(data\.pkl|\.format_version)": ("a file of PyTorch", _WRITE_TABLE),
    rb"PK\x03\x04": ("a zip archive", _UNPACK),
    rb"\x1f\x8b": ("compressed with gzip", _UNPACK),
    rb"BZh": ("compressed with bzip2", _UNPACK),
    rb"\xfd7zXZ": ("compressed with xz", _UNPACK),
    rb"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    rb"Rar!": ("a RAR archive", _UNPACK),
    rb"\x93NUMPY": ("a NumPy array", _NAME_IN_TABLE),
    rb"ARROW1|\xff{4}": ("an Arrow file", "write it as Parquet"),
    rb"MATLAB": ("a MATLAB file", _WRITE_TABLE),
    rb"\xd0\xcf\x11\xe0": ("an Office document", "save the sheet as CSV in UTF-8"),
    rb"%PDF|\{\\rtf": ("a document", _NO_DATA),
    rb"\x89PNG|\xff\xd8\xff|GIF8": ("an image", _NO_DATA),
    _MEDIA: ("audio or video", "make a data set of it (cpsl extract)"),
}


def open_source(
    path: Path,
    *,
    format: str | None = None,
    labels: bool | Sequence[str] | None = True,
    label_kind: str | None = None,
    label_range: Sequence[float] | None = None,
    label_format: LabelFormat | None = None,
    labels_of_all_splits: bool = False,
    **options: Any,
) -> Source:
    """Opens a file or folder with the reader of its format.

    Args:
        path: The file or folder.
        format: The name of the format; `None` to recognise it.
        labels: See `loading.load_aligned_dataset`, as for the other options of labels.
        label_kind: One of `label_options.KINDS`.
        label_range: Least and greatest labels.
        label_format: What the labels are, where it need not be found.
        labels_of_all_splits: Whether it is found in all splits, and not in the training split alone.
        options: Other fields of `contract.ReadOptions`.

    Raises:
        DataError: The format is unknown, or the file is broken; the message says what the file is instead. Or an
            option of labels does not fit the file.
    """
    wanted, columns = _wanted_labels(labels)
    head = Head(path)
    reader = get_reader(format) if format else _recognize(path, head)
    for name in OPTIONS_OF_SOME:
        if options.get(name) and name not in getattr(reader, "OPTIONS", ()):
            raise DataError(f"{path}: {reader.FORMAT} data has no {name}; leave this option out")
    kind = label_kind if label_format is None else label_format.kind
    reading = ReadOptions(head, labels=wanted, label_columns=columns, label_kind=kind, **options)
    source = reader.read(path, reading)
    # A table names the format that it was converted from, and anybody can write a name there.
    name = source.format if source.format in READERS else reader.FORMAT
    splits = {split: source.splits[split] for split in SPLITS if split in source.splits}
    if not wanted:  # a feature extractor writes empty splits beside the one to predict on
        splits = {split: shards for split, shards in splits.items() if shards} or splits
    source = source._replace(format=name, splits=splits)
    return with_label_format(
        source,
        labels=wanted,
        columns=columns,
        kind=label_kind,
        ranges=label_range,
        known=label_format,
        of_all_splits=labels_of_all_splits,
    )


def _wanted_labels(labels: bool | Sequence[str] | None) -> tuple[bool | None, tuple[str, ...]]:
    """Whether labels are wanted, and the columns that were named."""
    if labels is None or isinstance(labels, bool):
        return labels, ()
    if isinstance(labels, str):
        raise DataError(f"labels={labels!r} is one string; give a list: {labels.split(',')}")
    if len({*labels}) < len(labels) or not all(labels):
        raise DataError(f"labels={','.join(labels)!r} names a column twice, or none; name each once")
    return True, () if [*labels] == ["label"] else tuple(labels)


def is_media(path: Path) -> bool:
    """Whether a file begins as audio and video files do; False for a folder and where there is no file."""
    return path.is_file() and bool(re.match(_MEDIA, read_head(path), flags=re.DOTALL))


def source_files(path: Path, *, format: str | None = None) -> list[Path]:
    """The files that a file or folder of data is read from, see `contract.Reader.files`.

    Args:
        path: The file or folder.
        format: The name of the format; `None` for the first that has files there.

    Raises:
        DataError: The format is unknown, or there is no such file or folder.
    """
    if not path.is_dir():
        read_head(path)  # refuses what is missing, empty or no file
    found = (get_reader(name).files(path) for name in ([format] if format else READERS))
    return next(filter(None, found), [])


def get_reader(format: str) -> Reader:
    """The reader of a format.

    Raises:
        DataError: There is no such format.
    """
    if format not in READERS:
        raise DataError(f"format={format!r} is not one of {', '.join(READERS)}")
    return cast(Reader, importlib.import_module(f".{format}", __package__))


def _recognize(path: Path, head: Head) -> Reader:
    for beginning, (description, way_out) in _UNREADABLE.items():
        if re.match(beginning, head.first_bytes, re.DOTALL):
            raise DataError(f"{path}: this is {description}; {way_out}")
    for reader in map(get_reader, READERS):
        if reader.recognizes(path, head):
            return reader
    if path.is_dir() and not head.unpickled:
        if not {"dataset_dict.json", "state.json"}.isdisjoint(file.name for file in path.iterdir()):
            raise DataError(
                f"{path}: what save_to_disk of datasets writes; write each split as Parquet instead, "
                'split.to_parquet("train.parquet"), and give their folder'
            )
        from .table_files import refuse_other_text  # PyArrow, which pickles do without

        for file in sorted(file for file in path.iterdir() if file.suffix in (".csv", ".tsv") and file.is_file()):
            refuse_other_text(file, read_head(file))
        raise DataError(
            f"{path}: the folder holds no .csd files, no tables (.parquet, .jsonl, .csv with words or text) and no "
            "train / dev / test pickles; give the file or folder of the data"
        )
    raise DataError(f"{path}: a pickle of none of the known layouts: {describe(head.unpickled)}")
