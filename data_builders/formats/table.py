"""Tables of the user's own: Parquet, JSON lines or CSV with the columns of the row format.

Columns: `id`, `words` (a list, or text that is split at spaces; `text` means the same), `label` or what was named in
its place (not needed in data to predict on; see `data_builders.labels`), and where known `video_id`, `split`, `start`,
`end`, `word_start`, `word_end`. Every other column is a modality if its cells are lists of rows, one a word, or paths
of `.npy` or `.npz` files. What is neither is left out, and named (`table_columns`). Paths are relative to the table,
and the files lie inside its folder, or inside the folder that was given. A column `features` of `.npz` paths gives a
modality for each array in these files. A modality that a file, a row or an `.npz` lacks is treated as missing there.

Splits come from the column `split`, or from the names of the files (`train.csv`, `test-00000-of-00004.parquet`); a
single file of another name is the training split. CSV is separated by commas, and lists in it are JSON.
"""

import contextlib
import functools
import itertools
import logging
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..files import DataError
from ..labels import LabelFormat, noted_format
from ..rows import Row, Skipped, Source, as_text, check_text, video_of
from .arrays import array_path
from .contract import Head, ReadOptions, no_labels
from .table_cells import (
    features_of_row,
    is_blank,
    label_of_cell,
    list_of_cell,
    number_of_cell,
    sample_name,
    words_of_cell,
)
from .table_columns import CALLED_LIKE_MODALITIES, Columns, decide_columns
from .table_files import (
    ROW_COLUMNS,
    TEXT_COLUMNS,
    TIME_COLUMNS,
    Shard,
    array_references,
    count_rows,
    datasets_info,
    find_tables,
    kind_of,
    numbered_rows,
    oversized_columns,
    refuse_other_text,
    renaming_hint,
    shards_by_split,
    table_columns,
    table_kinds,
)


FORMAT = "table"
FEATURES_ARE_NORMALIZED = False


logger = logging.getLogger(__name__)

_TEXTS_TO_LOOK_AT = 20
_NUMBER = re.compile(r"\s*[-+]?[\d.,]*\d\s*")
_WITH_GUESSED_VIDEOS: set[Path] = set()  # the folders of which it was said, once in each process


class _Table(NamedTuple):
    """What is needed to make rows; it is pickled for worker processes."""

    columns: frozenset[str]
    modalities: tuple[str, ...]
    timed: bool
    labelled: bool | None
    label_columns: tuple[str, ...]
    class_names: tuple[str, ...]  # where labels are their numbers
    weighted: bool
    group: str | None


def recognizes(path: Path, head: Head) -> bool:
    """Whether a file is a table, or a folder holds tables.

    Raises:
        DataError: The file is text that a table could be read from, and not as it is: a JSON document, columns that
            are not separated by commas or have no known name, or another encoding than UTF-8.
    """
    if path.is_dir():
        return bool(find_tables(path))
    if kind_of(path, head.first_bytes):
        return True
    refuse_other_text(path, head.first_bytes)
    return False


def files(path: Path) -> list[Path]:
    """The tables, and the files of arrays that they refer to."""
    root, kinds, arrays = path if path.is_dir() else path.parent, table_kinds(path), []
    for file, kind in kinds.items():
        for reference in array_references(file, kind):
            with contextlib.suppress(DataError):  # such a cell is reported when its row is read
                array_path(file, root, reference)
                arrays.append(file.parent / reference)
    return [*kinds, *arrays]


