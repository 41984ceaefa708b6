"""What the pickles of MMSA and MulT share: splits that are dicts of columns, with the features as padded arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from ..files import DataError


COLUMNS = {"acoustic": "audio", "visual": "vision"}  # modality: the column with its features


def has_columns(data: Any, *others: str) -> bool:
    """Whether an unpickled object is splits that have the columns of features and these others."""
    return (
        isinstance(data, dict)
        and bool(data)
        and all(isinstance(split, dict) and {*COLUMNS.values(), *others} <= split.keys() for split in data.values())
    )


def check_arrays(path: Path, name: str, split: dict[str, Any], *others: str) -> None:
    """Raises DataError for features, or others of the columns, that are not (samples, frames, features) arrays."""
    for column in (*COLUMNS.values(), *others):
        if not isinstance(split[column], np.ndarray) or split[column].ndim != 3:
            raise DataError(f"{path}: split {name}: {column} is not an array of (samples, frames, features)")


def modality_sizes(data: dict[str, dict[str, np.ndarray]]) -> dict[str, int]:
    """The size of a feature row of each modality."""
    return {modality: split[column].shape[2] for split in data.values() for modality, column in COLUMNS.items()}
