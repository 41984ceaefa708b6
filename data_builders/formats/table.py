"""Tables of the user's own: Parquet, JSON lines or CSV with the columns of the row format.

Columns: `id`, `words` (a list, or text that is split at spaces; `text` is the same), `label` (not needed in data to
predict on), and where known `video_id`, `split`, `start`, `end`, `word_start`, `word_end`. Every other column is a
modality if its cells are lists of rows or paths of `.npy` or `.npz` files, relative to the table; a column `features`
of `.npz` paths gives a modality for each array in them. Splits come from the column `split`, or from the names of the
files (`train.csv`, `test-00000-of-00004.parquet`); a single file of another name is the training split. Lists in CSV
are JSON.
"""

import csv
import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, broken_files_are_data_errors
from ..files import read_head
from ..rows import SPLIT_NAMES, Row, Skipped, Source, split_name, video_of
from .arrays import array_names, load_array


FORMAT = "table"
FEATURES_ARE_NORMALIZED = False

_TIMES = ("start", "end", "word_start", "word_end")
_PLAIN = frozenset(("id", "video_id", "words", "text", "label", "split", *_TIMES))
_BATCH = 64
_ROWS_OF_COLUMNS = 1000  # a line of JSON may leave out what it does not have, so one line does not tell


class _Shard(NamedTuple):
    """Rows to read: a file or one row group of a Parquet file, and of these the ones of a split (None: all)."""

    path: Path
    kind: str
    split: str | None
    row_group: int | None = None
    first_row: int = 0


class _Table(NamedTuple):
    """What rows are made with; it travels to worker processes."""

    folder: Path
    modalities: tuple[str, ...]
    timed: bool
    labelled: bool


def kind_of(path: Path) -> str | None:
    """`parquet`, `json` or `csv`, told from the content, or None."""
    head = read_head(path, 1 << 16)
    if head.startswith(b"PAR1"):
        return "parquet"
    first_line = head.decode("utf-8-sig", errors="replace").lstrip().partition("\n")[0]
    if first_line.startswith('{"'):
        return "json"
    columns = {column.strip().strip('"') for column in first_line.split(",")}
    return "csv" if columns & {"words", "text"} else None


def table_files(folder: Path) -> list[Path]:
    """The tables of a folder and of its `data` folder."""
    files = sorted(file for pattern in ("*", "data/*") for file in folder.glob(pattern) if file.is_file())
    files = [file for file in files if file.suffix in (".parquet", ".jsonl", ".csv") and file.stat().st_size]
    return [file for file in files if kind_of(file) is not None]


def read(path: Path, *, labels: bool = True) -> Source:
    """Opens a table, or a folder of tables.

    Args:
        path: the file or folder.
        labels: whether labels are wanted; without, the column need not be there.

    Raises:
        DataError: a needed column is missing, a file has no split, or a file is broken.
    """
    folder = path if path.is_dir() else path.parent
    files = table_files(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: the folder holds no .parquet, .jsonl or .csv table")
    columns = set.intersection(*map(_columns, files))
    splits: dict[str, list[_Shard]] = {}
    for file in files:
        for split, shards in _shards(file, "split" in columns, alone=len(files) == 1).items():
            splits.setdefault(split, []).extend(shards)
    if labels and "label" not in columns:
        raise DataError(f"{path}: no column label; data to predict on is loaded with labels=False")
    sizes = _modality_sizes(folder, sorted(columns - _PLAIN), list(itertools.chain(*splits.values())))
    if not columns & {"words", "text"} and not sizes:
        raise DataError(f"{path}: a table needs a column words (or text) or features; it has: {sorted(columns)}")
    table = _Table(folder, tuple(sizes), timed=columns >= set(_TIMES), labelled=labels)
    ordered = {split: splits[split] for split in ("train", "validation", "test") if split in splits}
    extractors = _feature_extractors(files, sizes)
    return Source(path, FORMAT, sizes, table.timed, ordered, functools.partial(_rows, table), extractors)


def _feature_extractors(files: list[Path], modalities: Iterable[str]) -> dict[str, str]:
    """What made the features, where all files are Parquet of `datasets` that say it and the same."""
    found: dict[str, set[str | None]] = {name: set() for name in modalities}
    for file in files:
        metadata = (pq.read_schema(file).metadata or {}) if kind_of(file) == "parquet" else {}
        try:
            columns = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
            for name, names in found.items():
                names.add(columns[name].get("id"))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}
    return {name: min(names) for name, names in found.items() if len(names) == 1 and isinstance(min(names), str)}


# Files


def _columns(path: Path) -> set[str]:
    kind = kind_of(path)
    with broken_files_are_data_errors(path, "table"):
        if kind == "parquet":
            return set(pq.read_schema(path).names)
        return set().union(*itertools.islice(_text_cells(path, kind), _ROWS_OF_COLUMNS))


def _shards(path: Path, has_splits: bool, alone: bool) -> dict[str, list[_Shard]]:
    """The shards of a file for each split that it has rows of."""
    kind = kind_of(path)
    groups = [(None, 0)]
    with broken_files_are_data_errors(path, "table"):
        if kind == "parquet":
            metadata = pq.read_metadata(path)
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            groups = list(zip(range(len(sizes)), itertools.accumulate(sizes, initial=0), strict=False))
        splits = _splits_of_rows(path, kind) if has_splits else [_split_of_name(path, alone)]
    return {split: [_Shard(path, kind, split if has_splits else None, *group) for group in groups] for split in splits}


def _splits_of_rows(path: Path, kind: str) -> list[str]:
    if kind == "parquet":
        names = pq.read_table(path, columns=["split"]).column("split").unique().to_pylist()
    else:
        names = {cells.get("split") for cells in _text_cells(path, kind)}
    return sorted({split_name(name, path) for name in names})