def read(path: Path, options: ReadOptions) -> Source:
    """Opens a table, or a folder of tables.

    Args:
        path: The file or folder.
        options: Without `labels`, the column need not be there.

    Returns:
        A source; its `format` is the one that the files were converted from, if they all name the same one.

    Raises:
        DataError: A needed column is missing, all features of a column are bad, a file has no split, or is broken.
    """
    root = path if path.is_dir() else path.parent
    kinds = table_kinds(path)
    if not kinds:
        raise DataError(
            f"{path}: not a table: neither Parquet, nor JSON lines (one object a line), nor CSV with a column id, "
            "label, words or text; save it as one of them"
        )
    columns = {file: table_columns(file, kind) for file, kind in kinds.items()}
    splits: dict[str, list[Shard]] = {}
    for file, kind in kinds.items():
        of_file = shards_by_split(root, file, kind, has_splits="split" in columns[file], alone=len(kinds) == 1)
        for split, shards in of_file.items():
            splits.setdefault(split, []).extend(shards)
    oversized = _oversized_columns(kinds, options.modalities)
    if not _has_rows(splits):
        raise DataError(f"{path}: a table without rows; write one for each utterance below its header")
    label_columns = options.label_columns or ("label",)
    for file, column in itertools.product(kinds, label_columns):
        if options.labels and column not in columns[file]:
            found = sorted(columns[file])
            hint = "" if options.label_columns else renaming_hint(found)
            raise no_labels(file, f"column {column} among {', '.join(found)[:200]}{hint}")
    _warn_of_numbers(path, splits)
    group = _group(options, columns.values(), label_columns)
    named = {*label_columns, *([group] if group else [])}
    sizes, left_out = _decide(path, columns, oversized, splits, named, options.modalities)
    if "label" not in label_columns and "label" in set().union(*columns.values()):
        left_out["label"] = f"the label is {', '.join(label_columns)}"
    timed = all(found >= TIME_COLUMNS for found in columns.values())
    if not timed and (times := TIME_COLUMNS.intersection(itertools.chain(*columns.values()))):
        left_out |= dict.fromkeys(times, f"times are read where all files have {', '.join(sorted(TIME_COLUMNS))}")
    # Weights are for training, so whoever needs no labels needs none.
    weighted = bool(options.labels) and any("weight" in found for found in columns.values())
    notes = [datasets_info(file) if kind == "parquet" else {} for file, kind in kinds.items()]
    label_format = _noted_label_format(notes) if label_columns == ("label",) else None
    class_names = label_format.names if label_format and not label_format.ranges else ()
    table = _Table(
        columns=frozenset((*ROW_COLUMNS, *named, *sizes, "features")),
        modalities=tuple(sizes),
        timed=timed,
        labelled=options.labels,
        label_columns=label_columns,
        class_names=class_names,
        weighted=weighted,
        group=group,
    )
    return Source(
        path,
        _converted_from(notes),
        sizes,
        timed,
        splits,
        functools.partial(_rows, table),
        _feature_extractors(notes, sizes),
        functools.partial(count_rows, kinds),
        left_out,
        weighted,
        group,
        functools.partial(_labels, table),
        label_format,
    )


def _group(options: ReadOptions, columns: Iterable[set[str]], label_columns: Collection[str]) -> str | None:
    """The column by which samples are grouped, where all files have it and it is none that rows have anyway."""
    name = options.group
    is_kept = name not in ROW_COLUMNS and name not in label_columns and all(name in found for found in columns)
    return name if is_kept else None


def _has_rows(splits: dict[str, list[Shard]]) -> bool:
    shards = itertools.chain.from_iterable(splits.values())
    return any(True for shard in shards for _ in numbered_rows(shard, {"id"}))


def _warn_of_numbers(path: Path, splits: dict[str, list[Shard]]) -> None:
    """Warns of texts that are all numbers, which are rather codes, labels or token ids than what was said."""
    shards = itertools.chain.from_iterable(splits.values())
    cells = itertools.chain.from_iterable(map(_texts, shards))
    first = list(itertools.islice(cells, _TEXTS_TO_LOOK_AT))
    if len(first) > 1 and all(_NUMBER.fullmatch(text) for text in first):
        logger.warning(
            "%s: all texts are numbers, the first is %s; each is taken for a word, so rename the column if it is not "
            "what was said", path, first[0],
        )  # fmt: skip


def _texts(shard: Shard) -> Iterator[str]:
    for _, cells in numbered_rows(shard, TEXT_COLUMNS):
        yield from (cell for cell in (cells or {}).values() if isinstance(cell, str) and cell)


def _decide(
    path: Path,
    columns: dict[Path, set[str]],
    oversized: set[str],
    splits: dict[str, list[Shard]],
    named: set[str],
    wanted: Collection[str] | None,
) -> Columns:
    """The modalities of all files and the columns that are left out."""
    names = set().union(*columns.values())
    candidates = names - ROW_COLUMNS - named - oversized
    has_text = all(found & TEXT_COLUMNS for found in columns.values())
    if wanted is not None and (has_text or "text" not in wanted) and candidates >= {*wanted} - {"text", "timing"}:
        candidates &= {*wanted}  # nothing is to be found elsewhere
    shards = list(itertools.chain.from_iterable(splits.values()))
    found = decide_columns(path, candidates, shards, has_text=has_text, wanted=wanted)
    if not names & TEXT_COLUMNS and not found.modality_sizes:
        raise DataError(f"{path}: a table needs a column words (or text) or features; it has: {sorted(names)}")
    for name in found.modality_sizes:
        if not name.isprintable():
            raise DataError(f"{path}: column {name!r} has a name that cannot be a modality's; rename it")
    if wanted is None:
        found.left_out.update(dict.fromkeys(oversized, "more data than the file can hold"))
    return found


