"""The pickles of MMSA (`aligned_50.pkl`, `unaligned_50.pkl`): splits that are columns of arrays.

`{"train", "valid", "test"}`, each with `raw_text`, `id` (`video$_$clip`), `regression_labels`, `audio` (N, La, Da) and
`vision` (N, Lv, Dv); unaligned ones with `audio_lengths` and `vision_lengths`. The files do not keep the borders of
words, so `raw_text` is split at spaces again, and frames go to words by these rules:

- In an aligned file, the frames of a sample are those that are not padding, which is what is zero in both modalities
  at either end.
- In an unaligned file, a modality has as many frames as its length says, from the side that is not padded; where there
  are no lengths, the frames are those that are not padding.
- Where there are as many frames as words, each word has one. Otherwise the frames are shared out evenly over the words
  (`data_builders.alignment.spread_frames`).
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment import spread_frames, true_frames, unpadded_span, zero_non_finite
from ..files import DataError
from ..rows import Replaced, Row, Skipped, Source, as_text, split_name, video_of
from .array_splits import COLUMNS, check_arrays, has_columns, modality_sizes
from .contract import Head, ReadOptions
from .pickles import other_layout


FORMAT = "mmsa_pickle"
FEATURES_ARE_NORMALIZED = False

_REQUIRED = ("raw_text", *COLUMNS.values(), "id", "regression_labels")


def recognizes(path: Path, head: Head) -> bool:
    """Whether a pickle holds splits with the columns `audio`, `vision` and `raw_text`."""
    return has_columns(head.unpickled, "raw_text")


def read(path: Path, options: ReadOptions) -> Source:
    """Opens a file of MMSA.

    Raises:
        DataError: The file is in another format, a column is missing, or columns differ in length.
    """
    data = options.head.unpickled
    if not recognizes(path, options.head):
        raise other_layout(path, data, FORMAT)
    splits = {}
    for name, split in data.items():
        _check_columns(path, name, split)
        lengths = {modality: _lengths(path, name, split, column) for modality, column in COLUMNS.items()}
        splits[split_name(name, path)] = [
            (
                as_text(split["id"][index]),
                as_text(split["raw_text"][index]),
                split["regression_labels"][index],
                {modality: split[column][index] for modality, column in COLUMNS.items()},
                {modality: values[index] for modality, values in lengths.items() if values is not None},
            )
            for index in range(len(split["audio"]))
        ]
    aligned = all(split["audio"].shape[1] == split["vision"].shape[1] for split in data.values())
    return Source(path, FORMAT, modality_sizes(data), False, splits, functools.partial(_rows, aligned))


def _check_columns(path: Path, name: str, split: dict[str, Any]) -> None:
    for column in _REQUIRED:
        if column not in split:
            raise DataError(f"{path}: split {name} has no {column}; the file is not complete, get it again")
    check_arrays(path, name, split)
    for column in _REQUIRED:
        if not isinstance(split[column], list | tuple | np.ndarray) or len(split[column]) != len(split["audio"]):
            raise DataError(f"{path}: split {name}: {column} does not have {len(split['audio'])} values, as audio has")


def _lengths(path: Path, name: str, split: dict[str, Any], column: str) -> np.ndarray | None:
    values = split.get(f"{column}_lengths")
    if values is None:
        return None
    values = np.asarray(values).reshape(-1)
    if values.dtype.kind not in "iu" or len(values) != len(split["audio"]) or (values < 0).any():
        raise DataError(f"{path}: split {name}: {column}_lengths are not {len(split['audio'])} whole numbers")
    return values


def _rows(aligned: bool, shard: tuple) -> Iterator[Row | Skipped | Replaced]:
    name, text, label, arrays, lengths = shard
    words = text.split()
    if not words:
        yield Skipped(name, "no words", fault=False)
        return
    frames = {}
    for modality, values in arrays.items():
        frames[modality], replaced = zero_non_finite(values)
        yield Replaced(modality, replaced)
    if aligned:
        span = unpadded_span(*frames.values())
        frames = {modality: values[span] for modality, values in frames.items()}
    else:
        frames = {modality: true_frames(values, lengths.get(modality)) for modality, values in frames.items()}
    features = {
        modality: spread_frames(values, len(words)) if len(values) else None for modality, values in frames.items()
    }
    yield {"id": name, "video_id": video_of(name), "words": words, "label": label, **features}
