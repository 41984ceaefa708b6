"""Which columns of a table are modalities, and why the others are left out: none of them is lost in silence."""

import math
import numbers
import re
from collections.abc import Collection, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import DataError
from .arrays import array_path, array_shapes
from .table_cells import features_of_cell, is_blank, is_path, sample_name
from .table_files import CALLED_LIKE, ROW_COLUMNS, TEXT_COLUMNS, Shard, numbered_rows


CALLED_LIKE_MODALITIES = frozenset(
    ("acoustic", "audio", "speech", "voice", "visual", "vision", "face", "facial", "features")
)

_ROWS_TO_DECIDE = 1000  # a column without features in this many rows is not a modality
_WAY_OUT = "name the modalities to read, which leaves the others out (--modalities a,b; in Python modalities=[...])"
_LONGEST_PATH = 4096
# JSON lists of numbers; what Python prints for lists, arrays, tuples and dicts of numbers; numbers side by side.
_NUMBER = r"[-+]?\.?\d[-+.\de]*"
_LIKE_ARRAY = re.compile(
    r"\[\s*(?:[][(0-9.+-]|null|none|nan|inf)|[\[({\s]*(?:\w{1,9}\.)?(?:array|tensor)\(|\(\s*[\[(]*[-+.\d][^)]*,"
    rf"|\{{[^{{}}]*:\s*[\[({{]|{_NUMBER}(?:[\s,;]+{_NUMBER}){{2,}}\s*$",
    re.IGNORECASE,
)
_LIKE_FILE = re.compile(
    r"[^\n]+\.(?:np[yz]|pth?|pkl|pickle|mat|h5|hdf5|csd|safetensors|parquet|feather|arff|ark"
    r"|wav|mp3|flac|ogg|m4a|mp4|avi|mov|mkv|webm|jpe?g|png)$",
    re.IGNORECASE,
)


class Columns(NamedTuple):
    """What the columns of a table are.

    Attributes:
        modality_sizes: The size of a feature row of each modality.
        left_out: The columns that are left out, each with the kind of its cells.
    """

    modality_sizes: dict[str, int]
    left_out: dict[str, str]


def decide_columns(
    path: Path, names: Set[str], shards: list[Shard], *, has_text: bool, wanted: Collection[str] | None
) -> Columns:
    """Finds the modalities among columns, each by the first row that shows it.

    Args:
        path: The file or folder.
        names: The columns that may be modalities.
        shards: The rows.
        has_text: Whether another column holds the words.
        wanted: The modalities that were asked for; None for all.

    Raises:
        DataError: No cell of a column can be read, though they look like arrays or files or the column is called like
            a modality; or a column looks like the words that no other column holds. What was not asked for is not
            refused.
    """
    seen = _look_at_cells(names, shards)
    asked = names if wanted is None else names & {*wanted, "features"}
    if refused := sorted(asked & seen.faults.keys()):
        raise DataError(f"{seen.faults[refused[0]]}; correct it, or {_WAY_OUT}")
    if not has_text and (wanted is None or "text" in wanted):
        _refuse_hidden_text(path, seen.others)
    left_out = {name: _kind(seen.others[name]) if name in seen.others else "empty" for name in asked - seen.readable}
    return Columns(seen.sizes, left_out)


class _Seen(NamedTuple):
    """What the cells of columns say: the modalities' sizes, the columns of which any cell can be read as features, the
    columns of features of which none can, with the first reason, and for other columns an example of a cell.
    """

    sizes: dict[str, int]
    readable: set[str]
    faults: dict[str, str]
    others: dict[str, Any]


def _look_at_cells(names: Set[str], shards: list[Shard]) -> _Seen:
    seen = _Seen({}, set(), {}, {})
    undecided = set(names)
    surely_features = {name for name in names if name.lower() in CALLED_LIKE_MODALITIES}
    rows = ((shard, index, cells or {}) for shard in shards for index, cells in numbered_rows(shard, {"id", *names}))
    for count, (shard, index, cells) in enumerate(rows, 1):
        for column in sorted(undecided & cells.keys()):
            cell = cells[column]
            if not _looks_like_features(cell) and column not in surely_features:
                seen.others[column] = max(seen.others.get(column, cell), cell, key=_looks_like_text)
                continue
            try:
                found = _sizes_of_cell(shard, cell, column, seen.sizes)
            except DataError as error:
                where = f"{shard.path}: sample {sample_name(shard, index, cells)}: column {column}"
                seen.faults.setdefault(column, f"{where}: {error}")
                surely_features |= {column} if _is_file(cell) else set()
                continue
            if found:
                seen.sizes.update(found)
                seen.readable.add(column)
                undecided -= set() if is_path(cell) and column == "features" else {column}  # another may hold more
        if count >= _ROWS_TO_DECIDE:
            undecided -= seen.others.keys()
        if not undecided:
            break
    # Text may begin with '[', too.
    for column in seen.readable | (seen.others.keys() - surely_features):
        seen.faults.pop(column, None)
    return seen._replace(sizes=dict(sorted(seen.sizes.items())))


def _looks_like_features(cell: Any) -> bool:
    """Whether a cell seems to hold arrays or the name of a file, or says that they are missing."""
    if isinstance(cell, list):
        first = cell[0] if cell else None
        if isinstance(first, str):
            return bool(first) and _looks_like_features(first)
        return first is None or isinstance(first, list | np.ndarray | numbers.Number)
    if isinstance(cell, dict):
        return any(isinstance(value, list | np.ndarray) for value in cell.values())
    if isinstance(cell, str):
        return not cell or _is_file(cell) or bool(_LIKE_ARRAY.match(cell))
    return isinstance(cell, np.ndarray) or is_blank(cell)


def _is_file(cell: Any) -> bool:
    return isinstance(cell, str) and len(cell) <= _LONGEST_PATH and bool(_LIKE_FILE.match(cell))


def _looks_like_text(cell: Any) -> bool:
    """Whether a cell has several words."""
    if isinstance(cell, list):
        return all(isinstance(word, str) for word in cell)
    return isinstance(cell, str) and len(cell[:1000].split()) > 1


def _refuse_hidden_text(path: Path, cells: dict[str, Any]) -> None:
    for column, cell in sorted(cells.items()):
        if _looks_like_text(cell) or column.lower() in (*TEXT_COLUMNS, *CALLED_LIKE["text"]):
            raise DataError(
                f"{path}: no column words or text, and column {column} looks like it ({str(cell)[:80]!r}); "
                f"rename it to text, or {_WAY_OUT}"
            )


def _kind(cell: Any) -> str:
    kinds = {numbers.Number: "numbers", str: "text", list: "lists", dict: "records"}
    return next((kind for types, kind in kinds.items() if isinstance(cell, types)), "other values")


def _sizes_of_cell(shard: Shard, cell: Any, column: str, known: dict[str, int]) -> dict[str, int]:
    if column == "features" and is_path(cell):
        return _sizes_of_members(array_path(shard.path, shard.root, cell), known)
    features = features_of_cell(shard, cell, column)
    return {} if features is None else {column: features.shape[1]}


def _sizes_of_members(path: Path, known: dict[str, int]) -> dict[str, int]:
    """The sizes of modalities not known yet in an `.npz` file; it may hold the row's other columns too."""
    shapes = array_shapes(path, without={*known, *ROW_COLUMNS})
    return {name: shape[1] for name, shape in shapes.items() if math.prod(shape)}
