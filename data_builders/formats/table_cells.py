"""The cells of tables as the values of a row: words, labels, numbers, and features written there or in a file."""

import contextlib
import json
import numbers
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import numpy as np

from ..files import DataError
from ..rows import as_text, check_shape, is_missing, is_printed_missing, words_of_transcript
from .arrays import array_path, load_array, load_arrays
from .table_files import Shard


# How Python and others print arrays: no table can be read from that.
_PRINTED_ARRAY = re.compile(
    r"[\[({\s]*(?:\w{1,9}\.)?(?:array|tensor)\(|\(\s*[\[(]*[-+.\d][^)]*,|\{[^{}]*:\s*[\[({]", re.IGNORECASE
)
# Of lists: strings in single quotes, None, or numbers side by side without commas, as NumPy prints them.
_PRINTED_LIST = re.compile(r"\[\s*(?:'|None)|[^\"]*(?:\d\.?\s+[-+.\d]|\]\s*\[|,\s*(?:'|None)|\bnan\b|\binf\b|\.\.\.)")
_WRITE_LISTS = "save the table as Parquet or JSON lines, or write lists with json.dumps(values.tolist())"


def is_blank(cell: Any) -> bool:
    """Whether a cell says that there is nothing."""
    return is_missing(cell) or (isinstance(cell, str | bytes) and not cell)


def is_path(cell: Any) -> TypeGuard[str]:
    """Whether a cell of features is the path of a file."""
    return isinstance(cell, str) and bool(cell) and not cell.startswith("[") and not _PRINTED_ARRAY.match(cell)


def sample_name(shard: Shard, index: int, cells: dict[str, Any]) -> str:
    """The id of a row, or its place in the file where it has none."""
    if not is_blank(cells.get("id")):
        return as_text(cells["id"])
    return f"{os.fsencode(shard.path.stem).decode(errors='backslashreplace')}-{index}"  # names need not be UTF-8


def words_of_cell(cell: Any) -> list[str]:
    """Words that a cell lists, or those of a text.

    Raises:
        DataError: The cell is neither.
    """
    if is_missing(cell) or isinstance(cell, bytes) or (isinstance(cell, str) and not _is_list(cell)):
        return words_of_transcript(cell)
    if isinstance(cell, numbers.Number):
        raise DataError(f"the text is the number {cell}; write texts as strings")
    words = list_of_cell(cell)
    if not all(isinstance(word, str | bytes) for word in words):
        raise DataError(f"words {str(cell)[:80]!r} are not a list of strings or a text")
    return list(map(as_text, words))


def _is_list(text: str) -> bool:
    """Whether a text is or was meant to be a JSON list (cut short, or as Python prints it); `[laughs] ok` is not."""
    if re.match(r"\[\s*['\"]", text):
        return True
    try:
        return text.startswith("[") and isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


def list_of_cell(cell: Any) -> list[Any] | np.ndarray:
    """A list, which CSV holds as JSON; an empty cell is an empty one.

    Raises:
        DataError: The cell is something else.
    """
    value = [] if is_blank(cell) else _from_json(cell) if isinstance(cell, str) else cell
    if not isinstance(value, list | np.ndarray):
        raise DataError(f"{str(cell)[:80]!r} is not a list")
    return value


def _from_json(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        what = (
            "how Python or NumPy prints a list"
            if _PRINTED_LIST.match(cell[:1000])
            else "not a JSON list, or a part of one"
        )
        raise DataError(f"{cell[:80]!r} is {what}; {_WRITE_LISTS}") from None


def label_of_cell(cell: Any, class_names: Sequence[str] = ()) -> Any:
    """A label as it is in the cell, which `labels.checked_label` checks as for all formats; None where there is none.

    Args:
        cell: The cell; in CSV, a list is JSON.
        class_names: The names of classes, where the cell has their numbers in this list.

    Raises:
        DataError: A number is that of no class.
    """
    if is_blank(cell) or is_printed_missing(cell):
        return None
    if class_names:
        return _named(cell, class_names)
    if isinstance(cell, str) and cell.startswith("["):
        with contextlib.suppress(DataError):
            return _from_json(cell)
    return cell


def _named(cell: Any, class_names: Sequence[str]) -> Any:
    if isinstance(cell, list | np.ndarray):
        return [_named(item, class_names) for item in cell]
    if not isinstance(cell, int | np.integer) or not 0 <= cell < len(class_names):
        raise DataError(f"label {str(cell)[:80]} is not the number of one of {len(class_names)} classes, from 0")
    return class_names[int(cell)]


def number_of_cell(cell: Any, name: str) -> float:
    """A number; a DataError with the column's name for what is none."""
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{name} {str(cell)[:80]!r} is not a number") from None


def features_of_row(
    shard: Shard, cells: dict[str, Any], modalities: Iterable[str], num_words: int | None
) -> dict[str, np.ndarray | None]:
    """The features in each modality's own cell, or else of its name in the `.npz` file of the cell `features`."""
    arrays: dict[str, np.ndarray] = {}
    if is_path(shared := cells.get("features")):
        names = [name for name in modalities if name == "features" or is_blank(cells.get(name))]
        arrays = load_arrays(array_path(shard.path, shard.root, shared), names, num_words=num_words)
        cells = {**cells, "features": None}
    return {name: features_of_cell(shard, arrays.get(name, cells.get(name)), name, num_words) for name in modalities}


def features_of_cell(shard: Shard, cell: Any, modality: str, num_words: int | None = None) -> np.ndarray | None:
    """The features that a cell holds or names; None where it is empty.

    Raises:
        DataError: It holds something else, or they are not as many rows as there are words, where that is known.
    """
    if is_blank(cell) or isinstance(cell, np.ndarray):
        return _checked(cell, modality)
    if isinstance(cell, str) and _PRINTED_ARRAY.match(cell):
        raise DataError(f"{cell[:80]!r} is how Python prints it, which cannot be read back; {_WRITE_LISTS}")
    if is_path(cell):
        path = array_path(shard.path, shard.root, cell)
        return _checked(load_array(path, modality, num_words=num_words), modality)
    rows = list_of_cell(cell)
    try:
        array = np.asarray(rows, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{modality} is not a list of rows of numbers, all of one length") from None
    return _checked(array, modality)


def _checked(features: Any, modality: str) -> np.ndarray | None:
    """Features of one row a word, or None where there are none."""
    if is_blank(features) or not np.size(features):
        return None
    check_shape(features.shape, modality)
    return features


__all__ = [
    "features_of_cell",
    "features_of_row",
    "is_blank",
    "is_path",
    "label_of_cell",
    "list_of_cell",
    "number_of_cell",
    "sample_name",
    "words_of_cell",
]
