"""Data sets that have a name."""

from pathlib import Path

from .files import DataError
from .formats import sample


TO_BE_DOWNLOADED = ("mosi", "mosei")  # by their users


def locate(name_or_path: str | Path, data_dir: str | Path | None = None) -> tuple[Path, str | None]:
    """Where data is, and its format if its name says it.

    Args:
        name_or_path: A name, or the path of a file or folder.
        data_dir: Where the files are that a name stands for.

    Raises:
        DataError: A name needs `data_dir`, or it is given to something else.
    """
    if name_or_path in TO_BE_DOWNLOADED:
        if data_dir is None:
            raise DataError(f"{name_or_path}: give data_dir, the file or folder where it is; it cannot be downloaded")
        return Path(data_dir), None
    if data_dir is not None:
        names = ", ".join(TO_BE_DOWNLOADED)
        raise DataError(f"{name_or_path}: data_dir goes with the names {names} only; give one path")
    if name_or_path == sample.FORMAT:
        return Path(sample.__file__), sample.FORMAT  # the file that generates the corpus is what a cache depends on
    return Path(name_or_path), None
