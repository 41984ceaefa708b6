"""Feature arrays in `.npy` and `.npz` files that a table refers to by path."""

import math
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from ..files import MAX_COMPRESSION, DataError, broken_files_are_data_errors, open_file, read_head
from ..rows import check_shape


_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_ZIP = b"PK\x03\x04"


def array_path(table: Path, root: Path, reference: str) -> Path:
    """The path of the `.npy` or `.npz` file that a table's cell refers to.

    Args:
        table: The table, to whose folder references are relative.
        root: The folder that they have to stay inside.
        reference: The cell.

    Raises:
        DataError: The path leaves the root, or has another suffix: only files with these two are part of the cache's
            key.
    """
    try:
        path = (table.parent / reference).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # it is too long, a loop of links, or has a null byte
        raise DataError(f"{reference[:80]!r} is not a path ({error}); correct it") from None
    if not path.is_relative_to(root.resolve()):
        raise DataError(f"{reference!r} is outside of {root}; put the features beside the table")
    if path.suffix not in (".npy", ".npz"):
        raise DataError(
            f"{reference[:80]!r} is not the path of a .npy or .npz file; leave the cell empty where features are "
            "missing"
        )
    return path


def load_array(
    path: Path, name: str, *, num_words: int | None = None, allow_other_name: bool = True
) -> np.ndarray | None:
    """Reads the features of one modality.

    Args:
        path: A `.npy` or `.npz` file.
        name: The modality, which is the array's name in an `.npz` file.
        num_words: How many rows the array must have, where this is known; another number is refused before it is read.
        allow_other_name: Whether an array that is the only one of an `.npz` file may have another name.

    Returns:
        The array, or None where an `.npz` file has none of this name and `allow_other_name` is off.

    Raises:
        DataError: The file does not hold an array of numbers of this name, or it has too many values or other rows.
    """
    with broken_files_are_data_errors(path, ".npy or .npz file"), open_file(path) as file:
        if not read_head(path).startswith(_ZIP):
            return _read_array(file, os.fstat(file.fileno()).st_size, name, num_words)
        with zipfile.ZipFile(file) as archive:
            members = _members(archive)
            if name not in members and not allow_other_name:
                return None
            if name not in members and len(members) != 1:
                raise DataError(f"{path}: holds no array {name!r}; it holds: {', '.join(members)}")
            member = members.get(name) or next(iter(members.values()))
            if member.file_size > MAX_COMPRESSION * (member.compress_size + 1):
                raise DataError(f"{path}: array {name!r} claims {member.file_size} bytes that the file does not hold")
            with archive.open(member) as array:
                return _read_array(array, member.file_size, name, num_words)


def array_names(path: Path) -> list[str]:
    """The names of the arrays of an `.npz` file; a DataError for any other file."""
    if path.suffix == ".npy":
        raise DataError(
            f"{path}: a column features holds paths of .npz files, whose arrays have names; give the column the name "
            "of the modality"
        )
    with (
        broken_files_are_data_errors(path, ".npz file"),
        open_file(path) as file,
        zipfile.ZipFile(file) as archive,
    ):
        return sorted(_members(archive))


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {member.filename.removesuffix(".npy"): member for member in archive.infolist()}


def _read_array(file: IO[bytes], size: int, name: str, num_words: int | None) -> np.ndarray:
    """Reads one `.npy` array, whose claimed shape is compared with the file's size before anything is allocated."""
    version = np.lib.format.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"version {version} of the format is unknown")
    shape, fortran_order, dtype = _READ_HEADER[version](file)
    num_bytes = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "fiub" or min(shape, default=0) < 0 or num_bytes > size:
        raise ValueError(f"shape {shape} of {dtype} in {size} bytes")
    if num_bytes:
        check_shape(shape, name, num_words=num_words)
    return np.frombuffer(file.read(num_bytes), dtype).reshape(shape, order="F" if fortran_order else "C")
