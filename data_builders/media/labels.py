"""Reads the labels of clips from a table, and shares out clips without a split."""

import csv
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..files import DataError, read_head
from ..rows import SPLITS, checked_label, split_name


_COLUMNS = ("clip", "label", "split", "video_id", "start", "end")
_SHARES = (0.7, 0.15, 0.15)  # of the videos in each of `SPLITS`, where the table has no splits


class ClipLabels(NamedTuple):
    """What a table says of a clip.

    Attributes:
        spans: Start and end of its utterances in seconds; the whole clip where the table names none.
        labels: The sentiment of each.
        split: Its split.
        video_id: What it was cut from, or who speaks: clips with the same one are in one split.
    """

    spans: tuple[tuple[float, float], ...]
    labels: tuple[float, ...]
    split: str
    video_id: str


def read_labels(path: Path) -> dict[str, ClipLabels]:
    """The labels of clips by the clip's name, with or without its suffix.

    Args:
        path: A CSV file with the columns `clip` and `label`, and, as far as they are wanted, `start` and `end` of each
            utterance in seconds, `split`, and `video_id`. Without `split`, 70 % of the videos are for training, 15 %
            for validation and 15 % for testing, drawn at random, the same ones each time.

    Raises:
        DataError: A column is missing, or a cell is wrong.
    """
    rows = _rows(path)
    videos = {row["clip"]: row.get("video_id") or Path(row["clip"]).with_suffix("").as_posix() for row in rows}
    splits = None if "split" in rows[0] else shared_out(sorted(set(videos.values())))
    clips: dict[str, ClipLabels] = {}
    for number, row in enumerate(rows, 2):
        where = f"{path}: line {number}: clip {row['clip']}"
        video = videos[row["clip"]]
        split = split_name(row["split"], where) if splits is None else splits[video]
        try:
            label = checked_label(float(row["label"]))
        except ValueError as error:  # DataError is one
            reason = error if isinstance(error, DataError) else f"label {row['label']!r} is not a number"
            raise DataError(f"{where}: {reason}; correct it, or remove the line") from None
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
    return clips


def _rows(path: Path) -> list[dict[str, str]]:
    read_head(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error}); save it as one") from None
    columns = set(rows[0]) if rows else set()
    if not columns >= {"clip", "label"}:
        names = ", ".join(sorted(map(str, columns))) or "no line but the first"
        raise DataError(
            f"{path}: labels need the columns clip and label, separated by commas; it has: {names[:200]}; rename them"
        )
    rows = [{name: (row[name] or "").strip() for name in _COLUMNS if name in columns} for row in rows]
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
