"""The pickles of MulT (`mosi_data.pkl`, `mosei_senti_data.pkl`): arrays without words.

`{"train", "valid", "test"}`, each with `vision`, `audio`, `text` (GloVe vectors), `labels` (N, 1, 1) and `id`, padded
on the left. The words are lost, so rows have features only (`words` is empty): train with
`--modalities acoustic,visual`. A sample has as many rows as text vectors that are not padding; a modality with another
number of frames is shared out evenly over them (`data_builders.alignment.spread_frames`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment import spread_frames, unpadded_span, zero_non_finite
from ..files import DataError
from ..rows import Replaced, Row, Source, as_text, split_name, video_of


FORMAT = "mult_pickle"
FEATURES_ARE_NORMALIZED = False

_MODALITIES = {"acoustic": "audio", "visual": "vision"}
_ARRAYS = ("audio", "vision", "text")


def matches(data: Any) -> bool:
    """Whether an unpickled object is in this format."""
    return (
        isinstance(data, dict)
        and bool(data)
        and all(isinstance(split, dict) and {*_ARRAYS, "labels"} <= split.keys() for split in data.values())
    )


def read(path: Path, data: dict[str, dict]) -> Source:
    """The source of an unpickled MulT file.

    Raises:
        DataError: a column is no array, or columns differ in length.
    """
    splits, sizes = {}, {}
    for name, split in data.items():
        for column in _ARRAYS:
            if not isinstance(split[column], np.ndarray) or split[column].ndim != 3:
                raise DataError(f"{path}: split {name}: {column} is not an array of (samples, frames, features)")
        count = len(split["audio"])
        ids = split.get("id", [f"{name}-{index}" for index in range(count)])
        if any(len(column) != count for column in (*(split[key] for key in _ARRAYS), split["labels"], ids)):
            raise DataError(f"{path}: split {name}: its columns differ in length")
        splits[split_name(name, path)] = [
            (*_name_and_video(ids[index]), split["labels"][index], {key: split[key][index] for key in _ARRAYS})
            for index in range(count)
        ]
        sizes |= {modality: split[key].shape[2] for modality, key in _MODALITIES.items()}
    return Source(path, FORMAT, sizes, False, splits, rows)


def rows(shard: tuple) -> Iterator[Row | Replaced]:
    """The row of one sample."""
    name, video, label, arrays = shard
    frames = {}
    for key, values in arrays.items():
        frames[key], replaced = zero_non_finite(values)
        if key != "text":
            yield Replaced({"audio": "acoustic", "vision": "visual"}[key], replaced)
    if len({len(values) for values in frames.values()}) == 1:
        span = unpadded_span(*frames.values())
        frames = {key: values[span] for key, values in frames.items()}
    else:
        frames = {key: values[unpadded_span(values)] for key, values in frames.items()}
    count = len(frames["text"]) or max(map(len, frames.values()))
    row = {m: spread_frames(frames[key], count) if len(frames[key]) else None for m, key in _MODALITIES.items()}
    yield {"id": name, "video_id": video, "words": [], "label": label, **row}


def _name_and_video(value: Any) -> tuple[str, str]:
    """An id and its video; some files give (video, start, end)."""
    parts = [as_text(part) for part in np.asarray(value).reshape(-1).tolist()]
    name = "_".join(parts)
    return name, parts[0] if len(parts) > 1 else video_of(name)