def _oversized_columns(kinds: dict[Path, str], wanted: Collection[str] | None) -> set[str]:
    """The columns that are not to be decoded; a DataError for one that is needed."""
    oversized = set()
    for file, kind in kinds.items():
        found = oversized_columns(file) if kind == "parquet" else set()
        if needed := sorted(found & {*ROW_COLUMNS, *(CALLED_LIKE_MODALITIES if wanted is None else wanted)}):
            raise DataError(f"{file}: column {needed[0]} claims more data than the file can hold; get the file again")
        oversized |= found
    return oversized


def _converted_from(notes: list[dict[str, Any]]) -> str:
    """The format that all files were converted from if they name the same one, else `table`."""
    first = notes[0].get("config_name")
    return first if isinstance(first, str) and all(note.get("config_name") == first for note in notes) else FORMAT


def _feature_extractors(notes: list[dict[str, Any]], modalities: Iterable[str]) -> dict[str, str]:
    """The extractors of the features, where `datasets` wrote all files and they agree on a modality's extractor.

    The notes of `datasets` in the files have it as the column's `id` (see `columns`); anybody can write such notes.
    """
    found: dict[str, set[Any]] = {name: set() for name in modalities}
    try:
        for features in (note["features"] for note in notes):
            for name in found.keys() & features.keys():
                found[name].add(features[name].get("id"))
    except (LookupError, TypeError, AttributeError):
        return {}
    return {name: min(names) for name, names in found.items() if len(names) == 1 and isinstance(min(names), str)}


def _noted_label_format(notes: list[dict[str, Any]]) -> LabelFormat | None:
    """What the labels are, where `datasets` wrote all files and its notes in them say the same."""
    found = set()
    for note in notes:
        features = note.get("features")
        found.add(noted_format(features.get("label")) if isinstance(features, dict) else None)
    return found.pop() if len(found) == 1 else None


# Rows


def _rows(table: _Table, shard: Shard) -> Iterator[Row | Skipped]:
    for index, cells in numbered_rows(shard, table.columns):
        name = sample_name(shard, index, cells or {})
        try:
            if cells is None:
                raise DataError(f"row {index + 1} cannot be read as a line of this table")
            check_text(name)
            row: Row | Skipped = _row(table, shard, name, cells)
        except DataError as error:
            row = Skipped(name.encode(errors="backslashreplace").decode(), str(error))
        yield row


def _row(table: _Table, shard: Shard, name: str, cells: dict[str, Any]) -> Row:
    video = video_of(name) if is_blank(cells.get("video_id")) else as_text(cells["video_id"])
    if video != name and is_blank(cells.get("video_id")) and table.labelled is not None:  # predictions need no video
        _say_that_ids_name_videos(shard, name, video)
    words = words_of_cell(cells.get("words") if cells.get("words") is not None else cells.get("text"))
    row: Row = {"id": name, "video_id": video, "words": words}
    if table.labelled is not False:
        row["label"] = _label(table, cells)
    if table.weighted:
        row["weight"] = 1.0 if is_blank(cells.get("weight")) else number_of_cell(cells["weight"], "weight")
    if table.group:
        if is_blank(cells.get(table.group)):
            raise DataError(f"column {table.group} is empty, by which samples are grouped; fill it in")
        row[table.group] = as_text(cells[table.group])
        check_text(row[table.group])
    if table.timed:
        row |= {name: number_of_cell(cells.get(name), name) for name in ("start", "end")}
        for name in ("word_start", "word_end"):
            row[name] = [number_of_cell(value, name) for value in list_of_cell(cells.get(name))]
    return row | features_of_row(shard, cells, table.modalities, len(words) or None)


def _label(table: _Table, cells: dict[str, Any]) -> Any:
    """The label of a row, a record where it has several columns."""
    labels = {name: label_of_cell(cells.get(name), table.class_names) for name in table.label_columns}
    return labels if len(labels) > 1 else next(iter(labels.values()))


def _labels(table: _Table, shard: Shard) -> Iterator[Any]:
    for _, cells in numbered_rows(shard, {*table.label_columns}):
        with contextlib.suppress(DataError):  # which is reported when the row is read
            yield _label(table, cells or {})


def _say_that_ids_name_videos(shard: Shard, name: str, video: str) -> None:
    if shard.root in _WITH_GUESSED_VIDEOS:
        return
    _WITH_GUESSED_VIDEOS.add(shard.root)
    logger.warning(
        "%s: without a column video_id, videos are told by the ids: %s is of %s; add the column if that is wrong",
        shard.path, name, video,
    )  # fmt: skip
