"""The pickles of MulT (`mosi_data.pkl`, `mosei_senti_data.pkl`): arrays without words.

`{"train", "valid", "test"}`, each with `vision`, `audio`, `text` (GloVe vectors), `labels` (N, 1, 1) and `id`, padded
on the left; some of them may be absent, as in MMSA's files. The files do not keep the words, so rows have features
only (`words` is empty): train with `--modalities acoustic,visual`. A sample has as many rows as it has text vectors
that are not padding; a modality with another number of frames is shared out evenly over the rows
(`data_builders.alignment.share_out_frames`).
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment import frame_array, share_out_frames, unpadded_frames, zero_non_finite
from ..files import DataError
from ..rows import Replaced, Row, Skipped, Source, as_text, video_of
from .array_splits import COLUMNS, Sample, column_splits, read_samples, sample_frames, sizes_of_samples
from .contract import Head, ReadOptions, no_labels
from .pickles import other_layout, pickle_files


FORMAT = "mult_pickle"
FEATURES_ARE_NORMALIZED = False

files = pickle_files


def recognizes(path: Path, head: Head) -> bool:
    """Whether a pickle holds splits with features and without transcripts, or such columns alone."""
    splits = column_splits(path, head.unpickled).values()
    return bool(splits) and not any("raw_text" in split for split in splits)


def read(path: Path, options: ReadOptions) -> Source:
    """Opens a file of MulT.

    Raises:
        DataError: The file is in another format, labels are wanted and missing, or columns differ in length.
    """
    if not recognizes(path, options.head):
        raise other_layout(path, options.head.unpickled, FORMAT)
    columns, wanted = column_splits(path, options.head.unpickled), options.wanted(COLUMNS)
    splits = read_samples(path, columns, wanted, "text", *([] if options.labels is False else ["labels"]))
    if options.labels and any("labels" not in sample for samples in splits.values() for sample in samples):
        raise no_labels(path, "labels")
    sizes = sizes_of_samples(path, splits, wanted)
    return Source(path, FORMAT, sizes, False, splits, functools.partial(_rows, wanted))


def _rows(wanted: frozenset[str], sample: Sample) -> Iterator[Row | Skipped | Replaced]:
    name, video = _name_and_video(sample["id"])
    try:
        frames, replaced = sample_frames(sample, wanted)
        vectors = frame_array(sample.get("text"), "text")
        if vectors is not None:
            frames["text"] = zero_non_finite(vectors)[0]
        frames = unpadded_frames(frames, {})
    except DataError as error:
        yield Skipped(name, str(error))
        return
    yield from replaced
    num_rows = len(frames.pop("text", ()))
    features = share_out_frames(frames, num_rows)
    row: Row = {"id": name, "video_id": video, "words": [], "label": sample.get("labels")}
    yield row | dict.fromkeys(COLUMNS) | features


def _name_and_video(value: Any) -> tuple[str, str]:
    """An id and its video; some files give (video, start, end)."""
    value = value.ravel().tolist() if isinstance(value, np.ndarray) else value
    parts = list(map(as_text, value if isinstance(value, list | tuple) else [value]))
    name = "_".join(parts)
    return name, parts[0] if len(parts) > 1 else video_of(name)
