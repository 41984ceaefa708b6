"""The Stanford Sentiment Treebank with five classes: a folder with a file for each split, or one of them.

Either `train.txt`, `dev.txt` and `test.txt` with a tree on each line, `(3 (2 It) (4 (2 's) (3 lovely)))`, of which the
first number is the sentiment of the sentence; or CSV files with the columns `id` (`sst_...`), `text` and `sentiment`.
A label is one of five classes, from very negative (0) to very positive (4). With `label_kind="number"` these are
numbers at equal distances in the range of sentiments, -3, -1.5, 0, 1.5 and 3, as other data has them.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..files import DataError, broken_files_are_data_errors
from ..labels import LABEL_RANGE, LabelFormat
from ..rows import Row, Skipped, Source, words_of_text
from .contract import Head, ReadOptions, no_labels
from .text_files import csv_rows, files_by_split, has_columns, text_files


FORMAT = "sst"
FEATURES_ARE_NORMALIZED = False  # it has none

CLASSES = ("very negative", "negative", "neutral", "positive", "very positive")

_TREE = re.compile(rb"\s*\([0-4] \(")
_WORD = re.compile(r"\([0-4] ([^()\s]+)\)")
_ESCAPED = {"-LRB-": "(", "-RRB-": ")", "\\/": "/", "\\*": "*"}
_COLUMNS = frozenset(("id", "text", "sentiment"))
_FIRST_ROW = re.compile(rb"[^\n]*\n[^\n]*\bsst_")  # in which a table of somebody else names no sentence of SST


class _Sentence(NamedTuple):
    id: str
    words: list[str]
    sentiment: str


def recognizes(path: Path, head: Head) -> bool:
    """Whether a file is one of SST, or a folder holds some."""
    return bool(files(path))


def files(path: Path) -> list[Path]:
    """The files with trees, or else with SST's columns."""
    trees = [file for file, first_bytes in text_files(path, ".txt").items() if _TREE.match(first_bytes)]
    return trees or [
        file
        for file, first_bytes in text_files(path, ".csv").items()
        if has_columns(first_bytes, _COLUMNS) and _FIRST_ROW.match(first_bytes)
    ]


def read(path: Path, options: ReadOptions) -> Source:
    """Opens a file or a folder of them.

    Raises:
        DataError: It is none of SST, has another label than sentiment, or labels are wanted and missing.
    """
    if not (found := files(path)):
        raise DataError(f"{path}: neither trees nor a table of SST; give its files")
    if options.label_columns not in ((), ("sentiment",)):
        raise DataError(
            f"{path}: labels={','.join(options.label_columns)}; of SST it is sentiment, so leave labels out"
        )
    splits = {split: list(_sentences(file, split)) for split, file in files_by_split(found).items()}
    if options.labels and not any(sentence.sentiment for rows in splits.values() for sentence in rows):
        raise no_labels(path, "column sentiment")
    are_numbers = options.label_kind == "number"
    label_format = LabelFormat() if are_numbers else LabelFormat("class", CLASSES, ())
    rows = functools.partial(_rows, are_numbers)
    return Source(path, FORMAT, {}, False, splits, rows, labels=_labels, label_format=label_format)


def _sentences(file: Path, split: str) -> Iterator[_Sentence]:
    if file.suffix == ".csv":
        for number, cells in enumerate(csv_rows(file)):
            name = cells.get("id", f"sst_{split}_{number}")
            yield _Sentence(name, words_of_text(cells.get("text")), cells.get("sentiment", ""))
        return
    with broken_files_are_data_errors(file, "list of trees", "get it again"), file.open(encoding="utf-8") as lines:
        for number, line in enumerate(filter(str.strip, lines)):
            words = [_unescaped(word) for word in _WORD.findall(line)]
            yield _Sentence(f"sst_{split}_{number}", words, line.strip()[1:2])


def _unescaped(word: str) -> str:
    for escaped, meant in _ESCAPED.items():
        word = word.replace(escaped, meant)
    return word


def _rows(are_numbers: bool, sentence: _Sentence) -> Iterator[Row | Skipped]:
    name, words, sentiment = sentence
    if sentiment and sentiment not in "01234":
        yield Skipped(name, f"sentiment {sentiment[:80]!r} is not one of 0 to 4; correct or remove the sample")
        return
    row: Row = {"id": name, "video_id": name, "words": words, "label": None}
    if sentiment:
        low, high = LABEL_RANGE
        number = int(sentiment)
        row["label"] = low + number * (high - low) / (len(CLASSES) - 1) if are_numbers else CLASSES[number]
    yield row


def _labels(sentence: _Sentence) -> Iterator[str]:
    yield sentence.sentiment
