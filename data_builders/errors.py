"""The one error that reading data raises."""

import contextlib
import csv
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from datasets.exceptions import DatasetGenerationError


class DataError(ValueError, DatasetGenerationError):
    """Data that cannot be read: one line that names the file, the sample, the field and the way out.

    It is a `DatasetGenerationError` too, because `datasets` hides every other exception of a build behind one of its
    own that says nothing of the cause.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


# What parsers raise on broken files: Python's own, and those of the libraries that read them.
_BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    csv.Error,
    pa.ArrowException,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextlib.contextmanager
def broken_files_are_data_errors(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever a parser raises within the block into a DataError that names the file.

    Args:
        path: the file that is parsed.
        kind: what it should be, as "HDF5 file".
    """
    try:
        yield
    except DataError:
        raise
    except _BROKEN as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise DataError(f"{path}: not a readable {kind} ({reason}); get the file again") from None
