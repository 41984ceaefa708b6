"""What the pickles of the MAG and MISA families share: splits that are lists of `((...), label, segment)`.

A sample without a label is `((...), segment)`, and one without a segment `((...), label)`. Words or features that are
missing are `None`.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alignment import frame_array, share_out_frames, true_frames, zero_non_finite
from ..files import DataError
from ..rows import Replaced, Row, Skipped, Source, as_text, is_missing, split_name, video_of
from .contract import ReadOptions, no_labels
from .pickles import modality_sizes, other_layout


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


class _Sample(NamedTuple):
    """A sample by its fields, with features as they are in the file; what it does not have is `None`."""

    words: list[str] | None
    features: dict[str, Any]
    lengths: dict[str, Any]
    label: Any
    segment: str | None


def layout_of(data: Any, layouts: tuple[Layout, ...]) -> Layout | None:
    """The layout of the first sample with words of an unpickled object that has one of them."""
    if not isinstance(data, dict) or not all(isinstance(split, list) for split in data.values()):
        return None
    for samples in data.values():
        for sample in samples[:10]:
            for layout in layouts:
                try:
                    if _parse(sample, layout).words is not None:
                        return layout
                except DataError:
                    continue
    return None


def _parse(sample: Any, layout: Layout) -> _Sample:
    """The fields of a sample; a DataError says what is wrong with its structure."""
    if not isinstance(sample, tuple | list) or len(sample) not in (2, 3):
        raise DataError("it is not (features, label, segment)")
    fields, *others = sample
    if not isinstance(fields, tuple | list) or len(fields) != layout.fields:
        raise DataError(f"its first part does not have {layout.fields} fields")
    words = None if is_missing(fields[layout.words]) else fields[layout.words]
    if words is not None:
        words = words.tolist() if isinstance(words, np.ndarray) else words
        if not isinstance(words, list | tuple) or not all(isinstance(w, str | bytes) for w in words):
            raise DataError("its words are not strings")
        words = list(map(as_text, words))
    features = {modality: fields[field] for modality, field in _FIELDS.items()}
    lengths = {modality: fields[field] for modality, field in layout.lengths.items()}
    segment = others.pop() if isinstance(others[-1], str | bytes) else None
    return _Sample(words, features, lengths, others[0] if others else None, segment and as_text(segment))


def read_samples(path: Path, options: ReadOptions, format_name: str, layouts: tuple[Layout, ...]) -> Source:
    """The source of an unpickled object whose samples have one of the layouts.

    Raises:
        DataError: No sample has one of them, or labels are wanted and no sample has one.
    """
    data = options.head.unpickled
    layout = layout_of(data, layouts)
    if layout is None:
        raise other_layout(path, data, format_name)
    splits = {
        split_name(name, path): [(f"{name}-{index}", sample) for index, sample in enumerate(samples)]
        for name, samples in data.items()
    }
    shards = list(itertools.chain(*splits.values()))
    if options.labels and all(sample.label is None for _, sample in _parsed(shards, layout)):
        raise no_labels(path, "sample with a label")
    wanted = options.wanted(_FIELDS)
    features = ((sample.segment or place, sample.features) for place, sample in _parsed(shards, layout))
    sizes = modality_sizes(path, features, wanted)
    return Source(path, format_name, sizes, False, splits, functools.partial(_rows, layout, wanted))


def _parsed(shards: Iterable[tuple[str, Any]], layout: Layout) -> Iterator[tuple[str, _Sample]]:
    """The samples whose structure is right, each with its place."""
    for place, sample in shards:
        with contextlib.suppress(DataError):
            yield place, _parse(sample, layout)


def _rows(layout: Layout, wanted: frozenset[str], shard: tuple[str, Any]) -> Iterator[Row | Skipped | Replaced]:
    """The row of one sample, which is called by its place if it has no id."""
    place, sample = shard
    try:
        words, fields, lengths, label, segment = _parse(sample, layout)
        name, words = segment or place, words or []
        features = {
            modality: frame_array(values, modality) if modality in wanted else None
            for modality, values in fields.items()
        }
        if layout.lengths:
            frames = {}
            for modality, values in features.items():
                if values is not None:
                    frames[modality], replaced = zero_non_finite(true_frames(values, lengths[modality]))
                    yield Replaced(modality, replaced)
            features = features | share_out_frames(frames, len(words))
    except DataError as error:
        yield Skipped(place, str(error))
        return
    yield {"id": name, "video_id": video_of(name), "words": words, "label": label, **features}
