"""Tables of the user's own: Parquet, JSON lines or CSV with the columns of the row format.

Columns: `id`, `words` (a list, or text that is split at spaces; `text` is the same), `label` (not needed in data to
predict on), and where known `video_id`, `split`, `start`, `end`, `word_start`, `word_end`. Every other column is a
modality if its cells are lists of rows, one a word, or paths of `.npy` or `.npz` files, relative to the table and
inside of its folder (of the folder given, where it is one); a column `features` of `.npz` paths gives a modality for
each array in them. A modality that a file, a row or an `.npz` lacks is missing there. Splits come from the column
`split`, or from the names of the files (`train.csv`, `test-00000-of-00004.parquet`); a single file of another name is
the training split. CSV is separated by commas, and lists in it are JSON.
"""

import csv
import functools
import itertools
import json
import numbers
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, broken_files_are_data_errors
from ..files import read_head
from ..rows import SPLIT_NAMES, Row, Skipped, Source, as_text, check_text, split_name, video_of
from .arrays import array_names, array_path, load_array


FORMAT = "table"
FEATURES_ARE_NORMALIZED = False

_TIMES = ("start", "end", "word_start", "word_end")
_PLAIN = frozenset(("id", "video_id", "words", "text", "label", "split", *_TIMES))
_TEXT = frozenset(("words", "text"))
_RECOGNIZED = frozenset(("id", "label", *_TEXT))  # one of these makes a line of text the header of a CSV file
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
_JSON_KEY = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:')
_ROWS_OF_BATCH = 64
_VALUES_OF_BATCH = 1 << 22
_ROWS_OF_COLUMNS = 1000  # a column without features in so many rows is none of a modality


class _Shard(NamedTuple):
    """Rows to read: a file or one row group of a Parquet file, and of these the ones of a split (None: all)."""

    root: Path
    path: Path
    kind: str
    split: str | None
    row_group: int | None = None
    first_row: int = 0


class _Table(NamedTuple):
    """What rows are made with; it travels to worker processes."""

    modalities: tuple[str, ...]
    timed: bool
    labelled: bool


def kind_of(path: Path) -> str | None:
    """`parquet`, `json` or `csv`, told from the content, or None.

    Raises:
        DataError: the file is a table whose columns are not separated by commas.
    """
    if read_head(path, 4) == b"PAR1":
        return "parquet"
    first_line = _first_line(path)
    if re.match(r'\{\s*"', first_line):
        return "json"
    for separator, name in _SEPARATORS.items():
        if _RECOGNIZED & set(_split_header(first_line, separator)):
            if separator != ",":
                raise DataError(f"{path}: the columns are separated by {name}; separate them by commas")
            return "csv"
    return None


def table_files(folder: Path) -> list[Path]:
    """The tables of a folder and of its `data` folder; CSV has words, or is called as a split is."""
    files = sorted(file for pattern in ("*", "data/*") for file in folder.glob(pattern) if file.is_file())
    files = [file for file in files if file.suffix in (".parquet", ".jsonl", ".csv") and file.stat().st_size]
    return [file for file in files if _is_of_the_data(file) and kind_of(file) is not None]


def _is_of_the_data(file: Path) -> bool:
    if file.suffix != ".csv" or _first_word(file) in SPLIT_NAMES:
        return True
    return bool(_TEXT & set(_split_header(_first_line(file), ",")))


def _first_line(path: Path) -> str:
    head = read_head(path, 1 << 16).decode("utf-8-sig", errors="replace")
    return head.lstrip().partition("\n")[0].rstrip()


def _split_header(line: str, separator: str) -> list[str]:
    columns = [column.strip().strip('"') for column in line.split(separator)]
    return columns if all(map(str.isprintable, columns)) else []


