"""Tables of the user's own: Parquet, JSON lines or CSV with the columns of the row format.

Columns: `id`, `words` (a list, or text that is split at spaces; `text` means the same), `label` (not needed in data to
predict on), and where known `video_id`, `split`, `start`, `end`, `word_start`, `word_end`. Every other column is a
modality if its cells are lists of rows, one a word, or paths of `.npy` or `.npz` files. Paths are relative to the
table, and the files lie inside its folder, or inside the folder that was given. A column `features` of `.npz` paths
gives a modality for each array in these files. A modality that a file, a row or an `.npz` lacks is treated as missing
for those rows.

Splits come from the column `split`, or from the names of the files (`train.csv`, `test-00000-of-00004.parquet`); a
single file of another name is the training split. CSV is separated by commas, and lists in it are JSON.
"""

import contextlib
import functools
import itertools
import json
import math
import numbers
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from ..columns import noted_extractors
from ..files import DataError
from ..rows import Row, Skipped, Source, as_text, check_shape, check_text, video_of
from .arrays import array_path, array_shapes, load_array, load_arrays
from .contract import Head, ReadOptions, no_labels
from .table_files import (
    TEXT_COLUMNS,
    Shard,
    array_references,
    count_rows,
    datasets_info,
    find_tables,
    kind_of,
    numbered_cells,
    refuse_other_text,
    shards_by_split,
    table_columns,
    table_kinds,
)


FORMAT = "table"
FEATURES_ARE_NORMALIZED = False

_TIMES = ("start", "end", "word_start", "word_end")
_PLAIN = frozenset(("id", "video_id", "label", "split", *TEXT_COLUMNS, *_TIMES))
_ROWS_TO_DECIDE = 1000  # a column without features in this many rows is not a modality


class _Table(NamedTuple):
    """What is needed to make rows; it is pickled for worker processes."""

    modalities: tuple[str, ...]
    timed: bool
    labelled: bool


def recognizes(path: Path, head: Head) -> bool:
    """Whether a file is a table, or a folder holds tables.

    Raises:
        DataError: The file is text that a table could be read from, and not as it is: a JSON document, columns that
            are not separated by commas or have no known name, or another encoding than UTF-8.
    """
    if path.is_dir():
        return bool(find_tables(path))
    if kind_of(path, head.first_bytes):
        return True
    refuse_other_text(path, head.first_bytes)
    return False


def files(path: Path) -> list[Path]:
    """The tables, and the files of arrays that they refer to."""
    root, kinds, arrays = path if path.is_dir() else path.parent, table_kinds(path), []
    for file, kind in kinds.items():
        for reference in array_references(file, kind):
            with contextlib.suppress(DataError):  # such a cell is reported when its row is read
                array_path(file, root, reference)
                arrays.append(file.parent / reference)
    return [*kinds, *arrays]


def read(path: Path, options: ReadOptions) -> Source:
    """Opens a table, or a folder of tables.

    Args:
        path: The file or folder.
        options: Without `labels`, the column need not be there.

    Returns:
        A source; its `format` is the one that the files were converted from, if they all name the same one.

    Raises:
        DataError: A needed column is missing, all features of a column are bad, a file has no split, or is broken.
    """
    root = path if path.is_dir() else path.parent
    kinds = table_kinds(path)
    if not kinds:
        raise DataError(
            f"{path}: not a table: neither Parquet, nor JSON lines (one object a line), nor CSV with a column id, "
            "label, words or text; save it as one of them"
        )
    columns = {file: table_columns(file, kind) for file, kind in kinds.items()}
    splits: dict[str, list[Shard]] = {}
    for file, kind in kinds.items():
        if options.labels and "label" not in columns[file]:
            raise no_labels(file, "column label")
        shards = shards_by_split(root, file, kind, has_splits="split" in columns[file], alone=len(kinds) == 1)
        for split, found in shards.items():
            splits.setdefault(split, []).extend(found)
    names = set().union(*columns.values())
    sizes = _modality_sizes(names - _PLAIN, list(itertools.chain(*splits.values())))
    for name in sizes:
        if not name.isprintable():
            raise DataError(f"{path}: column {name!r} has a name that cannot be a modality's; rename it")
    if not names & TEXT_COLUMNS and not sizes:
        raise DataError(f"{path}: a table needs a column words (or text) or features; it has: {sorted(names)}")
    timed = all(found >= set(_TIMES) for found in columns.values())
    rows = functools.partial(_rows, _Table(tuple(sizes), timed, labelled=options.labels))
    notes = [datasets_info(file) if kind == "parquet" else {} for file, kind in kinds.items()]
    extractors = _feature_extractors(notes, sizes)
    count = functools.partial(count_rows, kinds)
    return Source(path, _converted_from(notes), sizes, timed, splits, rows, extractors, count)


