"""The pickles of MulT (`mosi_data.pkl`, `mosei_senti_data.pkl`): arrays without words.

`{"train", "valid", "test"}`, each with `vision`, `audio`, `text` (GloVe vectors), `labels` (N, 1, 1) and `id`, padded
on the left. The files do not keep the words, so rows have features only (`words` is empty): train with
`--modalities acoustic,visual`. A sample has as many rows as it has text vectors that are not padding; a modality with
another number of frames is shared out evenly over the rows (`data_builders.alignment.spread_frames`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment import spread_frames, unpadded_span, zero_non_finite
from ..files import DataError
from ..rows import Replaced, Row, Source, as_text, split_name, video_of
from .array_splits import COLUMNS, check_arrays, has_columns, modality_sizes
from .contract import Head, ReadOptions
from .pickles import other_layout


FORMAT = "mult_pickle"
FEATURES_ARE_NORMALIZED = False


def recognizes(path: Path, head: Head) -> bool:
    """Whether a pickle holds splits with the columns `audio`, `vision`, `text` and `labels`."""
    return has_columns(head.unpickled, "text", "labels")


def read(path: Path, options: ReadOptions) -> Source:
    """Opens a file of MulT.

    Raises:
        DataError: The file is in another format, a column is not an array, or columns differ in length.
    """
    data = options.head.unpickled
    if not recognizes(path, options.head):
        raise other_layout(path, data, FORMAT)
    splits = {}
    for name, split in data.items():
        check_arrays(path, name, split, "text")
        count = len(split["audio"])
        ids = split.get("id", [f"{name}-{index}" for index in range(count)])
        if any(len(column) != count for column in (split["vision"], split["text"], split["labels"], ids)):
            raise DataError(f"{path}: split {name}: its columns differ in length")
        splits[split_name(name, path)] = [
            (
                *_name_and_video(ids[index]),
                split["labels"][index],
                split["text"][index],
                {modality: split[column][index] for modality, column in COLUMNS.items()},
            )
            for index in range(count)
        ]
    return Source(path, FORMAT, modality_sizes(data), False, splits, _rows)


def _rows(shard: tuple) -> Iterator[Row | Replaced]:
    """The row of one sample."""
    name, video, label, vectors, arrays = shard
    frames = {"text": zero_non_finite(vectors)[0]}
    for modality, values in arrays.items():
        frames[modality], replaced = zero_non_finite(values)
        yield Replaced(modality, replaced)
    if len(set(map(len, frames.values()))) == 1:
        span = unpadded_span(*frames.values())
        frames = {modality: values[span] for modality, values in frames.items()}
    else:
        frames = {modality: values[unpadded_span(values)] for modality, values in frames.items()}
    count = len(frames.pop("text")) or max(map(len, frames.values()))
    features = {modality: spread_frames(values, count) if len(values) else None for modality, values in frames.items()}
    yield {"id": name, "video_id": video, "words": [], "label": label, **features}


def _name_and_video(value: Any) -> tuple[str, str]:
    """An id and its video; some files give (video, start, end)."""
    parts = [as_text(part) for part in np.asarray(value).reshape(-1).tolist()]
    name = "_".join(parts)
    return name, parts[0] if len(parts) > 1 else video_of(name)
