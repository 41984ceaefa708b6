"""What the pickles of MMSA and MulT share: splits that are dicts of columns, with the frames of each sample."""

import itertools
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment import frame_array, zero_non_finite
from ..files import DataError
from ..rows import SPLIT_ALIASES, Replaced, as_text, is_missing, split_name
from .pickles import modality_sizes


COLUMNS = {"acoustic": "audio", "visual": "vision"}  # modality: the column with its features

Sample = dict[str, Any]


def column_splits(path: Path, data: Any) -> dict[str, dict[str, Any]]:
    """The splits of an unpickled object; none where they are not dicts of columns with features or transcripts.

    Columns without splits, as MMSA-FET writes them for a single video, are one split: the one that the file is named
    after, else `train`, as for a table.
    """
    if not isinstance(data, dict):
        return {}
    if not all(isinstance(split, dict) for split in data.values()):
        if _is_one_sample(data):
            data = {"id": [path.stem]} | {name: [value] for name, value in data.items()}
        data = {SPLIT_ALIASES.get(path.stem.lower(), "train"): data}
    return data if any({"raw_text", *COLUMNS.values()} & split.keys() for split in data.values()) else {}


def _is_one_sample(columns: dict[str, Any]) -> bool:
    features = [columns.get(column) for column in COLUMNS.values()]
    return isinstance(columns.get("raw_text"), str | bytes) or any(
        isinstance(frames, np.ndarray) and frames.ndim == 2 for frames in features
    )


def read_samples(
    path: Path, splits: dict[str, dict[str, Any]], wanted: Collection[str], *columns: str
) -> dict[str, list[Sample]]:
    """The samples of each split by its standard name: their values in the columns that the split has.

    Args:
        path: The file.
        splits: Columns by split.
        wanted: The modalities whose columns must be right if they are there; those of others are else left out.
        columns: The columns to read beside `id` and those of the features.

    Raises:
        DataError: A split is unknown, or its columns are no lists or arrays of one length.
    """
    samples = {}
    unwanted = [column for modality, column in COLUMNS.items() if modality not in wanted]
    needed = [column for column in (*COLUMNS.values(), "id", *columns) if column not in unwanted]
    for name, split in splits.items():
        present = {column: values for column, values in split.items() if not is_missing(values)}
        found = {column: present[column] for column in needed if column in present}
        for column, values in found.items():
            if not _is_column(values):
                raise DataError(f"{path}: split {name}: {column} is not a list or an array; get the file again")
        lengths = {column: len(values) for column, values in found.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{column} {length}" for column, length in lengths.items())
            raise DataError(f"{path}: split {name}: its columns differ in length ({listed}); get the file again")
        for column in filter(present.__contains__, unwanted):
            values = present[column]
            if _is_column(values) and (not found or len(values) == len(next(iter(found.values())))):
                found[column] = values
        samples[split_name(name, path)] = rows = [
            dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)
        ]
        for index, sample in enumerate(rows):
            if is_missing(sample.get("id")):
                sample["id"] = f"{name}-{index}"
    return samples


def _is_column(values: Any) -> bool:
    return isinstance(values, list | tuple | np.ndarray) and getattr(values, "ndim", 1) > 0


def sizes_of_samples(path: Path, splits: dict[str, list[Sample]], wanted: Collection[str]) -> dict[str, int]:
    """The size of a feature row of each modality that a file has; see `pickles.modality_sizes`."""
    samples = (
        (as_text(sample["id"]), {modality: sample.get(column) for modality, column in COLUMNS.items()})
        for sample in itertools.chain(*splits.values())
    )
    return modality_sizes(path, samples, wanted)


def sample_frames(sample: Sample, wanted: Collection[str]) -> tuple[dict[str, np.ndarray], list[Replaced]]:
    """The padded frames of each modality that a sample has, with 0 for values that are not finite, and their number.

    Where modalities are aligned with each other, one that is not wanted still shows, if it can be read, what is
    padding in the others.

    Raises:
        DataError: Features of a wanted modality are not rows of numbers.
    """
    frames, replaced = {}, []
    for modality, column in COLUMNS.items():
        try:
            values = frame_array(sample.get(column), modality)
        except DataError:
            if modality in wanted:
                raise
            continue
        if values is not None:
            frames[modality], count = zero_non_finite(values)
            replaced += [Replaced(modality, count)] if modality in wanted else []
    if len(set(map(len, frames.values()))) > 1:
        frames = {modality: values for modality, values in frames.items() if modality in wanted}
    return frames, replaced
