"""Feature arrays in `.npy` and `.npz` files that a table refers to by path."""

import math
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import DataError, broken_files_are_data_errors
from ..files import open_file, read_head


_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_ZIP = b"PK\x03\x04"
# Deflate shrinks by at most 1032; a member that claims more is a bomb.
_MAX_COMPRESSION = 1032


def load_array(folder: Path, reference: str, name: str) -> np.ndarray:
    """Reads the array that a table's cell refers to.

    Args:
        folder: where the table is; references are relative to it and stay inside of it.
        reference: path of a `.npy` or `.npz` file.
        name: the modality: the array's name in an `.npz` file that holds several.

    Raises:
        DataError: the path leaves the folder, or the file is no array of numbers.
    """
    path = _inside(folder, reference)
    with broken_files_are_data_errors(path, ".npy or .npz file"), open_file(path) as file:
        if not read_head(path).startswith(_ZIP):
            return _read_array(file, os.fstat(file.fileno()).st_size)
        with zipfile.ZipFile(file) as archive:
            members = _members(archive)
            if name not in members and len(members) != 1:
                raise DataError(f"{path}: holds no array {name!r}; it holds: {', '.join(members)}")
            member = members.get(name) or next(iter(members.values()))
            if member.file_size > _MAX_COMPRESSION * (member.compress_size + 1):
                raise DataError(f"{path}: array {name!r} claims {member.file_size} bytes that the file does not hold")
            with archive.open(member) as array:
                return _read_array(array, member.file_size)


def array_names(folder: Path, reference: str) -> list[str]:
    """The names of the arrays of an `.npz` file; see `load_array`."""
    path = _inside(folder, reference)
    with (
        broken_files_are_data_errors(path, ".npy or .npz file"),
        open_file(path) as file,
        zipfile.ZipFile(file) as archive,
    ):
        return sorted(_members(archive))


def _inside(folder: Path, reference: str) -> Path:
    path = (folder / reference).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{reference!r} is outside of {folder}; put the features beside the table")
    return path


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {member.filename.removesuffix(".npy"): member for member in archive.infolist()}


def _read_array(file: BinaryIO, size: int) -> np.ndarray:
    """Reads one `.npy` array, whose claimed shape is compared with the file's size before anything is allocated."""
    version = np.lib.format.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"version {version} of the format is unknown")
    shape, fortran_order, dtype = _READ_HEADER[version](file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"shape {shape} of {dtype} in {size} bytes")
    data = file.read(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