def _converted_from(notes: list[dict[str, Any]]) -> str:
    """The format that all files were converted from if they name the same one, else `table`."""
    first = notes[0].get("config_name")
    return first if isinstance(first, str) and all(note.get("config_name") == first for note in notes) else FORMAT


def _feature_extractors(notes: list[dict[str, Any]], modalities: Iterable[str]) -> dict[str, str]:
    """The extractors of the features, where `datasets` wrote all files and they agree on a modality's extractor."""
    found: dict[str, set[Any]] = {name: set() for name in modalities}
    try:
        for extractors in map(noted_extractors, notes):
            for name in found.keys() & extractors.keys():
                found[name].add(extractors[name])
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
            row: Row | Skipped = _row(table, shard, name, cells)
        except DataError as error:
            row = Skipped(name.encode(errors="backslashreplace").decode(), str(error))
        yield row


def _name(shard: Shard, index: int, cells: dict[str, Any]) -> str:
    return f"{shard.path.stem}-{index}" if _is_missing(cells.get("id")) else as_text(cells["id"])


def _row(table: _Table, shard: Shard, name: str, cells: dict[str, Any]) -> Row:
    video = cells.get("video_id")
    words = _words(cells.get("words") if cells.get("words") is not None else cells.get("text"))
    row: Row = {"id": name, "video_id": video_of(name) if _is_missing(video) else as_text(video), "words": words}
    if table.labelled:
        row["label"] = _label(cells.get("label"))
    if table.timed:
        row |= {name: _number(cells.get(name), name) for name in ("start", "end")}
        row |= {
            name: [_number(value, name) for value in _list(cells.get(name))] for name in ("word_start", "word_end")
        }
    num_words = len(words) or None
    arrays: dict[str, np.ndarray] = {}
    if _is_path(shared := cells.get("features")):
        names = [name for name in table.modalities if name == "features" or _is_missing(cells.get(name))]
        arrays = load_arrays(array_path(shard.path, shard.root, shared), names, num_words=num_words)
        cells = {**cells, "features": None}
    for name in table.modalities:
        row[name] = _features(shard, arrays.get(name, cells.get(name)), name, num_words)
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
    """Whether a text is or was meant to be a JSON list (cut short, or as Python prints it); `[laughs] ok` is not."""
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
    """A label as a number, list or array; `checked_label` checks it, as for all formats."""
    if isinstance(cell, str) and cell.startswith("["):
        return _from_json(cell)
    return cell if isinstance(cell, list | np.ndarray) else _number(cell, "label")


def _number(cell: Any, name: str) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{name} {str(cell)[:80]!r} is not a number") from None


# Features


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
    check_shape(features.shape, modality)
    return features


def _is_path(cell: Any) -> TypeGuard[str]:
    return isinstance(cell, str) and bool(cell) and not cell.startswith("[")


# Columns


def _modality_sizes(columns: set[str], shards: list[Shard]) -> dict[str, int]:
    """The modalities among the columns and their sizes, each from the first row that shows it.

    Raises:
        DataError: A column has cells that are meant as features, and none of them can be read.
    """
    sizes: dict[str, int] = {}
    faults: dict[str, str] = {}
    undecided, readable, with_other_cells, with_bad_paths = set(columns), set(), set(), set()
    rows = ((shard, *row) for shard in shards for row in numbered_cells(shard))
    for count, (shard, index, cells) in enumerate(rows, 1):
        for column in sorted(undecided & cells.keys()):
            cell = cells[column]
            if not _may_be_features(cell):
                with_other_cells.add(column)
                continue
            try:
                found = _sizes_of_cell(shard, cell, column, sizes)
            except DataError as error:
                where = f"{shard.path}: sample {_name(shard, index, cells)}: column {column}"
                faults.setdefault(column, f"{where}: {error}")
                with_bad_paths |= {column} if _is_path(cell) else set()
                continue
            sizes |= found
            if found:
                readable.add(column)
                undecided -= set() if _is_path(cell) and column == "features" else {column}  # another may hold more
        if count >= _ROWS_TO_DECIDE:
            undecided -= with_other_cells
        if not undecided:
            break
    # A column of text may have cells that start with '[', but only paths of features end in .npy or .npz.
    if wrong := sorted(faults.keys() - readable - (with_other_cells - with_bad_paths)):
        raise DataError(f"{faults[wrong[0]]}; correct it, or leave the column out if it is not a modality")
    return dict(sorted(sizes.items()))


def _may_be_features(cell: Any) -> bool:
    """Whether a cell can be features, or says that they are missing."""
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
    for name, shape in array_shapes(path).items():
        if name in known or name in _PLAIN:
            continue
        if isinstance(shape, DataError):
            fault = fault or shape
        elif math.prod(shape):
            sizes[name] = shape[1]
    if fault and not sizes:
        raise fault
    return sizes
