"""Tables of the user's own: Parquet, JSON lines or CSV with the columns of the row format.

Columns: `id`, `words` (a list, or text that is split at spaces; `text` is the same), `label` (not needed in data to
predict on), and where known `video_id`, `split`, `start`, `end`, `word_start`, `word_end`. Every other column is a
modality if its cells are lists of rows, one a word, or paths of `.npy` or `.npz` files, relative to the table and
inside of its folder (of the folder given, where it is one); a column `features` of `.npz` paths gives a modality for
each array in them. A modality that a file, a row or an `.npz` lacks is missing there. Splits come from the column
`split`, or from the names of the files (`train.csv`, `test-00000-of-00004.parquet`); a single file of another name is
the training split. CSV is separated by commas, and lists in it are JSON.
"""

import functools
import itertools
import json
import numbers
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import DataError
from ..rows import Row, Skipped, Source, as_text, check_text, video_of
from .arrays import array_names, array_path, load_array
from .table_files import (
    TEXT_COLUMNS,
    Shard,
    datasets_info,
    numbered_cells,
    shards_by_split,
    table_columns,
    table_kinds,
)


FORMAT = "table"
FEATURES_ARE_NORMALIZED = False

_TIMES = ("start", "end", "word_start", "word_end")
_PLAIN = frozenset(("id", "video_id", "label", "split", *TEXT_COLUMNS, *_TIMES))
_ROWS_OF_COLUMNS = 1000  # a column without features in so many rows is none of a modality


class _Table(NamedTuple):
    """What rows are made with; it travels to worker processes."""

    modalities: tuple[str, ...]
    timed: bool
    labelled: bool


def read(path: Path, *, labels: bool = True) -> Source:
    """Opens a table, or a folder of tables.

    Args:
        path: the file or folder.
        labels: whether labels are wanted; without, the column need not be there.

    Raises:
        DataError: a needed column is missing, a column has bad features alone, a file has no split, or is broken.
    """
    root = path if path.is_dir() else path.parent
    kinds = table_kinds(path)
    columns = {file: table_columns(file, kind) for file, kind in kinds.items()}
    splits: dict[str, list[Shard]] = {}
    for file, kind in kinds.items():
        if labels and "label" not in columns[file]:
            raise DataError(f"{file}: no column label; data to predict on is loaded with labels=False")
        shards = shards_by_split(root, file, kind, has_splits="split" in columns[file], alone=len(kinds) == 1)
        for split, own in shards.items():
            splits.setdefault(split, []).extend(own)
    found = set().union(*columns.values())
    sizes = _modality_sizes(found - _PLAIN, list(itertools.chain(*splits.values())))
    for name in sizes:
        if not name.isprintable():
            raise DataError(f"{path}: column {name!r} has a name that cannot be a modality's; rename it")
    if not found & TEXT_COLUMNS and not sizes:
        raise DataError(f"{path}: a table needs a column words (or text) or features; it has: {sorted(found)}")
    timed = all(names >= set(_TIMES) for names in columns.values())
    ordered = {split: splits[split] for split in ("train", "validation", "test") if split in splits}
    rows = functools.partial(_rows, _Table(tuple(sizes), timed, labelled=labels))
    return Source(path, FORMAT, sizes, timed, ordered, rows, _feature_extractors(kinds, sizes))


def _feature_extractors(kinds: dict[Path, str], modalities: Iterable[str]) -> dict[str, str]:
    """What made the features, where all files are Parquet of `datasets`, and those that have them say the same."""
    found: dict[str, set[str | None]] = {name: set() for name in modalities}
    for file, kind in kinds.items():
        try:
            columns = datasets_info(file)["features"] if kind == "parquet" else None
            for name in found.keys() & columns.keys():
                found[name].add(columns[name].get("id"))
        except (LookupError, TypeError, AttributeError):
            return {}
    return {name: min(names) for name, names in found.items() if len(names) == 1 and isinstance(min(names), str)}


# Rows


def _rows(table: _Table, shard: Shard) -> Iterator[Row | Skipped]:
    for index, cells in numbered_cells(shard):
        name = _name(shard, index, cells)
        try:
            if not cells:
                raise DataError(f"row {index + 1} cannot be read as a line of this table")
            check_text(name)
            row = _row(table, shard, name, cells)
        except DataError as error:
            row = Skipped(name.encode(errors="backslashreplace").decode(), str(error))
        yield row


def _name(shard: Shard, index: int, cells: dict[str, Any]) -> str:
    return f"{shard.path.stem}-{index}" if _is_missing(cells.get("id")) else as_text(cells["id"])


def _row(table: _Table, shard: Shard, name: str, cells: dict[str, Any]) -> Row:
    video = cells.get("video_id")
    words = _words(cells.get("words") if cells.get("words") is not None else cells.get("text"))
    row = {"id": name, "video_id": video_of(name) if _is_missing(video) else as_text(video), "words": words}
    if table.labelled:
        row["label"] = _label(cells.get("label"))
    if table.timed:
        row |= {name: _number(cells.get(name), name) for name in ("start", "end")}
        row |= {
            name: [_number(value, name) for value in _list(cells.get(name))] for name in ("word_start", "word_end")
        }
    for modality in table.modalities:
        row[modality] = _modality(shard, cells, modality, len(words))
    return row


def _is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str | bytes) and not cell)


def _words(cell: Any) -> list[str]:
    cell = as_text(cell) if isinstance(cell, bytes) else cell
    if isinstance(cell, str) and not _is_list(cell):
        return cell.split()
    words = _list(cell)
    if not all(isinstance(word, str | bytes) for word in words):
        raise DataError(f"words {str(cell)[:80]!r} are not a list of strings or a text")
    return list(map(as_text, words))


