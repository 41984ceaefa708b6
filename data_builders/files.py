"""Files as such: their content's hash, and what they are when they are no data at all."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import xxhash

from .errors import DataError


HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PICKLE = b"\x80"  # of protocol 2 and later


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading bytes; a DataError says why it cannot be."""
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the path of a data file") from None


def read_head(path: str | os.PathLike, size: int = 512) -> bytes:
    """The first bytes of a file.

    Raises:
        DataError: the file is missing, unreadable or empty, or it is one of the things that people save by mistake in
            place of data: a Git LFS pointer or a web page.
    """
    with open_file(path) as file:
        head = file.read(size)
    if not head:
        raise DataError(f"{path}: the file is empty; download it again")
    if head.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: this is a Git LFS pointer, not the data; run `git lfs pull` where it was cloned")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        raise DataError(f"{path}: this is a web page saved in place of the data; download the file itself")
    return head


def content_hash(path: Path) -> str:
    """A hash of what a dataset is read from: name and content of the file, or of all files of the folder.

    The name counts because it may say which split a file is. A file may be a table that refers to arrays beside it
    (`.npy`, `.npz`), so these count as well, but for pickles and HDF5.

    Raises:
        DataError: there is no such file or folder.
    """
    if path.is_dir():
        folder, files = path, list(path.rglob("*"))
    elif read_head(path).startswith((_PICKLE, HDF5_SIGNATURE)):
        folder, files = path.parent, [path]
    else:
        folder, files = path.parent, [path, *path.parent.rglob("*.np[yz]")]
    digest = xxhash.xxh3_128()
    for file in sorted(file for file in files if file.is_file()):
        with open_file(file) as opened:
            content = hashlib.file_digest(opened, xxhash.xxh3_128)
        digest.update(f"{file.relative_to(folder).as_posix()}\0{content.hexdigest()}\0".encode())
    return digest.hexdigest()
