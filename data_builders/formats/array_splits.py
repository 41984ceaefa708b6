"""What the pickles of MMSA and MulT share: splits that are dicts of columns, with the frames of each sample."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment import frame_array, zero_non_finite
from ..files import DataError
from ..rows import SPLIT_ALIASES, Replaced, as_text, is_missing, split_name


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


def read_samples(path: Path, splits: dict[str, dict[str, Any]], *columns: str) -> dict[str, list[Sample]]:
    """The samples of each split by its standard name: their values in the columns that the split has.

    Args:
        path: The file.
        splits: Columns by split.
        columns: The columns to read beside `id` and those of the features.

    Raises:
        DataError: A split is unknown, or its columns are no lists or arrays of one length.
    """
    samples = {}
    for name, split in splits.items():
        wanted = [*COLUMNS.values(), "id", *columns]
        found = {column: split[column] for column in wanted if not is_missing(split.get(column))}
        for column, values in found.items():
            if not isinstance(values, list | tuple | np.ndarray) or getattr(values, "ndim", 1) == 0:
                raise DataError(f"{path}: split {name}: {column} is not a list or an array; get the file again")
        lengths = {column: len(values) for column, values in found.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{column} {length}" for column, length in lengths.items())
            raise DataError(f"{path}: split {name}: its columns differ in length ({listed}); get the file again")
        samples[split_name(name, path)] = rows = [
            dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)
        ]
        for index, sample in enumerate(rows):
            if is_missing(sample.get("id")):
                sample["id"] = f"{name}-{index}"
    return samples


def modality_sizes(path: Path, splits: dict[str, list[Sample]]) -> dict[str, int]:
    """The size of a feature row of each modality that a file has, from the first sample that shows it.

    Raises:
        DataError: No sample's features of a modality can be read.
    """
    sizes = {}
    for modality, column in COLUMNS.items():
        fault = None
        for sample in itertools.chain(*splits.values()):
            try:
                frames = frame_array(sample.get(column), modality)
            except DataError as error:
                fault = (
                    fault or f"{path}: sample {as_text(sample['id'])}: column {column}: {error}; get the file again"
                )
                continue
            if frames is not None:
                sizes[modality] = frames.shape[1]
                break
        else:
            if fault:
                raise DataError(f"{fault}; get the file again")
    return sizes


def sample_frames(sample: Sample) -> tuple[dict[str, np.ndarray], list[Replaced]]:
    """The padded frames of each modality that a sample has, with 0 for values that are not finite, and their number.

    Raises:
        DataError: Features are not rows of numbers.
    """
    frames, replaced = {}, []
    for modality, column in COLUMNS.items():
        values = frame_array(sample.get(column), modality)
        if values is not None:
            frames[modality], count = zero_non_finite(values)
            replaced.append(Replaced(modality, count))
    return frames, replaced
