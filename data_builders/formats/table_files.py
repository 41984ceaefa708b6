"""The files of tables: their kind, columns and splits, and the cells of their rows."""

import codecs
import contextlib
import csv
import functools
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.types import is_floating, is_integer

from ..files import MAX_COMPRESSION, DataError, broken_files_are_data_errors, read_head
from ..rows import MAX_VALUES, SPLIT_ALIASES, split_name
from .text_files import first_word, split_of_name


TEXT_COLUMNS = frozenset(("words", "text"))
TIME_COLUMNS = frozenset(("start", "end", "word_start", "word_end"))
ROW_COLUMNS = frozenset(("id", "video_id", "label", "split", "weight")) | TEXT_COLUMNS | TIME_COLUMNS

_RECOGNIZED = frozenset(("id", "label", *TEXT_COLUMNS))  # one of these makes a line the header of a CSV file
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_ARRAY_SUFFIXES = (".npy", ".npz")
_JSON_KEY = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:')
_LONGEST_NAME = 40  # of a column: text with commas is longer between them
_ROWS_OF_BATCH = 64
_VALUES_OF_BATCH = 1 << 22
_SMALL_FILE = 1 << 22  # in bytes: equal values take no room, so a smaller one may claim anything


# What other data sets call the columns that are needed here.
CALLED_LIKE = {
    "text": ("sentence", "transcript", "transcription", "utterance", "raw_text"),
    "label": (
        "sentiment",
        "sentiment_score",
        "regression_labels",
        "polarity",
        "valence",
        "score",
        "rating",
        "emotion",
    ),
}


@contextlib.contextmanager
def _broken_tables_are_data_errors(path: Path) -> Iterator[None]:
    with broken_files_are_data_errors(path, "table", "save the table again, text in UTF-8"):
        try:
            yield
        except UnicodeDecodeError as error:
            found = error.object[max(error.start - 10, 0) : error.start + 10]
            raise DataError(
                f"{path}: the text is not in UTF-8, it has the bytes {found!r}; {_convert_from('GBK')}, where GBK "
                "stands for its encoding, which of Excel is often CP1252"
            ) from None


def _convert_from(encoding: str) -> str:
    return f"save it as CSV in UTF-8, or convert it: iconv -f {encoding} -t UTF-8 OLD.csv > NEW.csv"


class Shard(NamedTuple):
    """Rows to read: those of one split (None: all) in a text file, or in one row group of a Parquet file."""

    root: Path
    path: Path
    kind: str
    split: str | None
    row_group: int | None = None
    first_row: int = 0
    has_broken_rows: bool = True  # a row that cannot be read is reported in one split


def kind_of(path: Path, first_bytes: bytes) -> str | None:
    """`parquet`, `json` or `csv`, told from the first bytes of a file, or None where it is not a table.

    Raises:
        DataError: The file is a table whose columns are not separated by commas.
    """
    if first_bytes.startswith(b"PAR1"):
        return "parquet"
    first_line = _first_line(first_bytes)
    if re.match(r'\{\s*"', first_line):
        return "json"
    for separator, name in _SEPARATORS.items():
        if _RECOGNIZED & set(_split_header(first_line, separator)):
            if separator != ",":
                raise DataError(f"{path}: the columns are separated by {name}; separate them by commas")
            return "csv"
    return None


def refuse_other_text(path: Path, first_bytes: bytes) -> None:
    """Raises a DataError that says what a table needs, for text that is not one; other files may be of any kind."""
    is_marked = first_bytes.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if unmarked := re.match(rb"([ -~]\0){4}|(\0[ -~]){4}", first_bytes):
        encoding = "UTF-16LE" if unmarked[1] else "UTF-16BE"
    if is_marked or unmarked:
        raise DataError(f"{path}: the text is UTF-16; {_convert_from('UTF-16' if is_marked else encoding)}")
    if re.match(rb'\s*(?:\{\s*["}]|\[\s*(?:[][{"\d-]|true|false|null))', first_bytes):
        raise DataError(f"{path}: this is a JSON document; tables are read from JSON lines, one object a line")
    line = _first_line(first_bytes)
    for separator in _SEPARATORS:
        columns = _split_header(line, separator)
        if len(columns) > 1 and all(0 < len(name) <= _LONGEST_NAME for name in columns):
            raise DataError(
                f"{path}: none of its columns ({', '.join(columns)[:300]}) is {', '.join(sorted(_RECOGNIZED))}, which "
                f"a CSV table has, in lower case and separated by commas{renaming_hint(columns)}"
            )


