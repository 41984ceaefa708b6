"""Tables of predictions: their columns, the same in every table, and how tables are written and read."""

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_builders.files import replacing_file


Row = dict[str, Any]
Columns = Mapping[str, pa.DataType]

TEXT, NUMBER, INTEGER = pa.string(), pa.float64(), pa.int64()
NUMBERS = pa.list_(NUMBER)  # some of which may be missing; JSON in a cell of a CSV table
_ROWS_AT_ONCE = 4096


def prediction_columns(modalities: Iterable[str]) -> dict[str, pa.DataType]:
    """The columns that every table of predictions has, and their types.

    Args:
        modalities: The modalities with a prediction of their own, `text` included.
    """
    columns = {"label": NUMBER, "prediction": NUMBER, "score": NUMBER, "acc7_class": INTEGER, "sentiment": TEXT}
    return columns | {f"prediction_{name}": NUMBER for name in modalities}


def write_table(rows: Iterable[Row], columns: Columns, path: Path) -> None:
    """Writes rows to a `.parquet`, `.jsonl` or `.csv` table, in constant memory; what a row lacks is empty.

    Raises:
        WriteError: The file could not be written.
    """
    with replacing_file(path) as temporary:
        WRITERS[path.suffix](rows, columns, temporary)


def read_table(path: Path, columns: Columns) -> Iterator[Row]:
    """The rows of a table, in constant memory; those of the columns that the file has, None where a cell is empty.

    Raises:
        Exception: The file is broken; every library has its own errors.
    """
    return _READERS[path.suffix](path, columns)


def check_row(row: Row, columns: Columns, needed: Iterable[str]) -> None:
    """Checks what stands in a row, which may come from anywhere.

    Args:
        row: The row; an empty cell is None or left out.
        columns: The columns and their types.
        needed: The columns that may not be empty.

    Raises:
        ValueError: A value has another type or is infinite, or a needed one is missing.
    """
    for name, kind in columns.items():
        value = row.get(name)
        if (name in needed) if value is None else not _is_of(kind, value):
            raise ValueError(f"{name} is {str(value)[:80]!r}")


def _is_of(kind: pa.DataType, value: Any) -> bool:
    if kind == TEXT:
        return isinstance(value, str)
    if kind == NUMBERS:
        return isinstance(value, list) and all(item is None or _is_of(NUMBER, item) for item in value)
    if isinstance(value, bool) or not isinstance(value, int if kind == INTEGER else int | float):
        return False
    if kind == INTEGER:
        return -sys.maxsize - 1 <= value <= sys.maxsize
    return abs(value) <= sys.float_info.max


def _write_parquet(rows: Iterable[Row], columns: Columns, path: Path) -> None:
    schema, remaining = pa.schema(columns.items()), iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while part := list(itertools.islice(remaining, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(part, schema))


def _write_json_lines(rows: Iterable[Row], columns: Columns, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({name: row.get(name) for name in columns}, ensure_ascii=False) + "\n")


def _write_csv(rows: Iterable[Row], columns: Columns, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        # Texts in quotes, since a line break in an id would otherwise end its row.
        writer = csv.DictWriter(file, list(columns), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: json.dumps(cell) if isinstance(cell, list) else cell for name, cell in row.items()})


def _read_parquet(path: Path, columns: Columns) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        wanted = [name for name in file.schema_arrow.names if name in columns]
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            yield from batch.to_pylist()


def _read_json_lines(path: Path, columns: Columns) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _read_csv(path: Path, columns: Columns) -> Iterator[Row]:
    types: dict[pa.DataType, Callable[[str], Any]] = {TEXT: str, NUMBER: float, INTEGER: int, NUMBERS: json.loads}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {name: types[columns[name]](cell) if cell else None for name, cell in row.items() if name in columns}


WRITERS = {".parquet": _write_parquet, ".jsonl": _write_json_lines, ".csv": _write_csv}
_READERS = {".parquet": _read_parquet, ".jsonl": _read_json_lines, ".csv": _read_csv}


__all__ = [
    "INTEGER",
    "NUMBER",
    "NUMBERS",
    "TEXT",
    "WRITERS",
    "Columns",
    "check_row",
    "prediction_columns",
    "read_table",
    "write_table",
]
