"""Which reader a file or folder needs, told from its content and never from its name."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import HDF5_SIGNATURE, DataError, read_head
from ..rows import SPLIT_NAMES, Source
from ..safe_pickle import safe_pickle_load
from . import computational_sequence, mag_pickle, misa_pickle, mmsa_pickle, mult_pickle, table
from .table_files import datasets_info, find_tables, kind_of, refuse_text


_PICKLES = {reader.FORMAT: reader for reader in (mag_pickle, misa_pickle, mmsa_pickle, mult_pickle)}
READERS = {**_PICKLES, computational_sequence.FORMAT: computational_sequence, table.FORMAT: table}

_COMPRESSED = {
    b"PK\x03\x04": "a zip archive (of NumPy arrays, or a PyTorch checkpoint)",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
}


def open_source(
    path: Path,
    *,
    format: str | None = None,
    feature_sequences: dict[str, str] | None = None,
    folds: dict[str, list[str]] | None = None,
    labels: bool = True,
) -> Source:
    """Opens a file or folder with the reader of its format.

    Args:
        path: the file or folder.
        format: name of the format; None to recognise it.
        feature_sequences: see `computational_sequence.read`.
        folds: see `computational_sequence.read`.
        labels: whether a table must have them; the other formats always do.

    Raises:
        DataError: the format is unknown, or the file is broken; the message says what it is instead.
    """
    format = format or _recognize(path)
    if format == computational_sequence.FORMAT:
        return computational_sequence.read(path, feature_sequences=feature_sequences, folds=folds)
    if format == table.FORMAT:
        source = table.read(path, labels=labels)
        return source._replace(format=_converted_from(source) or table.FORMAT)
    if format not in ("pickle", *_PICKLES):
        raise DataError(f"{path}: format={format!r} is none of {', '.join(READERS)}")
    data = _load_pickles(path)
    if isinstance(data, dict):
        _refuse_two_of_one_split(path, data)
    if format != "pickle":
        if not _PICKLES[format].matches(data):
            raise DataError(f"{path}: not a {format}; it holds {_describe(data)}")
        return _PICKLES[format].read(path, data)
    for reader in _PICKLES.values():
        if reader.matches(data):
            return reader.read(path, data)
    raise DataError(f"{path}: a pickle of none of the known layouts: {_describe(data)}")


def _converted_from(source: Source) -> str | None:
    """The format that all Parquet files of a table name as the one that they were converted from."""
    files = {shard.path for shards in source.splits.values() for shard in shards}
    noted = {_noted_format(file) for file in files}
    return noted.pop() if len(noted) == 1 else None


def _noted_format(path: Path) -> str | None:
    name = datasets_info(path).get("config_name") if kind_of(path) == "parquet" else None
    return name if name in (*READERS, "sample") else None


def _recognize(path: Path) -> str:
    """The format of a file or folder, or `pickle` where only the object inside can tell."""
    if path.is_dir():
        if computational_sequence.sequence_files(path):
            return computational_sequence.FORMAT
        if find_tables(path):
            return table.FORMAT
        if _split_pickles(path):
            return "pickle"
        raise DataError(
            f"{path}: the folder holds no .csd files, no tables (.parquet, .jsonl, .csv) and no train / dev / test "
            "pickles; give the file or folder of the data"
        )
    head = read_head(path)
    if head.startswith(HDF5_SIGNATURE):
        raise DataError(f"{path}: one HDF5 file alone; give the folder with the .csd files of words and labels")
    if kind_of(path):
        return table.FORMAT
    if head.lstrip().startswith((b"{", b"[")):
        raise DataError(f"{path}: this is a JSON document; tables are read from JSON lines, one object a line")
    for signature, description in _COMPRESSED.items():
        if head.startswith(signature):
            raise DataError(f"{path}: this is {description}; unpack it and give the data file")
    refuse_text(path)
    return "pickle"


def _split_pickles(folder: Path) -> list[Path]:
    """The pickles of a folder that are called as splits are, which is how MISA stores its."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".pkl", ".pickle") and file.is_file())
    return [file for file in files if file.stem.lower() in SPLIT_NAMES]


def _refuse_two_of_one_split(path: Path, names: Iterable[Any]) -> None:
    found: dict[str, str] = {}
    for name in map(str, names):
        split = SPLIT_NAMES.get(Path(name).stem.lower())
        if split in found:
            raise DataError(f"{path}: {found[split]} and {name} are both the {split} split; keep one or merge them")
        if split:
            found[split] = name


def _load_pickles(path: Path) -> Any:
    """The object of a pickle; where each split has its own file, a dict of them by split."""
    if path.is_dir():
        files = _split_pickles(path)
        _refuse_two_of_one_split(path, [file.name for file in files])
        return {file.stem: safe_pickle_load(file) for file in files}
    data = safe_pickle_load(path)
    if not isinstance(data, list):
        return data
    if path.stem.lower() not in SPLIT_NAMES:
        raise DataError(
            f"{path}: the list of one split; call the file train.pkl, dev.pkl or test.pkl, or give the folder"
        )
    return {path.stem: data}


def _describe(data: Any) -> str:
    if not isinstance(data, dict):
        return f"a {type(data).__name__}"
    layers = [data, *(value for value in data.values() if isinstance(value, dict))]
    if any({"facet", "covarep", "glove"} <= {str(key).lower() for key in layer} for layer in layers):
        return (
            "the four-field mosi.pkl (facet, covarep, glove, label), which has no words and is not the file that "
            "MAG-BERT uses; get the one with words, visual, acoustic, label and segment"
        )
    return f"a dict of {len(data)} keys ({', '.join(str(key)[:30] for key in list(data)[:6])})"