def renaming_hint(columns: Collection[str]) -> str:
    """Which columns to rename, judged by their names, as the end of a message; often none."""
    hints = []
    for wanted, alike in CALLED_LIKE.items():
        found = [name for name in columns if name.lower() in (wanted, *alike)]
        if found and wanted not in columns and not (wanted == "text" and "words" in columns):
            meant = f", if it is the label, or give --labels {found[0]}" if wanted == "label" else ""
            hints.append(f"rename {found[0]} to {wanted}{meant}")
    return "".join(f"; {hint}" for hint in hints)


def find_tables(folder: Path) -> list[Path]:
    """The tables of a folder and of its `data` folder; a CSV file is one if it has words, or the name of a split."""
    files = sorted(file for pattern in ("*", "data/*") for file in folder.glob(pattern) if file.is_file())
    files = [file for file in files if file.suffix in (".parquet", ".jsonl", ".csv") and file.stat().st_size]
    return [file for file in files if _is_of_the_data(file) and kind_of(file, read_head(file)) is not None]


def _is_of_the_data(file: Path) -> bool:
    if file.suffix != ".csv" or first_word(file) in SPLIT_ALIASES:
        return True
    return bool(TEXT_COLUMNS & set(_split_header(_first_line(read_head(file)), ",")))


def _first_line(first_bytes: bytes) -> str:
    head = first_bytes.decode("utf-8-sig", errors="replace")
    return re.split(r"[\r\n]", head.lstrip(), maxsplit=1)[0].rstrip()


def _split_header(line: str, separator: str) -> list[str]:
    columns = [column.strip().strip('"') for column in line.split(separator)]
    return columns if all(map(str.isprintable, columns)) else []


def table_kinds(path: Path) -> dict[Path, str]:
    """The kind of each table of a folder, or of a file that is a table; named as one, CSV may have any columns."""
    files = find_tables(path) if path.is_dir() else [path]
    heads = {file: read_head(file) for file in files}
    kinds = {file: kind_of(file, head) for file, head in heads.items()}
    if path.suffix == ".csv" and kinds.get(path, "") is None and _split_header(_first_line(heads[path]), ","):
        kinds[path] = "csv"
    return {file: kind for file, kind in kinds.items() if kind is not None}


def array_references(path: Path, kind: str) -> set[str]:
    """The cells of a table that name `.npy` and `.npz` files.

    Raises:
        DataError: The table is broken.
    """
    with _broken_tables_are_data_errors(path):
        if kind != "parquet":
            with _open_text(path) as file:
                if not any(".np" in line for line in file):  # much faster than to parse features
                    return set()
            cells = itertools.chain.from_iterable(row.values() for row in _text_rows(path, kind) if row)
            return {cell for cell in cells if isinstance(cell, str) and cell.endswith(_ARRAY_SUFFIXES)}
        with _open_parquet(path) as file:
            texts = {field.name for field in file.schema_arrow if _is_text(field.type)}
            texts -= ROW_COLUMNS | oversized_columns(path)
            references = set()
            for batch in file.iter_batches(_ROWS_OF_BATCH, columns=sorted(texts)):
                for cells in (column.cast(pa.string()) for column in batch.columns):
                    is_array = pc.or_(*(pc.ends_with(cells, suffix) for suffix in _ARRAY_SUFFIXES))
                    references.update(cells.filter(is_array).to_pylist())
            return references


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def datasets_info(path: Path) -> dict[str, Any]:
    """What `datasets` notes in a Parquet file about its data; {} where it did not write the file."""
    try:
        with _open_parquet(path) as file:
            info = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return info if isinstance(info, dict) else {}


def table_columns(path: Path, kind: str) -> set[str]:
    """The names of a table's columns; in JSON lines, of the columns that any line has."""
    with _broken_tables_are_data_errors(path):
        if kind == "parquet":
            with _open_parquet(path) as table:
                return set(table.schema_arrow.names)
        with _open_text(path) as file:
            return set(_csv_reader(file).fieldnames or ()) if kind == "csv" else _json_columns(file)


def _json_columns(lines: Iterable[str]) -> set[str]:
    """The columns of all lines, for a line may leave out what it lacks; only lines with a new key are parsed."""
    columns: set[str] = set()
    for line in lines:
        if not columns.issuperset(_JSON_KEY.findall(line)):
            columns |= (_json_row(line) or {}).keys()
    return columns


