"""The CSV files of MELD: `train_sent_emo.csv`, `dev_sent_emo.csv`, `test_sent_emo.csv`, or one of them.

Each row is an utterance with its `Speaker`, its `Emotion` (one of seven, the label if no other is named) and its
`Sentiment` (positive, neutral or negative). Words are those of `Utterance`. An utterance is called as its clip is,
`dia5_utt3`, after its split, since dialogues are counted anew in each; its `video_id` is the dialogue. Characters that
stand for bytes of Windows-1252, as in some of the files, are mended.
"""

import functools
import logging
from collections.abc import Iterator
from pathlib import Path

from ..files import DataError
from ..rows import Row, Skipped, Source, words_of_transcript
from .contract import Head, ReadOptions, no_labels
from .text_files import csv_rows, files_by_split, has_columns, mended, text_files


FORMAT = "meld"
FEATURES_ARE_NORMALIZED = False  # it has none

logger = logging.getLogger(__name__)

_COLUMNS = frozenset(("Utterance", "Speaker", "Dialogue_ID", "Utterance_ID"))
_LABELS = ("Emotion", "Sentiment")


def recognizes(path: Path, head: Head) -> bool:
    """Whether a file has the columns of MELD, or a folder such a file."""
    return bool(files(path))


def files(path: Path) -> list[Path]:
    """The CSV files with the columns of MELD."""
    return [file for file, first_bytes in text_files(path, ".csv").items() if has_columns(first_bytes, _COLUMNS)]


def read(path: Path, options: ReadOptions) -> Source:
    """Opens a file or a folder of them.

    Raises:
        DataError: Another label is wanted than emotion or sentiment, or the files lack it.
    """
    if not (found := files(path)):
        raise DataError(f"{path}: no CSV file with the columns {', '.join(sorted(_COLUMNS))}; give those of MELD")
    label = options.label_columns[0] if options.label_columns else _LABELS[0]
    if label not in _LABELS or len(options.label_columns) > 1:
        raise DataError(f"{path}: labels={','.join(options.label_columns)}; of MELD give one of {', '.join(_LABELS)}")
    splits: dict[str, list[Row | Skipped]] = {}
    for split, file in files_by_split(found).items():
        splits[split] = [_row(file, number, cells, split, label) for number, cells in enumerate(csv_rows(file), 2)]
        if options.labels and not any(label for row in splits[split] for label in _labels(row)):
            raise no_labels(file, f"column {label}")
    return Source(path, FORMAT, {}, False, splits, _rows, labels=_labels)


def _row(file: Path, number: int, cells: dict[str, str], split: str, label: str) -> Row | Skipped:
    if missing := [name for name in ("Dialogue_ID", "Utterance_ID") if name not in cells]:
        return Skipped(f"{split}_{number}", f"line {number} has no {missing[0]}; correct or remove it")
    dialogue = f"{split}_dia{cells['Dialogue_ID']}"
    text = cells.get("Utterance", "")
    if mended(text) != text:
        _say_that_texts_are_mended(file, text)
    return {
        "id": f"{dialogue}_utt{cells['Utterance_ID']}",
        "video_id": dialogue,
        "words": words_of_transcript(mended(text)),
        "label": cells.get(label),
    }


@functools.cache  # says it once for a file
def _say_that_texts_are_mended(file: Path, first: str) -> None:
    logger.warning("%s: characters of Windows-1252, wrongly decoded, are mended, the first in %r", file, first[:80])


def _rows(row: Row | Skipped) -> Iterator[Row | Skipped]:
    yield row


def _labels(row: Row | Skipped) -> Iterator[str]:
    if isinstance(row, dict) and row["label"]:
        yield row["label"]
