"""What the pickles of the MAG and MISA families share: splits that are lists of `((...), label, segment)`."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alignment import spread_frames, true_frames, zero_non_finite
from ..rows import Replaced, Row, Skipped, Source, as_text, split_name, video_of
from .pickles import other_layout


_FIELDS = {"visual": 1, "acoustic": 2}  # where all layouts have the features


class Layout(NamedTuple):
    """The fields in the first part of a sample.

    Attributes:
        fields: How many there are.
        words: The field of the words.
        lengths: The fields of the true numbers of frames by modality, where frames are not aligned to words.
    """

    fields: int
    words: int
    lengths: dict[str, int]


def layout_of(data: Any, layouts: tuple[Layout, ...]) -> Layout | None:
    """The layout of the first sample of an unpickled object that has one of them."""
    if not isinstance(data, dict) or not all(isinstance(split, list) for split in data.values()):
        return None
    for samples in data.values():
        for sample in samples[:10]:
            for layout in layouts:
                if _fault(sample, layout) is None:
                    return layout
    return None


def _fault(sample: Any, layout: Layout) -> str | None:
    """What is wrong with the structure of a sample."""
    if not isinstance(sample, tuple | list) or len(sample) != 3:
        return "it is not (features, label, segment)"
    fields = sample[0]
    if not isinstance(fields, tuple | list) or len(fields) != layout.fields:
        return f"its first part does not have {layout.fields} fields"
    words = fields[layout.words]
    if not isinstance(words, list | tuple | np.ndarray) or not all(isinstance(word, str | bytes) for word in words):
        return "its words are not strings"
    for modality, field in _FIELDS.items():
        if not isinstance(fields[field], np.ndarray) or fields[field].ndim != 2:
            return f"{modality} is not an array of feature rows"
    for modality, field in layout.lengths.items():
        if np.ndim(fields[field]) or np.asarray(fields[field]).dtype.kind not in "iu" or fields[field] < 0:
            return f"the length of {modality} is not a whole number"
    return None


def read_samples(path: Path, data: Any, format_name: str, layouts: tuple[Layout, ...]) -> Source:
    """The source of an unpickled object whose samples have one of the layouts.

    Raises:
        DataError: No sample has one of them.
    """
    layout = layout_of(data, layouts)
    if layout is None:
        raise other_layout(path, data, format_name)
    splits: dict[str, list] = {}
    sizes: dict[str, int] = {}
    for name, samples in data.items():
        splits[split_name(name, path)] = [(f"{name}-{index}", sample) for index, sample in enumerate(samples)]
        for sample in samples:
            if not sizes and _fault(sample, layout) is None:
                sizes = {modality: sample[0][field].shape[1] for modality, field in sorted(_FIELDS.items())}
    return Source(path, format_name, sizes, False, splits, functools.partial(_rows, layout))


def _rows(layout: Layout, shard: tuple[str, Any]) -> Iterator[Row | Skipped | Replaced]:
    """The row of one sample, which is called by its place if it has no id."""
    name, sample = shard
    reason = _fault(sample, layout)
    if reason is not None:
        yield Skipped(name, reason)
        return
    fields, label, segment = sample
    segment = as_text(segment) if isinstance(segment, str | bytes) else name
    row: Row = {
        "id": segment,
        "video_id": video_of(segment),
        "words": [as_text(word) for word in fields[layout.words]],
    }
    for modality, field in _FIELDS.items():
        row[modality] = fields[field]
        if layout.lengths:
            frames, replaced = zero_non_finite(true_frames(fields[field], int(fields[layout.lengths[modality]])))
            yield Replaced(modality, replaced)
            row[modality] = spread_frames(frames, len(row["words"])) if len(frames) else None
    yield {**row, "label": label}
