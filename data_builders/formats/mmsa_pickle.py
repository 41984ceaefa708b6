"""The pickles of MMSA (`aligned_50.pkl`, `unaligned_50.pkl`) and of its feature extractor: splits that are columns.

`{"train", "valid", "test"}`, each with `raw_text`, `id` (`video$_$clip`), `regression_labels`, `audio` (N, La, Da)
and `vision` (N, Lv, Dv), or lists in place of arrays; unaligned ones with `audio_lengths` and `vision_lengths`. A
modality, `id` and the lengths may be absent, and what the extractor writes for a single video has no splits. The files
do not keep the borders of words, so `raw_text` is divided again (`data_builders.rows.words_of_transcript`; none where
it is missing), and frames go to words by these rules:

- Padding is left out as `data_builders.alignment.unpadded_frames` says.
- Where there are as many frames as words, each word has one. Otherwise the frames are shared out evenly over the words
  (`data_builders.alignment.share_out_frames`).
"""

import functools
from collections.abc import Iterator
from pathlib import Path

from ..alignment import share_out_frames, unpadded_frames
from ..files import DataError
from ..rows import Replaced, Row, Skipped, Source, as_text, video_of, words_of_transcript
from .array_splits import COLUMNS, Sample, column_splits, read_samples, sample_frames, sizes_of_samples
from .contract import Head, ReadOptions, no_labels
from .pickles import other_layout, pickle_files


FORMAT = "mmsa_pickle"
FEATURES_ARE_NORMALIZED = False

files = pickle_files

_LABELS = "regression_labels"
_LENGTHS = {modality: f"{column}_lengths" for modality, column in COLUMNS.items()}


def recognizes(path: Path, head: Head) -> bool:
    """Whether a pickle holds splits with `raw_text` and features, or such columns alone."""
    return any("raw_text" in split for split in column_splits(path, head.unpickled).values())


def read(path: Path, options: ReadOptions) -> Source:
    """Opens a file of MMSA.

    Raises:
        DataError: The file is in another format, labels are wanted and missing, or columns differ in length.
    """
    if not recognizes(path, options.head):
        raise other_layout(path, options.head.unpickled, FORMAT)
    columns, wanted = column_splits(path, options.head.unpickled), options.wanted(COLUMNS)
    labels = [] if options.labels is False else [_LABELS]
    splits = read_samples(path, columns, wanted, "raw_text", *labels, *_LENGTHS.values())
    if options.labels and any(_LABELS not in sample for samples in splits.values() for sample in samples):
        raise no_labels(path, _LABELS)
    sizes = sizes_of_samples(path, splits, wanted)
    return Source(path, FORMAT, sizes, False, splits, functools.partial(_rows, wanted))


def _rows(wanted: frozenset[str], sample: Sample) -> Iterator[Row | Skipped | Replaced]:
    name, words = as_text(sample["id"]), words_of_transcript(sample.get("raw_text"))
    try:
        frames, replaced = sample_frames(sample, wanted)
        lengths = {modality: sample.get(column) for modality, column in _LENGTHS.items()}
        features = share_out_frames(unpadded_frames(frames, lengths), len(words))
    except DataError as error:
        yield Skipped(name, str(error))
        return
    yield from replaced
    row: Row = {"id": name, "video_id": video_of(name), "words": words, "label": sample.get(_LABELS)}
    yield row | dict.fromkeys(COLUMNS) | features