def _is_list(text: str) -> bool:
    """Whether a text is a JSON list or meant as one, cut or as Python prints it; `[laughs] ok` is not."""
    if re.match(r"\[\s*['\"]", text):
        return True
    try:
        return text.startswith("[") and isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


def _list(cell: Any) -> list[Any]:
    """A list, which CSV holds as JSON; an empty cell is an empty one."""
    value = _from_json(cell) if isinstance(cell, str) and cell else cell or []
    if not isinstance(value, list):
        raise DataError(f"{str(cell)[:80]!r} is not a list")
    return value


def _from_json(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{cell[:80]!r} is not JSON ({error})") from None


def _label(cell: Any) -> Any:
    """A number, or what holds one in an array, which is checked with the labels of all formats."""
    if isinstance(cell, str) and cell.startswith("["):
        return _from_json(cell)
    return cell if isinstance(cell, list | np.ndarray) else _number(cell, "label")


def _number(cell: Any, name: str) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{name} {str(cell)[:80]!r} is not a number") from None


# Features


def _modality(shard: Shard, cells: dict[str, Any], modality: str, num_words: int) -> np.ndarray | None:
    """The features in the modality's own cell, or else of this name in the `.npz` file of the cell `features`."""
    shared = cells.get("features")
    if _is_path(shared) and (modality == "features" or _is_missing(cells.get(modality))):
        path = array_path(shard.path, shard.root, shared)
        return _checked(load_array(path, modality, num_words=num_words, lone=False), modality)
    return _features(shard, cells.get(modality), modality, num_words)


def _features(shard: Shard, cell: Any, modality: str, num_words: int | None = None) -> np.ndarray | None:
    if _is_missing(cell) or isinstance(cell, np.ndarray):
        return _checked(cell, modality)
    if _is_path(cell):
        return _checked(load_array(array_path(shard.path, shard.root, cell), modality, num_words=num_words), modality)
    rows = _list(cell)
    try:
        array = np.asarray(rows, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{modality} is not a list of rows of numbers, all of one length") from None
    return _checked(array, modality)


def _checked(features: Any, modality: str) -> np.ndarray | None:
    """Features of one row a word, or None where there are none."""
    if not np.size(features) or _is_missing(features):
        return None
    if features.ndim != 2:
        raise DataError(
            f"{modality} has shape {features.shape}, and a modality needs one row a word; repeat a vector of the "
            "whole utterance for each word"
        )
    return features


def _is_path(cell: Any) -> bool:
    return isinstance(cell, str) and bool(cell) and not cell.startswith("[")


# Columns


def _modality_sizes(columns: set[str], shards: list[Shard]) -> dict[str, int]:
    """The modalities among the columns and their sizes, each by the first row that tells.

    Raises:
        DataError: a column has cells that are meant as features, and none of them can be read.
    """
    sizes: dict[str, int] = {}
    faults: dict[str, str] = {}
    undecided, good, plain, paths = set(columns), set(), set(), set()
    rows = ((shard, *row) for shard in shards for row in numbered_cells(shard))
    for count, (shard, index, cells) in enumerate(rows, 1):
        for column in sorted(undecided & cells.keys()):
            cell = cells[column]
            if not _may_be_features(cell):
                plain.add(column)
                continue
            try:
                found = _sizes_of_cell(shard, cell, column, sizes)
            except DataError as error:
                where = f"{shard.path}: sample {_name(shard, index, cells)}: column {column}"
                faults.setdefault(column, f"{where}: {error}")
                paths |= {column} if _is_path(cell) else set()
                continue
            sizes |= found
            if found:
                good.add(column)
                undecided -= set() if _is_path(cell) and column == "features" else {column}  # another may hold more
        if count >= _ROWS_OF_COLUMNS:
            undecided -= plain
        if not undecided:
            break
    # A bracket may begin a note, but nothing else than features ends in .npy.
    if wrong := sorted(faults.keys() - good - (plain - paths)):
        raise DataError(f"{faults[wrong[0]]}; correct it, or leave the column out if it is no modality")
    return dict(sorted(sizes.items()))


def _may_be_features(cell: Any) -> bool:
    """Whether a cell can be features, missing ones too."""
    if isinstance(cell, list):
        return not cell or cell[0] is None or isinstance(cell[0], list | np.ndarray | numbers.Number)
    if isinstance(cell, str):
        return not cell or bool(re.match(r"\[\s*[][0-9.+-]", cell)) or cell.endswith((".npy", ".npz"))
    return cell is None or isinstance(cell, np.ndarray)


def _sizes_of_cell(shard: Shard, cell: Any, column: str, known: dict[str, int]) -> dict[str, int]:
    if column == "features" and _is_path(cell):
        return _sizes_of_members(array_path(shard.path, shard.root, cell), known)
    features = _features(shard, cell, column)
    return {} if features is None else {column: features.shape[1]}


def _sizes_of_members(path: Path, known: dict[str, int]) -> dict[str, int]:
    """The sizes of modalities not known yet in an `.npz` file, which may hold other things too."""
    sizes, fault = {}, None
    for name in array_names(path):
        if name in known or name in _PLAIN:
            continue
        try:
            features = _checked(load_array(path, name, lone=False), name)
        except DataError as error:
            fault = fault or error
            continue
        if features is not None:
            sizes[name] = features.shape[1]
    if fault and not sizes:
        raise fault
    return sizes
