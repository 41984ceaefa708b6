"""Reads the labels of clips from a table, and shares out clips without a split."""

import csv
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..files import DataError, read_head
from ..formats.table_cells import label_of_cell
from ..labels import LabelFormat, checked_label, find_format
from ..rows import SPLITS, split_name


_COLUMNS = ("clip", "split", "video_id", "start", "end")
_SHARES = (0.7, 0.15, 0.15)  # of the videos in each of `SPLITS`, where the table has no splits


class ClipLabels(NamedTuple):
    """What a table says of a clip.

    Attributes:
        spans: Start and end of its utterances in seconds; the whole clip where the table names none.
        labels: The label of each, as [`checked_label`] gives it.
        split: Its split.
        video_id: What it was cut from, or who speaks: clips with the same one are in one split.
    """

    spans: tuple[tuple[float, float], ...]
    labels: tuple[Any, ...]
    split: str
    video_id: str


def read_labels(
    path: Path,
    *,
    columns: Sequence[str] = (),
    kind: str | None = None,
    ranges: Sequence[float] | None = None,
) -> tuple[dict[str, ClipLabels], LabelFormat]:
    """The labels of clips by the clip's name, with or without its suffix, and what they are.

    Args:
        path: A CSV file with the columns `clip` and `label`, and, as far as they are wanted, `start` and `end` of each
            utterance in seconds, `split`, and `video_id`. Without `split`, 70 % of the videos are for training, 15 %
            for validation and 15 % for testing, drawn at random, the same ones each time.
        columns: The columns of the label in place of `label`.
        kind: See [`find_format`].
        ranges: See [`find_format`].

    Raises:
        DataError: A column is missing, a cell is wrong, or an option does not fit the labels.
    """
    label_columns = tuple(columns) or ("label",)
    rows = _rows(path, label_columns)
    videos = {row["clip"]: row.get("video_id") or Path(row["clip"]).with_suffix("").as_posix() for row in rows}
    shared = {} if "split" in rows[0] else shared_out(sorted(set(videos.values())))
    splits = [
        split_name(row["split"], _where(path, number, row)) if "split" in row else shared[videos[row["clip"]]]
        for number, row in enumerate(rows, 2)
    ]
    training = [row for row, split in zip(rows, splits, strict=True) if split == SPLITS[0]] or rows
    try:
        label_format = find_format(
            (_label(row, label_columns) for row in training), kind=kind, names=columns, ranges=ranges
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    clips: dict[str, ClipLabels] = {}
    for number, (row, split) in enumerate(zip(rows, splits, strict=True), 2):
        where, video = _where(path, number, row), videos[row["clip"]]
        try:
            label = checked_label(_label(row, label_columns), label_format)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        span = _span(row, where)
        known = clips.get(row["clip"])
        if known is None:
            clips[row["clip"]] = ClipLabels((span,), (label,), split, video)
            continue
        if (split, video) != (known.split, known.video_id):
            raise DataError(f"{where}: another split or video_id than in a line before; give it the same one")
        if span[0] < known.spans[-1][1]:
            raise DataError(
                f"{where}: begins at {span[0]:g} s, before the utterance above ends; sort the lines, and give each a "
                "start and an end"
            )
        clips[row["clip"]] = known._replace(spans=(*known.spans, span), labels=(*known.labels, label))
    return clips, label_format


def _where(path: Path, number: int, row: Mapping[str, str]) -> str:
    return f"{path}: line {number}: clip {row['clip']}"


def _label(row: Mapping[str, str], columns: Sequence[str]) -> Any:
    labels = {name: label_of_cell(row[name]) for name in columns}
    return labels if len(labels) > 1 else labels[columns[0]]


def _rows(path: Path, label_columns: Sequence[str]) -> list[dict[str, str]]:
    read_head(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error}); save it as one") from None
    columns = set(rows[0]) if rows else set()
    if not columns >= {"clip", *label_columns}:
        names = ", ".join(sorted(map(str, columns))) or "no line but the first"
        raise DataError(
            f"{path}: labels need the columns clip and {', '.join(label_columns)}, separated by commas; it has: "
            f"{names[:200]}; rename them, or name the label's (--label_columns)"
        )
    wanted = [name for name in (*_COLUMNS, *label_columns) if name in columns]
    rows = [{name: (row[name] or "").strip() for name in wanted} for row in rows]
    if empty := [number for number, row in enumerate(rows, 2) if not row["clip"]]:
        raise DataError(f"{path}: line {empty[0]}: no clip; name it, or remove the line")
    return rows


def _span(row: Mapping[str, str], where: str) -> tuple[float, float]:
    start, end = row.get("start") or "0", row.get("end") or "inf"
    try:
        span = float(start), float(end)
    except ValueError:
        span = math.nan, math.nan
    if not 0 <= span[0] < span[1]:
        raise DataError(f"{where}: from {start} to {end} is no time in seconds; correct start and end")
    return span


def shared_out(videos: Sequence[str]) -> dict[str, str]:
    """A split for each video, drawn at random, the same ones each time; all train where they are fewer than splits."""
    if len(videos) < len(SPLITS):
        return dict.fromkeys(videos, SPLITS[0])
    drawn = random.Random(0).sample(videos, len(videos))
    counts = [max(round(len(videos) * share), 1) for share in _SHARES[1:]]
    borders = len(videos) - sum(counts), len(videos) - counts[1]
    return {
        video: SPLITS[0 if index < borders[0] else 1 if index < borders[1] else 2] for index, video in enumerate(drawn)
    }
