"""Tables of predictions: their columns, the same in every table, and how tables are written and read."""

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data_builders.files import replacing_file

from ..class_task_cpsl import ClassTask
from ..number_task_cpsl import NumberTask
from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT


Row = dict[str, Any]
Columns = Mapping[str, pa.DataType]

TEXT, NUMBER, INTEGER = pa.string(), pa.float64(), pa.int64()
NUMBERS = pa.list_(NUMBER)  # some of which may be missing; JSON in a cell of a CSV table
_ROWS_AT_ONCE = 4096
_BETWEEN = "; "  # the names of several classes in a cell


def prediction_columns(modalities: Iterable[str], task: Task = SENTIMENT) -> dict[str, pa.DataType]:
    """The columns that every table of predictions has, and their types.

    Args:
        modalities: The modalities with a prediction of their own, `text` included.
        task: What labels are.
    """
    own = [f"prediction_{name}" for name in modalities]
    if not isinstance(task, NumberTask):
        columns = {**label_columns(task), "prediction": TEXT, **needed_columns(task)}
        return columns | dict.fromkeys(own, TEXT)
    if task.is_one_number:
        return {**label_columns(task), **needed_columns(task), **dict.fromkeys(own, NUMBER)}
    names = [f"{column}_{name}" for column in ("prediction", "score", *own) for name in task.names]
    return label_columns(task) | dict.fromkeys(names, NUMBER)


def label_columns(task: Task = SENTIMENT) -> dict[str, pa.DataType]:
    """Those of [`prediction_columns`] that hold the true label."""
    if not isinstance(task, NumberTask):
        return {"label": TEXT}
    return {f"label{end}": NUMBER for end in _ends(task)}


def _ends(task: Task) -> list[str]:
    """What stands at the end of the columns of each number or class; of one number nothing."""
    return [""] if task.is_one_number else [f"_{name}" for name in task.names]


def change_ends(task: Task = SENTIMENT) -> list[str]:
    """The same of the columns that say what changes scores; of one class only the predicted one is meant."""
    return [""] if isinstance(task, ClassTask) else _ends(task)


def share_columns(task: Task = SENTIMENT) -> dict[str, pa.DataType]:
    """The columns of what each word changes."""
    return {f"word_shares{end}": NUMBERS for end in change_ends(task)}


def uncertainty_columns(task: Task = SENTIMENT, *, drawn: bool = False) -> dict[str, pa.DataType]:
    """The columns of what is uncertain.

    Args:
        task: What labels are.
        drawn: Whether predictions are means over latent draws, which have a deviation.
    """
    columns = {f"std{end}": NUMBER for end in _ends(task)} if drawn else {}
    if isinstance(task, NumberTask):
        columns |= {f"interval_{side}{end}": NUMBER for end in _ends(task) for side in ("low", "high")}
    else:
        columns["set"] = TEXT
    return columns | {"coverage": NUMBER}


def needed_columns(task: Task = SENTIMENT) -> dict[str, pa.DataType]:
    """Those of [`prediction_columns`] that no prediction lacks."""
    if not isinstance(task, NumberTask):
        # Of several classes none may be predicted, for which a CSV file has an empty cell.
        chosen = {"prediction": TEXT, "score": NUMBER} if isinstance(task, ClassTask) else {}
        return chosen | {f"probability_{name}": NUMBER for name in task.names}
    if not task.is_one_number:
        return {f"{column}_{name}": NUMBER for column in ("prediction", "score") for name in task.names}
    classes = {"acc7_class": INTEGER, "sentiment": TEXT} if task.is_sentiment else {}
    return {"prediction": NUMBER, "score": NUMBER, **classes}


def result_cells(result: Mapping[str, Any], task: Task = SENTIMENT) -> Row:
    """What a result of the pipeline predicts, as cells of [`needed_columns`]."""
    if isinstance(task, NumberTask):
        cells = _spread("prediction", result["prediction"]) | _spread("score", result["score"])
        return cells | (
            {"acc7_class": result["acc7_class"], "sentiment": result["label"]} if task.is_sentiment else {}
        )
    scores = {"score": result["score"]} if isinstance(task, ClassTask) else {}
    probabilities = _spread("probability", dict(zip(task.names, task.scores_of(result), strict=True)))
    return _spread("prediction", result["label"]) | scores | probabilities