def count_rows(kinds: Mapping[Path, str]) -> int:
    """About how many rows tables have together: a line break in a text counts as the end of a row.

    Args:
        kinds: The kind of each table.
    """
    count = 0
    for path, kind in kinds.items():
        if kind == "parquet":
            with _open_parquet(path) as table:
                count += table.metadata.num_rows
        else:
            with path.open("rb") as file:
                count += sum(block.count(b"\n") for block in iter(functools.partial(file.read, 1 << 20), b""))
            count -= kind == "csv"  # its header
    return count


def shards_by_split(root: Path, path: Path, kind: str, *, has_splits: bool, alone: bool) -> dict[str, list[Shard]]:
    """The shards of a file for each split that it has rows of.

    Args:
        root: The folder that paths in the table may not lead out of.
        path: The file.
        kind: What `kind_of` says of it.
        has_splits: Whether the file has a column `split`; without, its name says the split.
        alone: Whether it is the only file, which is the training split if its name says no other.

    Raises:
        DataError: A split is unknown, or the file is broken.
    """
    groups: list[tuple[int | None, int]] = [(None, 0)]
    with _broken_tables_are_data_errors(path):
        if kind == "parquet":
            with _open_parquet(path) as table:
                sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            groups = list(zip(range(len(sizes)), itertools.accumulate(sizes, initial=0), strict=False))
        splits = _splits_of_rows(path, kind) if has_splits else [split_of_name(path, alone=alone)]
    return {
        split: [Shard(root, path, kind, split if has_splits else None, *group, split == splits[0]) for group in groups]
        for split in splits
    }


def _splits_of_rows(path: Path, kind: str) -> list[str]:
    """The splits of a file's rows; of a file without rows that can be read, the training split."""
    if kind == "parquet":
        with _open_parquet(path) as table:
            rows: Iterable[dict[str, Any] | None] = table.read(["split"]).to_pylist()
    else:
        rows = _text_rows(path, kind)
    names = {split_name(row.get("split"), f"{path}: row {number}") for number, row in enumerate(rows, 1) if row}
    return sorted(names) or ["train"]


@contextlib.contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    status = path.stat()
    metadata = _metadata(path, status.st_size, status.st_mtime_ns)
    with pa.OSFile(os.fsencode(path)) as source, pq.ParquetFile(source, metadata=metadata) as file:
        yield file


@functools.lru_cache(maxsize=8)
def _metadata(path: Path, size: int, changed: int) -> pq.FileMetaData:
    """The metadata of a Parquet file, which grow with it: in memory once, however many row groups are being read.

    Args:
        path: The file.
        size: Its size, and
        changed: the time of its last change, by which a file that was written anew is told from the one before.
    """
    with pa.OSFile(os.fsencode(path)) as source:  # a name need not be UTF-8
        return pq.read_metadata(source)