def read(path: Path, *, labels: bool = True) -> Source:
    """Opens a table, or a folder of tables.

    Args:
        path: the file or folder.
        labels: whether labels are wanted; without, the column need not be there.

    Raises:
        DataError: a needed column is missing, a column has bad features alone, a file has no split, or is broken.
    """
    root = path if path.is_dir() else path.parent
    kinds = {file: kind_of(file) for file in table_files(path)} if path.is_dir() else {path: _kind_of_one(path)}
    if not kinds:
        raise DataError(f"{path}: the folder holds no .parquet, .jsonl or .csv table")
    columns = {file: _columns(file, kind) for file, kind in kinds.items()}
    splits: dict[str, list[_Shard]] = {}
    for file, kind in kinds.items():
        if labels and "label" not in columns[file]:
            raise DataError(f"{file}: no column label; data to predict on is loaded with labels=False")
        for split, shards in _shards(root, file, kind, "split" in columns[file], alone=len(kinds) == 1).items():
            splits.setdefault(split, []).extend(shards)
    found = set().union(*columns.values())
    sizes = _modality_sizes(found - _PLAIN, list(itertools.chain(*splits.values())))
    for name in sizes:
        if not name.isprintable():
            raise DataError(f"{path}: column {name!r} has a name that cannot be a modality's; rename it")
    if not found & _TEXT and not sizes:
        raise DataError(f"{path}: a table needs a column words (or text) or features; it has: {sorted(found)}")
    timed = all(names >= set(_TIMES) for names in columns.values())
    ordered = {split: splits[split] for split in ("train", "validation", "test") if split in splits}
    rows = functools.partial(_rows, _Table(tuple(sizes), timed, labelled=labels))
    return Source(path, FORMAT, sizes, timed, ordered, rows, _feature_extractors(kinds, sizes))


def _kind_of_one(path: Path) -> str:
    """The kind of a file that is said to be a table; CSV need not have a column that one is recognised by."""
    kind = kind_of(path) or ("csv" if path.suffix == ".csv" else None)
    if kind is None:
        expected = (
            "neither Parquet, nor JSON lines (one object a line), nor CSV with a column id, label, words or text"
        )
        raise DataError(f"{path}: no table: {expected}; save it as one of them")
    return kind


def _feature_extractors(kinds: dict[Path, str], modalities: Iterable[str]) -> dict[str, str]:
    """What made the features, where all files are Parquet of `datasets`, and those that have them say the same."""
    found: dict[str, set[str | None]] = {name: set() for name in modalities}
    for file, kind in kinds.items():
        metadata = (pq.read_schema(file).metadata or {}) if kind == "parquet" else {}
        try:
            columns = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
            for name in found.keys() & columns.keys():
                found[name].add(columns[name].get("id"))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}
    return {name: min(names) for name, names in found.items() if len(names) == 1 and isinstance(min(names), str)}


# Files


def _columns(path: Path, kind: str) -> set[str]:
    with broken_files_are_data_errors(path, "table"):
        if kind == "parquet":
            return set(pq.read_schema(path).names)
        with _open_text(path) as file:
            return set(_csv_reader(file).fieldnames or ()) if kind == "csv" else _json_columns(file)


def _json_columns(lines: Iterable[str]) -> set[str]:
    """The columns of all lines, for a line may leave out what it lacks; one without a new key is not parsed."""
    columns: set[str] = set()
    for line in lines:
        if not columns.issuperset(_JSON_KEY.findall(line)):
            columns |= _json_cells(line).keys()
    return columns


def _shards(root: Path, path: Path, kind: str, has_splits: bool, alone: bool) -> dict[str, list[_Shard]]:
    """The shards of a file for each split that it has rows of."""
    groups = [(None, 0)]
    with broken_files_are_data_errors(path, "table"):
        if kind == "parquet":
            metadata = pq.read_metadata(path)
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            groups = list(zip(range(len(sizes)), itertools.accumulate(sizes, initial=0), strict=False))
        splits = _splits_of_rows(path, kind) if has_splits else [_split_of_name(path, alone)]
    return {
        split: [_Shard(root, path, kind, split if has_splits else None, *group) for group in groups]
        for split in splits
    }


def _splits_of_rows(path: Path, kind: str) -> list[str]:
    if kind == "parquet":
        names = pq.read_table(path, columns=["split"]).column("split").unique().to_pylist()
    else:
        names = {cells.get("split") for cells in _text_cells(path, kind)}
    return sorted({split_name(name, path) for name in names})