def _split_of_name(path: Path, alone: bool) -> str:
    word = re.match(r"[a-zA-Z]*", path.name)[0].lower()
    if word not in SPLIT_NAMES and not alone:
        raise DataError(f"{path}: begins with none of {', '.join(SPLIT_NAMES)} and has no column split")
    return SPLIT_NAMES.get(word, "train")


def _text_cells(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The cells of each line of JSON or CSV by column; a line that is no row has none."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if kind == "csv":
            for cells in csv.DictReader(file):
                yield {} if None in cells else cells
            return
        for line in file:
            if line.strip():
                try:
                    cells = json.loads(line)
                except (ValueError, RecursionError):
                    cells = {}
                yield cells if isinstance(cells, dict) else {}


def _parquet_cells(path: Path, row_group: int) -> Iterator[dict[str, Any]]:
    """The cells of each row of a row group; lists of rows come as arrays, which is much faster than as lists."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, row_groups=[row_group]):
            columns = {name: _column_cells(batch.column(name)) for name in batch.schema.names}
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))


def _column_cells(column: pa.Array) -> list[Any]:
    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    if not (pa.types.is_list(column.type) and pa.types.is_list(column.type.value_type)):
        return column.to_pylist()
    rows = column.flatten()
    sizes = rows.value_lengths().unique().to_pylist()
    values = rows.flatten()
    if not pa.types.is_floating(values.type) or values.null_count or len(sizes) != 1 or not sizes[0]:
        return column.to_pylist()
    matrix = values.to_numpy(zero_copy_only=False).reshape(-1, sizes[0])
    cells, start = [], 0
    for length in column.value_lengths().to_pylist():
        cells.append(None if length is None else matrix[start : start + length])
        start += length or 0
    return cells


# Rows


def _cells(shard: _Shard) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbered rows of a shard's split."""
    if shard.kind == "parquet":
        rows = _parquet_cells(shard.path, shard.row_group)
    else:
        rows = _text_cells(shard.path, shard.kind)
    for index in itertools.count(shard.first_row):
        with broken_files_are_data_errors(shard.path, "table"):
            cells = next(rows, None)
        if cells is None:
            return
        if shard.split is None or split_name(cells.get("split"), shard.path) == shard.split:
            yield index, cells


def _rows(table: _Table, shard: _Shard) -> Iterator[Row | Skipped]:
    for index, cells in _cells(shard):
        name = str(cells.get("id") or f"{shard.path.stem}-{index}")
        try:
            if not cells:
                raise DataError(f"row {index + 1} cannot be read as a line of this table")
            row = _row(table, name, cells)
        except DataError as error:
            row = Skipped(name, str(error))
        yield row


def _row(table: _Table, name: str, cells: dict[str, Any]) -> Row:
    row = {
        "id": name,
        "video_id": str(cells.get("video_id") or video_of(name)),
        "words": _words(cells.get("words") if cells.get("words") is not None else cells.get("text")),
    }
    if table.labelled:
        row["label"] = _number(cells.get("label"), "label")
    if table.timed:
        row |= {name: _number(cells.get(name), name) for name in ("start", "end")}
        row |= {
            name: [_number(value, name) for value in _list(cells.get(name))] for name in ("word_start", "word_end")
        }
    for modality in table.modalities:
        cell = cells[modality] if modality in cells else cells.get("features")
        row[modality] = _features(cell, modality, table.folder)
    return row


def _words(cell: Any) -> list[str]:
    if isinstance(cell, str) and not cell.startswith("["):
        return cell.split()
    words = _list(cell)
    if not all(isinstance(word, str) for word in words):
        raise DataError(f"words {str(cell)[:80]!r} are not a list of strings or a text")
    return words


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


def _number(cell: Any, name: str) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise DataError(f"{name} {str(cell)[:80]!r} is not a number") from None


def _features(cell: Any, modality: str, folder: Path) -> np.ndarray | None:
    if cell is None or (isinstance(cell, str) and not cell):
        return None
    if isinstance(cell, str) and not cell.startswith("["):
        return load_array(folder, cell, modality)
    if not isinstance(cell, np.ndarray):
        try:
            cell = np.asarray(_list(cell), np.float32)
        except (TypeError, ValueError):
            raise DataError(f"{modality} is not a list of rows of numbers, all of one length") from None
    return cell if len(cell) else None


# Columns


def _modality_sizes(folder: Path, columns: list[str], shards: list[_Shard]) -> dict[str, int]:
    """The modalities among the columns and their sizes, each by the first row that tells."""
    sizes: dict[str, int] = {}
    undecided = set(columns)
    for shard in shards:
        for _, cells in _cells(shard):
            for column in sorted(undecided):
                cell = cells.get(column)
                found = _sizes_of_cell(folder, column, cell)
                sizes |= found
                if found or not _may_be_features(cell):
                    undecided.discard(column)
            if not undecided:
                return dict(sorted(sizes.items()))
    return dict(sorted(sizes.items()))


def _may_be_features(cell: Any) -> bool:
    """Whether a column with this cell can still be a modality in other rows."""
    return cell is None or isinstance(cell, list | np.ndarray) or (isinstance(cell, str) and _is_features_text(cell))


def _is_features_text(cell: str) -> bool:
    return not cell or cell.startswith("[") or cell.endswith((".npy", ".npz"))


def _sizes_of_cell(folder: Path, column: str, cell: Any) -> dict[str, int]:
    if not _may_be_features(cell):
        return {}
    try:
        names = array_names(folder, cell) if column == "features" and isinstance(cell, str) and cell else [column]
        arrays = {name: _features(cell, name, folder) for name in names}
    except DataError:
        return {}
    return {name: array.shape[1] for name, array in arrays.items() if np.ndim(array) == 2}