def part_cells(modality: str, part: Mapping[str, Any] | None, task: Task = SENTIMENT) -> Row:
    """What a result says of a modality, as cells: its `prediction`, and what else it has but scores."""
    if not part:
        return {}
    prediction = part.get("prediction") if isinstance(task, NumberTask) else part.get("label")
    cells = {} if prediction is None else _spread(f"prediction_{modality}", prediction)
    for name in ("delta", "weight"):
        cells |= {} if part.get(name) is None else _spread(f"{name}_{modality}", part[name])
    return cells


def share_cells(shares: Sequence[Any] | None, task: Task = SENTIMENT) -> Row:
    """What each word changes, as cells of [`share_columns`]; None where the text is missing."""
    if shares is None:
        return dict.fromkeys(share_columns(task))
    if change_ends(task) == [""]:
        return {"word_shares": list(shares)}
    return {f"word_shares_{name}": [None if share is None else share[name] for share in shares] for name in task.names}


def uncertainty_cells(uncertainty: Mapping[str, Any], task: Task = SENTIMENT) -> Row:
    """What a result says of its uncertainty, as cells; a set of classes as one text."""
    cells = _spread("std", uncertainty["std"]) if "std" in uncertainty else {}
    if "coverage" in uncertainty:
        cells["coverage"] = uncertainty["coverage"]
    if not isinstance(task, NumberTask):
        given = uncertainty.get("set")
        if isinstance(given, Mapping):  # by class whether a sample has it, or may have it
            given = [name if values == [True] else f"{name}?" for name, values in given.items() if True in values]
        return cells if given is None else cells | _spread("set", given)
    intervals = uncertainty.get("interval")
    by_end = {} if intervals is None else {"": intervals} if task.is_one_number else _spread("", intervals)
    for end, (low, high) in by_end.items():
        cells |= {f"interval_low{end}": low, f"interval_high{end}": high}
    return cells


def label_cells(label: Any) -> Row:
    """A label, see [`Task.sample_labels`], as cells; None where it is not known."""
    return {} if label is None else _spread("label", label)


def scores_and_labels(table: pd.DataFrame, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """What a table of predictions holds: scores and labels, (N,) or (N, K) each, labels as losses take them."""
    predicted, labels = predictions_and_labels(table, task)
    return task.clip(predicted) if isinstance(task, NumberTask) else predicted, labels


def predictions_and_labels(table: pd.DataFrame, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """As [`scores_and_labels`], with numbers as they were predicted, not clipped to their range."""
    if isinstance(task, NumberTask):
        predictions, labels = (
            np.stack([table[f"{column}{end}"].to_numpy() for end in _ends(task)], axis=-1)
            for column in ("prediction", "label")
        )
        return (predictions[:, 0], labels[:, 0]) if task.is_one_number else (predictions, labels)
    scores = np.stack([table[f"probability_{name}"].to_numpy() for name in task.names], axis=-1)
    shown = table["label"].tolist()
    named = shown if isinstance(task, ClassTask) else [[*filter(None, label.split(_BETWEEN))] for label in shown]
    return scores, task.label_array([task.checked_label(label) for label in named])


def _spread(column: str, value: Any) -> Row:
    """A value as the cell of a column; one by name as those of as many columns, and a list of names as one text."""
    if isinstance(value, Mapping):
        return {f"{column}_{name}": part for name, part in value.items()}
    return {column: _BETWEEN.join(value) if isinstance(value, list) else value}


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
    "change_ends",
    "check_row",
    "label_cells",
    "label_columns",
    "needed_columns",
    "part_cells",
    "prediction_columns",
    "predictions_and_labels",
    "read_table",
    "result_cells",
    "scores_and_labels",
    "share_cells",
    "share_columns",
    "uncertainty_cells",
    "uncertainty_columns",
    "write_table",
]