def _split_of_name(path: Path, alone: bool) -> str:
    word = _first_word(path)
    if word not in SPLIT_NAMES and not alone:
        raise DataError(f"{path}: begins with none of {', '.join(SPLIT_NAMES)} and has no column split")
    return SPLIT_NAMES.get(word, "train")


def _first_word(path: Path) -> str:
    return re.match(r"[a-zA-Z]*", path.name)[0].lower()


def _open_text(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _csv_reader(file: TextIO) -> csv.DictReader:
    # Features of a hundred words are longer than the limit, which nothing but the file's size needs to be.
    csv.field_size_limit(max(csv.field_size_limit(), os.fstat(file.fileno()).st_size))
    return csv.DictReader(file, skipinitialspace=True)


def _json_cells(line: str) -> dict[str, Any]:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return cells if isinstance(cells, dict) else {}


def _text_cells(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The cells of each line of JSON or CSV by column; a line that is no row has none."""
    with _open_text(path) as file:
        if kind == "csv":
            for cells in _csv_reader(file):
                yield {} if None in cells else cells
            return
        for line in file:
            if line.strip():
                yield _json_cells(line)


def _parquet_cells(path: Path, row_group: int) -> Iterator[dict[str, Any]]:
    """The cells of each row of a row group; lists of rows come as arrays, which is much faster than as lists."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_rows_of_batch(file, row_group), row_groups=[row_group]):
            columns = {name: _column_cells(batch.column(name)) for name in batch.schema.names}
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))


def _rows_of_batch(file: pq.ParquetFile, row_group: int) -> int:
    """How many rows are read at once: fewer where they hold many values, which a small file can if they are alike."""
    # Where a column has broken metadata, PyArrow raises if it reads by them, and aborts the process if asked for them.
    if next(file.iter_batches(1, row_groups=[row_group]), None) is None:
        return _ROWS_OF_BATCH
    group = file.metadata.row_group(row_group)
    values = sum(group.column(index).num_values for index in range(group.num_columns))
    return min(max(_VALUES_OF_BATCH * group.num_rows // max(values, 1), 1), _ROWS_OF_BATCH)


def _column_cells(column: pa.Array) -> list[Any]:
    if isinstance(column, pa.FixedShapeTensorArray):
        return [tensor.to_numpy() if tensor.is_valid else None for tensor in column]
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
        name = _name(shard, index, cells)
        try:
            if not cells:
                raise DataError(f"row {index + 1} cannot be read as a line of this table")
            check_text(name)
            row = _row(table, shard, name, cells)
        except DataError as error:
            row = Skipped(name.encode(errors="backslashreplace").decode(), str(error))
        yield row


def _name(shard: _Shard, index: int, cells: dict[str, Any]) -> str:
    return f"{shard.path.stem}-{index}" if _is_missing(cells.get("id")) else as_text(cells["id"])


def _row(table: _Table, shard: _Shard, name: str, cells: dict[str, Any]) -> Row:
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


def _modality(shard: _Shard, cells: dict[str, Any], modality: str, num_words: int) -> np.ndarray | None:
    """The features in the modality's own cell, or else of this name in the `.npz` file of the cell `features`."""
    shared = cells.get("features")
    if _is_path(shared) and (modality == "features" or _is_missing(cells.get(modality))):
        path = array_path(shard.path, shard.root, shared)
        return _checked(load_array(path, modality, num_words=num_words, lone=False), modality)
    return _features(shard, cells.get(modality), modality, num_words)


def _features(shard: _Shard, cell: Any, modality: str, num_words: int | None = None) -> np.ndarray | None:
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


def _modality_sizes(columns: set[str], shards: list[_Shard]) -> dict[str, int]:
    """The modalities among the columns and their sizes, each by the first row that tells.

    Raises:
        DataError: a column has cells that are meant as features, and none of them can be read.
    """
    sizes: dict[str, int] = {}
    faults: dict[str, str] = {}
    undecided, good, plain, paths = set(columns), set(), set(), set()
    rows = ((shard, *row) for shard in shards for row in _cells(shard))
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


def _sizes_of_cell(shard: _Shard, cell: Any, column: str, known: dict[str, int]) -> dict[str, int]:
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
