"""Feature arrays in `.npy` and `.npz` files that a table refers to by path."""

import contextlib
import math
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

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


def load_array(path: Path, name: str, *, num_words: int | None = None) -> np.ndarray:
    """Reads the features of one modality.

    Args:
        path: A `.npy` file, or an `.npz` file that has an array of this name or only one.
        name: The modality.
        num_words: How many rows the array must have, where this is known; another number is refused before it is read.

    Raises:
        DataError: The file does not hold an array of numbers of this name, or it has too many values or other rows.
    """
    with broken_files_are_data_errors(path, ".npy or .npz file"), open_file(path) as file:
        if not read_head(path).startswith(_ZIP):
            return _read_array(file, os.fstat(file.fileno()).st_size, name, num_words)
        with zipfile.ZipFile(file) as archive:
            members = _members(archive)
            if name not in members and len(members) != 1:
                raise DataError(f"{path}: holds no array {name!r}; it holds: {', '.join(members)}")
            member = members.get(name) or next(iter(members.values()))
            with archive.open(member) as array:
                return _read_array(array, _checked_size(member, path), name, num_words)


def load_arrays(path: Path, names: Iterable[str], *, num_words: int | None = None) -> dict[str, np.ndarray]:
    """Reads those of some modalities that an `.npz` file has.

    Args:
        path: The file.
        names: The modalities.
        num_words: See [`load_array`].

    Raises:
        DataError: An array is refused as in [`load_array`], or the file is another one.
    """
    arrays = {}
    with _open_npz(path) as archive:
        members = _members(archive)
        for name in filter(members.__contains__, names):
            with archive.open(members[name]) as array:
                arrays[name] = _read_array(array, _checked_size(members[name], path), name, num_words)
    return arrays


def array_shapes(path: Path, *, without: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
    """The shapes of the modalities in an `.npz` file, of which only the beginnings are read; arrays of text are none.

    Args:
        path: The file.
        without: Arrays that are not looked at.

    Raises:
        DataError: An array cannot be a modality, or the file is another one or broken.
    """
    shapes = {}
    with _open_npz(path) as archive:
        for name, member in sorted(_members(archive).items()):
            if name not in without:
                with broken_files_are_data_errors(path, f"array {name!r}"), archive.open(member) as array:
                    header = _read_header(array)
                    if header.dtype.kind not in "US":
                        _check_header(header, _checked_size(member, path), name)
                        shapes[name] = header.shape
    return shapes


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
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
        yield archive


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {member.filename.removesuffix(".npy"): member for member in archive.infolist()}


def _checked_size(member: zipfile.ZipInfo, path: Path) -> int:
    if member.file_size > MAX_COMPRESSION * (member.compress_size + 1):
        raise DataError(f"{path}: {member.filename} claims {member.file_size} bytes that the file does not hold")
    return member.file_size


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def _read_header(file: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"version {version} of the format is unknown")
    return _Header(*_READ_HEADER[version](file))


def _check_header(header: _Header, size: int, name: str, num_words: int | None = None) -> int:
    """The number of bytes that an array takes; a shape that the file's size does not allow is refused."""
    shape, _, dtype = header
    num_bytes = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "fiub" or min(shape, default=0) < 0 or num_bytes > size:
        raise ValueError(f"shape {shape} of {dtype} in {size} bytes")
    if num_bytes:
        check_shape(shape, name, num_words=num_words)
    return num_bytes


def _read_array(file: IO[bytes], size: int, name: str, num_words: int | None) -> np.ndarray:
    header = _read_header(file)
    values = np.frombuffer(file.read(_check_header(header, size, name, num_words)), header.dtype)
    return values.reshape(header.shape, order="F" if header.fortran_order else "C")
