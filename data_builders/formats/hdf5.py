"""Safe reading of HDF5: links, and arrays that claim more data than the file holds, are refused."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from ..files import MAX_COMPRESSION, DataError, broken_files_are_data_errors, read_head


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens a file for reading; every error while it is open becomes a DataError that names it."""
    read_head(path)  # refuses web pages and LFS pointers
    with broken_files_are_data_errors(path, "HDF5 file"), h5py.File(path, "r") as file:
        yield file


def has_groups_with(member: str, path: Path) -> bool:
    """Whether a group at the top of a file has a member of this name.

    Raises:
        DataError: The file cannot be read.
    """
    with open_hdf5(path) as file:
        groups = [file[name] for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        return any(isinstance(group, h5py.Group) and member in group for group in groups)


def child(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset:
    """The member `name` of a group in the file `path`.

    Raises:
        DataError: There is no member of this name, or it is a link.
    """
    link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
    if link is None:
        raise DataError(f"{path}: {group.name} has no {name!r}; the file is not complete, get it again")
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{path}: {group.name}/{name} is a link, and links are not followed; store the data itself")
    return group[name]


def read_matrix(group: h5py.Group, name: str, path: Path) -> np.ndarray:
    """The two-dimensional array `name` of a group in the file `path`.

    Raises:
        DataError: There is no such array, it is stored outside of the file, or it claims more than the file holds.
    """
    dataset = child(group, name, path)
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual or dataset.ndim != 2:
        raise DataError(f"{path}: {group.name}/{name} is not a two-dimensional array stored in this file")
    # HDF5 would invent the bytes of an array that claims more than there is.
    if dataset.nbytes > MAX_COMPRESSION * (dataset.id.get_storage_size() + 1):
        raise DataError(f"{path}: {dataset.name} claims {dataset.nbytes} bytes that the file does not hold")
    return dataset[()]
