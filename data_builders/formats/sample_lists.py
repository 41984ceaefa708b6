"""What the pickles of the MAG and MISA families share: splits that are lists of `((...), label, segment)`."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alignment import spread_frames, true_frames, zero_non_finite
from ..rows import Replaced, Row, Skipped, Source, as_text, split_name, video_of


MODALITIES = {"visual": 1, "acoustic": 2}


class Layout(NamedTuple):
    """Where the first part of a sample has its fields; visual and acoustic come second and third in all of them.

    Attributes:
        fields: how many there are.
        words: the column of the words.
        lengths: the columns of the true numbers of frames by modality, where frames are not aligned to words.
    """

    fields: int
    words: int
    lengths: dict[str, int]


def layout_of(data: Any, layouts: tuple[Layout, ...]) -> Layout | None:
    """The layout of the first sample that has one of them."""
    if not isinstance(data, dict) or not all(isinstance(split, list) for split in data.values()):
        return None
    for samples in data.values():
        for sample in samples[:10]:
            for layout in layouts:
                if fault(sample, layout) is None:
                    return layout
    return None


def fault(sample: Any, layout: Layout) -> str | None:
    """What is wrong with a sample's structure."""
    if not isinstance(sample, tuple | list) or len(sample) != 3:
        return "it is not (features, label, segment)"
    fields = sample[0]
    if not isinstance(fields, tuple | list) or len(fields) != layout.fields:
        return f"its first part does not have {layout.fields} fields"
    words = fields[layout.words]
    if not isinstance(words, list | tuple | np.ndarray) or not all(isinstance(word, str | bytes) for word in words):
        return "its words are not strings"
    for name, column in MODALITIES.items():
        if not isinstance(fields[column], np.ndarray) or fields[column].ndim != 2:
            return f"{name} is not an array of feature rows"
    for name, column in layout.lengths.items():
        if np.ndim(fields[column]) or np.asarray(fields[column]).dtype.kind not in "iu" or fields[column] < 0:
            return f"the length of {name} is not a whole number"
    return None


def read_samples(path: Path, data: dict[str, list], format_name: str, layout: Layout) -> Source:
    """The source of unpickled splits whose samples have a layout."""
    splits: dict[str, list] = {}
    sizes: dict[str, int] = {}
    for name, samples in data.items():
        splits[split_name(name, path)] = [(f"{name}-{index}", sample) for index, sample in enumerate(samples)]
        for sample in samples:
            if not sizes and fault(sample, layout) is None:
                sizes = {modality: sample[0][column].shape[1] for modality, column in sorted(MODALITIES.items())}
    return Source(path, format_name, sizes, False, splits, functools.partial(_rows, layout))


def _rows(layout: Layout, shard: tuple[str, Any]) -> Iterator[Row | Skipped | Replaced]:
    """The row of one sample, which is called by its place if it has no id."""
    name, sample = shard
    reason = fault(sample, layout)
    if reason is not None:
        yield Skipped(name, reason)
        return
    fields, label, segment = sample
    segment = as_text(segment) if isinstance(segment, str | bytes) else name
    row = {"id": segment, "video_id": video_of(segment), "words": [as_text(word) for word in fields[layout.words]]}
    for modality, column in MODALITIES.items():
        row[modality] = fields[column]
        if layout.lengths:
            frames, replaced = zero_non_finite(true_frames(fields[column], int(fields[layout.lengths[modality]])))
            yield Replaced(modality, replaced)
            row[modality] = spread_frames(frames, len(row["words"])) if len(frames) else None
    yield {**row, "label": label}
