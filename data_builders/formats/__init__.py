"""Which reader a file or folder needs, told from its content and never from its name."""

from pathlib import Path

from ..errors import DataError
from ..files import read_head
from ..rows import Source
from ..safe_pickle import safe_pickle_load
from . import computational_sequence, mag_pickle


_PICKLES = (mag_pickle,)
READERS = {reader.FORMAT: reader for reader in (computational_sequence, *_PICKLES)}


def open_source(
    path: Path,
    *,
    feature_sequences: dict[str, str] | None = None,
    folds: dict[str, list[str]] | None = None,
) -> Source:
    """Recognises the format of a file or folder and opens it with its reader.

    Raises:
        DataError: the format is unknown, or the file is broken; the message says what it is instead.
    """
    if path.is_dir():
        if any(path.glob("*.csd")):
            return computational_sequence.read(path, feature_sequences=feature_sequences, folds=folds)
        raise DataError(f"{path}: the folder holds no .csd files; give a file, or the folder of the .csd files")
    if read_head(path).startswith(computational_sequence.HDF5_SIGNATURE):
        raise DataError(f"{path}: one HDF5 file alone; give the folder with the .csd files of words and labels")
    return _open_pickle(path)


def _open_pickle(path: Path) -> Source:
    data = safe_pickle_load(path)
    for reader in _PICKLES:
        if reader.matches(data):
            return reader.read(path, data)
    raise DataError(f"{path}: a pickle of none of the known layouts: {_describe(data)}")


def _describe(data: object) -> str:
    if isinstance(data, dict):
        keys = ", ".join(str(key)[:30] for key in list(data)[:6])
        return f"a dict with {len(data)} keys ({keys})"
    return f"a {type(data).__name__}"
