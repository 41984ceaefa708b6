"""What readers of published text corpora share: their files in a folder, and the split that a file is named after."""

import contextlib
import csv
import re
from collections.abc import Iterator, Set
from pathlib import Path

from ..files import DataError, broken_files_are_data_errors, read_head
from ..rows import SPLIT_ALIASES


# Windows-1252 that was taken for latin-1, or stands as it is in a file that is otherwise UTF-8.
_WINDOWS_1252 = {
    code: character
    for byte in range(0x80, 0xA0)
    if (character := bytes([byte]).decode("cp1252", errors="ignore"))
    for code in (byte, 0xDC00 + byte)
} | {0xDC00 + byte: chr(byte) for byte in range(0xA0, 0x100)}


def text_files(path: Path, suffix: str) -> dict[Path, bytes]:
    """The first bytes of a file, or of those in a folder that end so."""
    if not path.is_dir():
        return {path: read_head(path)}
    heads = {}
    for file in sorted(file for file in path.iterdir() if file.suffix == suffix and file.is_file()):
        with contextlib.suppress(DataError):  # it is none of the corpus
            heads[file] = read_head(file)
    return heads


def has_columns(first_bytes: bytes, columns: Set[str]) -> bool:
    """Whether a file begins with the header of a CSV table that has these columns."""
    header = first_bytes.decode("utf-8-sig", errors="replace").lstrip().split("\n", 1)[0]
    return columns <= {cell.strip().strip('"') for cell in header.split(",")}


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """The cells of each row by column, empty ones left out.

    Raises:
        DataError: It is not a CSV table.
    """
    with (
        broken_files_are_data_errors(path, "table", "save it again as CSV in UTF-8"),
        path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
    ):
        for cells in csv.DictReader(file, skipinitialspace=True):
            named = (
                (name, cell) for name, cell in cells.items() if isinstance(name, str)
            )  # others are beyond the last
            yield {name.strip(): cell for name, cell in named if cell}


def mended(text: str) -> str:
    """A text with the characters that bytes of Windows-1252 in it stand for, such as an apostrophe for 0x92."""
    return text.translate(_WINDOWS_1252)


def files_by_split(files: list[Path]) -> dict[str, Path]:
    """The file of each split by the standard name of the split, which the name of a single file need not say.

    Raises:
        DataError: A name says no split, or two the same one.
    """
    splits: dict[str, Path] = {}
    for file in files:
        split = split_of_name(file, alone=len(files) == 1)
        if split in splits:
            raise DataError(f"{splits[split]} and {file} are both the {split} split; leave one out")
        splits[split] = file
    return splits


def split_of_name(path: Path, *, alone: bool) -> str:
    """The standard name of the split that a file is named after.

    Args:
        path: The file.
        alone: Whether it is the only one, which is the training split if its name says no other.

    Raises:
        DataError: Its name begins with none.
    """
    word = first_word(path)
    if word not in SPLIT_ALIASES and not alone:
        raise DataError(
            f"{path}: its name begins with none of {', '.join(SPLIT_ALIASES)} and it has no column split; rename it"
        )
    return SPLIT_ALIASES.get(word, "train")


def first_word(path: Path) -> str:
    """The first word of a file's name in lower case, which may be that of a split."""
    return re.split(r"[^a-zA-Z]", path.name, maxsplit=1)[0].lower()
