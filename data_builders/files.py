"""Files for the whole project: opening, hashing, outputs that appear whole or not at all; and what its errors say.

Everything else stands on this module, so it imports little.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, TextIO

import xxhash
from safetensors import SafetensorError


# What to do about a sample that is wrong: stop, or leave it out and continue.
ON_ERROR = ("raise", "skip")
# Deflate, with which ZIP and HDF5 compress, shrinks data by at most this factor: what claims more is not in the file.
MAX_COMPRESSION = 1032
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHECKSUMS = "checksums.json"
# By process: its own record locks do not keep it out, and a fork has none of them.
_HELD_LOCKS: set[tuple[int, Path]] = set()
_HELD_LOCKS_GUARD = threading.Lock()


class DataError(ValueError):
    """Data that cannot be read: one line that names the file, the sample, the field and the way out."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


def one_line(error: BaseException) -> str:
    """What an error says to a user, on one line; the name of its class where it says nothing."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def counted(count: int, noun: str) -> str:
    """A number of things in words.

    >>> counted(1, "tensor"), counted(2, "process")
    ('1 tensor', '2 processes')
    """
    plural = "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{'' if count == 1 else plural}"


def check_at_least_1(**counts: int | None) -> None:
    """Raises a ValueError for a count that is given and below 1; the message has its name and value."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name}={count} must be at least 1")


@contextlib.contextmanager
def broken_files_are_data_errors(
    path: str | os.PathLike, kind: str, way_out: str = "get the file again"
) -> Iterator[None]:
    """Turns whatever a parser raises within the block into a [`DataError`] that names the file.

    On a broken file a parser may raise anything, so every exception is taken for the file's fault.

    Args:
        path: The file or folder that is parsed.
        kind: What it should be, for example "HDF5 file".
        way_out: What can be done about it.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: not a readable {kind} ({one_line(error)[:300]}); {way_out}") from None


def open_file(path: str | os.PathLike) -> BufferedReader:
    """Opens a file for reading bytes; a [`DataError`] says why it cannot be opened."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # reading a pipe would wait for ever
            raise DataError(f"{path}: a pipe or device; write its content to a file first, and give that")
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the path of a data file") from None


def read_head(path: str | os.PathLike, size: int = 512) -> bytes:
    """The first bytes of a file.

    Raises:
        DataError: The file is missing, unreadable or empty, or it is one of the things that people save by mistake in
            place of data: a Git LFS pointer or a web page.
    """
    with open_file(path) as file:
        head = file.read(size)
    if not head:
        raise DataError(f"{path}: the file is empty; write it again, or download it again")
    if head.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: this is a Git LFS pointer, not the data; run `git lfs pull` where it was cloned")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        raise DataError(f"{path}: this is a web page saved in place of the data; download the file itself")
    return head


def check_path_or_hub_id(name: str) -> None:
    """Refuses a missing file or folder, which the Hub would otherwise be asked for again and again.

    Args:
        name: A path or the id of a repository on the Hub. It is a path if it begins like one or has more parts than
            an id, or if its parent is a folder here.

    Raises:
        DataError: It is a path, and nothing is there.
    """
    path = Path(name)
    has_parent = len(path.parts) > 1 and path.parent.is_dir()
    is_path = name.startswith((".", "~", "/")) or len(path.parts) > 2 or has_parent
    if is_path and not path.exists():
        raise DataError(f"{name}: no such file or folder; check the path")


def content_hash(files: Iterable[Path], folder: Path) -> str:
    """A hash of the content of files and of their names, which may say which split a file is.

    Args:
        files: The files; one that is missing counts as well, for it may appear.
        folder: The folder to which their names are relative.

    Raises:
        DataError: A file cannot be read.
    """
    digest = xxhash.xxh3_128()
    for file in sorted(set(files)):
        content = ""
        if file.is_file():
            with open_file(file) as opened:
                content = hashlib.file_digest(opened, xxhash.xxh3_128).hexdigest()
        digest.update(os.fsencode(f"{os.path.relpath(file, folder)}\0{content}\0"))
    return digest.hexdigest()


def seal(files: Iterable[Path]) -> None:
    """Writes the checksums of finished files of a cache beside them, by which [`is_intact`] notices damage."""
    for folder, names in itertools.groupby(sorted(files), key=lambda file: file.parent):
        new = {file.name: content_hash([file], folder) for file in names}
        with waiting_lock(folder / f".{_CHECKSUMS}.lock"):  # others may seal files of theirs in this folder
            checksums = _checksums(folder) | new
            with replacing_file(folder / _CHECKSUMS) as temporary:
                temporary.write_text(json.dumps(checksums), encoding="utf-8")


def remove_damaged(folder: Path, lock: Path) -> bool:
    """Removes a cache that is damaged, once, however many processes notice it; says whether it was done here.

    Args:
        folder: The cache.
        lock: The file that is locked by whoever builds the cache.
    """
    if not folder.is_dir() or is_intact(folder):
        return False
    with waiting_lock(lock):
        if not folder.is_dir() or is_intact(folder):  # another process has removed it, or has built it anew
            return False
        shutil.rmtree(folder, ignore_errors=True)
    return True


