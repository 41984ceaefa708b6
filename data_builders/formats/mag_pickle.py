"""The pickle of MAG-BERT and ITHP (`mosi.pkl`, `mosei.pkl`).

`{"train", "dev", "test"}`, each a list of `((words, visual, acoustic), label, segment)` with one visual and one
acoustic row a word, z-scored within the segment by its authors.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..rows import Row, Skipped, Source, as_text, split_name, video_of


FORMAT = "mag_pickle"
FEATURES_ARE_NORMALIZED = True

_MODALITIES = ("visual", "acoustic")


def matches(data: Any) -> bool:
    """Whether an unpickled object is in this format, by its first sample."""
    sample = _first_sample(data)
    return (
        isinstance(sample, tuple | list)
        and len(sample) == 3
        and isinstance(sample[0], tuple | list)
        and len(sample[0]) == 3
        and _holds_words(sample[0][0])
    )


def read(path: Path, data: dict[str, list]) -> Source:
    """The source of an unpickled `mosi.pkl` or `mosei.pkl`.

    Raises:
        DataError: a split has no standard name, or no sample tells a modality's size.
    """
    splits = {}
    for name, samples in data.items():
        shards = [(f"{name}-{index}", sample) for index, sample in enumerate(samples)]
        splits[split_name(name, path)] = shards
    samples = [sample for shards in splits.values() for _, sample in shards if _fault(sample) is None]
    sizes = {
        name: next((features.shape[1] for sample in samples for features in [sample[0][column]]), None)
        for column, name in enumerate(_MODALITIES, 1)
    }
    if None in sizes.values():
        raise DataError(f"{path}: no sample is ((words, visual, acoustic), label, segment)")
    return Source(path, FORMAT, dict(sorted(sizes.items())), False, splits, rows)


def rows(shard: tuple[str, Any]) -> Iterator[Row | Skipped]:
    """The row of one sample, which comes with the name that it has if it has no id."""
    name, sample = shard
    fault = _fault(sample)
    if fault is not None:
        yield Skipped(name, fault)
        return
    (words, visual, acoustic), label, segment = sample
    segment = as_text(segment) if isinstance(segment, str | bytes) else name
    yield {
        "id": segment,
        "video_id": video_of(segment),
        "words": [as_text(word) for word in words],
        "visual": visual,
        "acoustic": acoustic,
        "label": label,
    }


def _first_sample(data: Any) -> Any:
    splits = list(data.values()) if isinstance(data, dict) else []
    return next((split[0] for split in splits if isinstance(split, list) and split), None)


def _holds_words(words: Any) -> bool:
    return isinstance(words, list | tuple | np.ndarray) and all(isinstance(word, str | bytes) for word in words)


def _fault(sample: Any) -> str | None:
    """What is wrong with a sample's structure."""
    if not isinstance(sample, tuple | list) or len(sample) != 3:
        return "it is not ((words, visual, acoustic), label, segment)"
    if not isinstance(sample[0], tuple | list) or len(sample[0]) != 3 or not _holds_words(sample[0][0]):
        return "its first part is not (words, visual, acoustic)"
    for name, features in zip(_MODALITIES, sample[0][1:], strict=True):
        if not isinstance(features, np.ndarray) or features.ndim != 2:
            return f"{name} is not an array of one row a word"
    return None