def _open_text(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _csv_reader(file: TextIO) -> csv.DictReader:
    # Features of a hundred words are longer than the limit, which nothing but the file's size needs to be.
    csv.field_size_limit(max(csv.field_size_limit(), os.fstat(file.fileno()).st_size))
    lines = csv.reader(file, skipinitialspace=True)
    names = [name.strip() for name in next((cells for cells in lines if cells), [])]
    if repeated := [name for name, count in Counter(names).items() if name and count > 1]:
        raise DataError(f"{file.name}: column {repeated[0]} occurs more than once; rename or remove one")
    return csv.DictReader(file, names, skipinitialspace=True)


def _json_row(line: str) -> dict[str, Any] | None:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cells if isinstance(cells, dict) else None


def _text_rows(path: Path, kind: str) -> Iterator[dict[str, Any] | None]:
    """The cells of each line of JSON or CSV by column; None for a line that is not a row."""
    with _open_text(path) as file:
        if kind == "csv":
            for cells in _csv_reader(file):
                yield None if None in cells else cells
            return
        for line in file:
            if line.strip():
                yield _json_row(line)


def oversized_columns(path: Path) -> set[str]:
    """The columns of a Parquet file that claim more bytes than it can hold, or too many values; they are not decoded.

    Raises:
        DataError: The file is broken.
    """
    with _broken_tables_are_data_errors(path), _open_parquet(path) as file:
        chunks_of = _chunks_of_columns(file.metadata, file.schema_arrow.names)
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        found, size = set(), path.stat().st_size
        # PyArrow aborts the process if it is asked for broken metadata of a column, so it is asked where it must be.
        if sum(group.total_byte_size for group in groups) > MAX_COMPRESSION * size:
            for group, (name, indices) in itertools.product(groups, chunks_of.items()):
                if any(_claims_too_much(group.column(index)) for index in indices):
                    found.add(name)
        rest = sorted(chunks_of.keys() - found)
        if size < _SMALL_FILE and rest:
            file.scan_contents(rest)  # in little memory, and raises an error where metadata are broken
            for group, name in itertools.product(groups, rest):
                if sum(group.column(index).num_values for index in chunks_of[name]) > MAX_VALUES * group.num_rows:
                    found.add(name)
    return found


def _claims_too_much(chunk: pq.ColumnChunkMetaData) -> bool:
    return chunk.total_uncompressed_size > MAX_COMPRESSION * (chunk.total_compressed_size + 1)


def _chunks_of_columns(file: pq.FileMetaData, names: Iterable[str]) -> dict[str, list[int]]:
    """The places of the values of columns in a row group; a list of words or rows is stored as its values."""
    paths = [file.schema.column(index).path for index in range(file.num_columns)]
    return {
        name: [index for index, path in enumerate(paths) if path == name or path.startswith(f"{name}.")]
        for name in names
    }


def _parquet_rows(path: Path, row_group: int, wanted: Set[str]) -> Iterator[dict[str, Any]]:
    """The cells of each row of a row group; lists of numbers come as arrays, which is much faster than as lists."""
    with _open_parquet(path) as file:
        names = [name for name in file.schema_arrow.names if name in wanted]
        for batch in file.iter_batches(_rows_of_batch(file, row_group, names), row_groups=[row_group], columns=names):
            columns = [_column_cells(batch.column(name)) for name in names] or [[None] * batch.num_rows]
            for values in zip(*columns, strict=True):
                yield dict(zip(names, values, strict=False))


def _rows_of_batch(file: pq.ParquetFile, row_group: int, names: list[str]) -> int:
    """How many rows are read at once: fewer where they hold many values, as equal rows do even in a small file."""
    # Where a column has broken metadata, PyArrow raises if it reads by them, and aborts the process if asked for them.
    if next(file.iter_batches(1, row_groups=[row_group], columns=names), None) is None:
        return _ROWS_OF_BATCH
    group = file.metadata.row_group(row_group)
    chunks = itertools.chain.from_iterable(_chunks_of_columns(file.metadata, names).values())
    values = sum(group.column(index).num_values for index in chunks)
    return min(max(_VALUES_OF_BATCH * group.num_rows // max(values, 1), 1), _ROWS_OF_BATCH)


def _column_cells(column: pa.Array) -> list[Any]:
    if isinstance(column, pa.FixedShapeTensorArray):
        return [tensor.to_numpy() if tensor.is_valid else None for tensor in column]
    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    if not pa.types.is_list(column.type):
        return column.to_pylist()
    values, shape = column.flatten(), (-1,)
    if pa.types.is_list(values.type):
        sizes = values.value_lengths().unique().to_pylist()
        values, shape = values.flatten(), (-1, *sizes)
    is_number = is_floating(values.type) or is_integer(values.type)
    if not is_number or values.null_count or len(shape) > 2 or not all(shape):
        return column.to_pylist()
    rows = values.to_numpy(zero_copy_only=False).reshape(shape)
    cells, start = [], 0
    for length in column.value_lengths().to_pylist():
        cells.append(None if length is None else rows[start : start + length])
        start += length or 0
    return cells


def numbered_rows(shard: Shard, columns: Set[str]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The rows of a shard's split, each with its number in the file.

    Args:
        shard: The shard.
        columns: The columns that are wanted; of Parquet, no other is decoded.

    Yields:
        The number and the cells by column; None for a row that cannot be read.

    Raises:
        DataError: The file is broken.
    """
    if shard.row_group is None:
        rows = _text_rows(shard.path, shard.kind)
    else:
        rows = _parquet_rows(shard.path, shard.row_group, columns if shard.split is None else {*columns, "split"})
    with _broken_tables_are_data_errors(shard.path):
        for index, cells in enumerate(rows, shard.first_row):
            if cells is None:
                if shard.has_broken_rows:
                    yield index, None
                continue
            split = shard.split and split_name(cells.get("split"), f"{shard.path}: row {index + 1}")
            if split == shard.split:
                yield index, {name: cells[name] for name in cells if name in columns}
