"""The pickles of MMSA (`aligned_50.pkl`, `unaligned_50.pkl`): splits that are columns of arrays.

`{"train", "valid", "test"}`, each with `raw_text`, `id` (`video$_$clip`), `regression_labels`, `audio` (N, La, Da) and
`vision` (N, Lv, Dv); unaligned ones with `audio_lengths` and `vision_lengths`. Word boundaries are lost in them, so
`raw_text` is split again at spaces and frames go to words by this rule: in an aligned file a sample's rows are those
that are not padding, which is what is zero in both modalities at either end; if there are as many as words, each word
has one. In an unaligned file a modality's rows are as many as its length says, from the side that is not padded, or
without lengths what is not padding.
Wherever rows and words differ in number, the rows are shared out evenly over the words
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


FORMAT = "mmsa_pickle"
FEATURES_ARE_NORMALIZED = False

_MODALITIES = {"acoustic": "audio", "visual": "vision"}
_COLUMNS = ("raw_text", "audio", "vision", "id", "regression_labels")


def matches(data: Any) -> bool:
    """Whether an unpickled object is in this format."""
    return (
        isinstance(data, dict)
        and bool(data)
        and all(isinstance(split, dict) and {"audio", "vision", "raw_text"} <= split.keys() for split in data.values())
    )


def read(path: Path, data: dict[str, dict]) -> Source:
    """The source of an unpickled MMSA file.

    Raises:
        DataError: a column is missing, or columns differ in length.
    """
    splits, sizes = {}, {}
    for name, split in data.items():
        _check_columns(path, name, split)
        lengths = {modality: _lengths(path, name, split, key) for modality, key in _MODALITIES.items()}
        splits[split_name(name, path)] = [
            (
                as_text(split["id"][index]),
                as_text(split["raw_text"][index]),
                split["regression_labels"][index],
                {modality: split[key][index] for modality, key in _MODALITIES.items()},
                {modality: values[index] for modality, values in lengths.items() if values is not None},
            )
            for index in range(len(split["audio"]))
        ]
        sizes |= {modality: split[key].shape[2] for modality, key in _MODALITIES.items()}
    aligned = all(split["audio"].shape[1] == split["vision"].shape[1] for split in data.values())
    return Source(path, FORMAT, sizes, False, splits, functools.partial(_rows, aligned))


def _check_columns(path: Path, name: str, split: dict[str, Any]) -> None:
    for column in _COLUMNS:
        if column not in split:
            raise DataError(f"{path}: split {name} has no {column}; it is not a whole MMSA file")
    for modality in _MODALITIES.values():
        if not isinstance(split[modality], np.ndarray) or split[modality].ndim != 3:
            raise DataError(f"{path}: split {name}: {modality} is not an array of (samples, frames, features)")
    for column in _COLUMNS:
        if not isinstance(split[column], list | tuple | np.ndarray) or len(split[column]) != len(split["audio"]):
            raise DataError(f"{path}: split {name}: {column} does not have {len(split['audio'])} values, as audio has")


def _lengths(path: Path, name: str, split: dict[str, Any], modality: str) -> np.ndarray | None:
    values = split.get(f"{modality}_lengths")
    if values is None:
        return None
    values = np.asarray(values).reshape(-1)
    if values.dtype.kind not in "iu" or len(values) != len(split["audio"]) or (values < 0).any():
        raise DataError(f"{path}: split {name}: {modality}_lengths are not {len(split['audio'])} whole numbers")
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
    aligned_rows = {m: spread_frames(values, len(words)) if len(values) else None for m, values in frames.items()}
    yield {"id": name, "video_id": video_of(name), "words": words, "label": label, **aligned_rows}