def is_intact(folder: Path) -> bool:
    """Whether a cache has all the files that were sealed in it, as they were."""
    # `Dataset.cleanup_cache_files` removes what was made of the data; that is no damage
    checksums = {
        name: checksum
        for name, checksum in _checksums(folder).items()
        if (folder / name).exists() or not name.startswith("cache-")
    }
    try:
        return bool(checksums) and all(content_hash([folder / name], folder) == checksums[name] for name in checksums)
    except DataError:  # another process has just removed a file
        return False


def _checksums(folder: Path) -> dict[str, str]:
    try:
        checksums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return checksums if isinstance(checksums, dict) else {}


class WriteError(OSError):
    """An output could not be written; the message names it and, where that may be why, the space that is left."""


@contextlib.contextmanager
def write_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns what Python, torch and safetensors raise on a full disk into a [`WriteError`] of one line."""
    try:
        yield
    except WriteError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not re.search("PytorchStreamWriter|inline_container", str(error)):
            raise  # it is not about writing
        space = ""
        if getattr(error, "errno", None) in (None, errno.ENOSPC, errno.EDQUOT):
            existing = next(folder for folder in (Path(path), *Path(path).absolute().parents) if folder.exists())
            space = f", {shutil.disk_usage(existing).free / 1e6:.0f} MB are free"
        raise WriteError(
            f"{path}: could not be written{space} ({one_line(error)[:200]}); what was there before is unchanged"
        ) from error


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path` that replaces it at the end; on an error `path` stays as it was.

    Raises:
        WriteError: The file could not be written.
    """
    path = Path(path).resolve()  # a link stays, and what it leads to is replaced
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        try:
            yield Path(temporary)
            os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else _mode_of_new_files())
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _mode_of_new_files() -> int:
    """The mode that `open` gives to a new file; `mkstemp` makes private ones."""
    umask = os.umask(0)  # it cannot be read without being set
    os.umask(umask)
    return 0o666 & ~umask


@contextlib.contextmanager
def replacing_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder whose files replace those of the same names in `folder` at the end.

    On an error or an interrupt the files of `folder` stay as they were.

    Raises:
        WriteError: A file could not be written.
    """
    folder = Path(folder)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished.", dir=folder) as temporary:
            yield Path(temporary)
            for path in Path(temporary).iterdir():
                path.replace(folder / path.name)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder beside `path` that becomes `path` at the end; on an error nothing is left of it.

    Raises:
        FileExistsError: When the folder is finished, `path` is there already; it stays as it is.
        WriteError: The folder could not be written.
    """
    path = Path(path)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    with unfinished:
        folder = Path(unfinished.name, path.name)
        with write_errors(path):
            folder.mkdir()
            yield folder
        if path.exists():
            raise FileExistsError(f"{path} exists already; remove it or name another folder")
        with write_errors(path):
            folder.rename(path)


def waiting_lock(path: Path) -> contextlib.AbstractContextManager[Any]:
    """Lets one process at a time into a block; the others wait for it. The lock ends with its process.

    Args:
        path: The file to lock; it may be left behind.
    """
    import filelock  # which takes longer to import than most of what needs no lock

    return filelock.FileLock(path, mode=_mode_of_new_files())


@contextlib.contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Keeps everybody else who calls this from writing `path` within the block.

    The lock is a record lock: it ends with its process, however that ends, and forked workers do not inherit it.

    Args:
        path: A file or a folder; the hidden file that is locked lies beside the file, or in the folder.

    Raises:
        WriteError: Somebody else is writing there, or nothing can be written there.
    """
    path = Path(path)
    lock = (path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")).absolute()
    held = os.getpid(), lock
    with _HELD_LOCKS_GUARD:
        if held in _HELD_LOCKS:  # opening and closing the file once more would release the lock
            raise WriteError(_in_use(path, "this process"))
        _HELD_LOCKS.add(held)
    try:
        with write_errors(path):
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = _locked_file(path, lock)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            file.close()
    finally:
        _HELD_LOCKS.remove(held)


def _locked_file(path: Path, lock: Path) -> TextIO:
    """Opens the file `lock`, locks it and writes who holds it into it."""
    while True:
        file = lock.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            with file:
                file.seek(0)
                raise WriteError(_in_use(path, file.read() or "another process")) from None
        except OSError:
            return file  # a file system without locks cannot keep anybody out
        # Whoever held the lock may just have removed the file, and the next one would lock a new file.
        if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
            file.truncate(0)
            print(f"process {os.getpid()} on {socket.gethostname()}", end="", file=file, flush=True)
            return file
        file.close()


def _in_use(path: Path, holder: str) -> str:
    return f"{path}: {holder} is writing there; wait until it has finished, or name another place"
