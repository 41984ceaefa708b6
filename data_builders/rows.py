"""The one row format that every reader gives, and the checks that every row passes on its way to Arrow.

A reader opens a file or folder and returns a `Source`. The builder asks it for rows, checks them here and writes Arrow
tables; nothing downstream knows where a row came from.
"""

import contextlib
import functools
import itertools
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import regex

from .files import DataError
from .labels import (
    LABEL_SIZES,
    MOSEI_LABELS,
    SENTIMENT,
    LabelFormat,
    checked_label,
    find_format,
    has_no_label,
    label_or_fault,
)
from .timing import TIMING_FEATURES, timing_features


logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
MAX_VALUES = 1 << 26  # of one modality in one sample (256 MB): a small file can claim more than fits in memory

# Of the scripts that are written without blanks between words: a character with its marks and punctuation, or others.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_UNITS = regex.compile(rf"\p{{Ps}}*(?=[{_UNSPACED}])\X\p{{P}}*|[^{_UNSPACED}]+")
_UNSPACED_CHARACTER = regex.compile(f"[{_UNSPACED}]")

_PRINTED_MISSING = frozenset(("NaN", "nan", "None", "null", "<NA>"))

Row = dict[str, Any]


class Skipped(NamedTuple):
    """Takes the place of a row, for a sample that cannot be used.

    `fault` is True for wrong data, which is an error unless `on_error="skip"`. It is False for correct data that
    cannot be used, such as a segment in which nobody speaks.
    """

    id: str
    reason: str
    fault: bool = True


class UnusedLabel(NamedTuple):
    """A label that is wrong where none is needed; the row comes without it."""

    id: str
    label: Any
    reason: str


class Replaced(NamedTuple):
    """How many non-finite values of a modality a reader has set to 0 itself, because it averages them."""

    modality: str
    num_values: int


class Source(NamedTuple):
    """What a reader found in a file or folder.

    Attributes:
        path: The file or folder.
        format: The name of the format, which becomes the dataset's `config_name`; of converted data, that of the
            format that it was converted from.
        modality_sizes: The size of one feature row of each modality.
        timed: Whether the times of segments and words are known.
        splits: The shards of each split: picklable pieces of work in the order of the rows.
        rows: Gives the rows of one shard; it must be picklable too. A row has `id`, `video_id`, `words`, `label` (if
            asked for), a (number of words, size) array or `None` for each modality and, if timed, `start`, `end`,
            `word_start`, `word_end`. `words` is empty where the source does not keep them.
        feature_extractors: The program that extracted the features, for modalities whose source names it.
        count_rows: Says about how many rows there are, without reading them; None where each shard is one row.
        left_out: The columns that are no part of the rows, each with the reason.
        weighted: Whether rows have a `weight`, a number.
        group: The column, a text, that rows have because samples are grouped by it; None for none but `video_id`.
        labels: Gives the labels alone of a shard's rows; None where they are sentiments, or MOSEI's seven numbers.
        label_format: What the labels are. A reader gives it where its files say so.
    """

    path: Path
    format: str
    modality_sizes: dict[str, int]
    timed: bool
    splits: dict[str, list[Any]]
    rows: Callable[[Any], Iterator[Row | Skipped | Replaced]]
    feature_extractors: Mapping[str, str] = MappingProxyType({})
    count_rows: Callable[[], int] | None = None
    left_out: Mapping[str, str] = MappingProxyType({})
    weighted: bool = False
    group: str | None = None
    labels: Callable[[Any], Iterator[Any]] | None = None
    label_format: LabelFormat | None = None


def split_name(name: Any, where: object) -> str:
    """The standard name (train, validation, test) of a split that a file calls `dev`, `valid` and so on."""
    try:
        return SPLIT_ALIASES[as_text(name).lower()]
    except KeyError:
        raise DataError(
            f"{where}: split {as_text(name)[:40]!r} is none of {', '.join(SPLIT_ALIASES)}; rename it"
        ) from None


def video_of(segment: str) -> str:
    """The video of a segment id: `03bSnISJMiM_11`, `03bSnISJMiM[10]` and `03bSnISJMiM$_$11` are of `03bSnISJMiM`.

    Numbers of other things look like the first of these: `clip_11` and `sst_train_11` are of no video `clip` or
    `sst_train`. So `_11` is a clip's number only after a name that has a digit, or that is as long as those of YouTube
    and in upper and lower case; and not after that of a split.
    """
    marked = re.fullmatch(r"(.+?)(?:\$_\$\d+|\[\d+\])", segment, re.DOTALL)
    if marked:
        return marked[1]
    video, _, number = segment.rpartition("_")
    is_youtube = len(video) == 11 and video.lower() != video != video.upper()
    is_split = re.split(r"[\W_]", video)[-1].lower() in SPLIT_ALIASES
    is_clip = re.fullmatch(r"\d+", number) and (is_youtube or (re.search(r"\d", video) and not is_split))
    return video if is_clip else segment


def as_text(value: Any) -> str:
    """A string or number as text; bytes, as Python 2 wrote them, are read as UTF-8 or else latin-1."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")
    return str(value)


def is_missing(value: Any) -> bool:
    """Whether a value says that there is nothing: `None`, or NaN, which pandas writes in place of a string."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_printed_missing(text: Any) -> bool:
    """Whether a text is what Python, pandas or JSON print where there is nothing, such as `NaN` and `None`."""
    return isinstance(text, str) and text.strip() in _PRINTED_MISSING


def words_of_text(text: Any) -> list[str]:
    """The words of a transcript, a string or bytes; none where it is missing.

    A word is what stands between blanks. Chinese, Japanese, Thai and others are written without them, so each of their
    characters is a word, with the punctuation beside it; `iPhone` in such a text is one too.
    """
    if is_missing(text):
        return []
    text = as_text(text)
    words = text.split()
    if text.isascii() or not _UNSPACED_CHARACTER.search(text):
        return words
    _say_that_characters_are_words()
    return [unit for word in words for unit in _UNITS.findall(word)]


def words_of_transcript(text: Any) -> list[str]:
    """As [`words_of_text`], but none where somebody printed a missing value: `NaN` or `None` as the whole text."""
    if is_printed_missing(text):
        _say_that_printed_texts_are_missing(text.strip())
        return []
    return words_of_text(text)


@functools.cache  # says it once
def _say_that_characters_are_words() -> None:
    logger.warning(
        "texts in a script without blanks between words: each character is taken for a word; "
        "to divide them otherwise, give lists of words"
    )


@functools.cache  # says it once
def _say_that_printed_texts_are_missing(text: str) -> None:
    logger.warning(
        "a text that is only %r is taken for a missing one; if it was said, give it as a list of words", text
    )


def wanted_sizes(source: Source, modalities: Iterable[str] | None) -> dict[str, int]:
    """The wanted modalities of a source and their sizes, in alphabetical order; `timing` is given if it is named.

    Raises:
        DataError: There is no such modality.
    """
    found = dict(source.modality_sizes)
    if modalities is None:
        return found
    if source.timed:
        found.setdefault("timing", len(TIMING_FEATURES))
    wanted = sorted({*modalities} - {"text"})
    if unknown := [name for name in wanted if name not in found]:
        raise DataError(
            f"{source.path}: no modality {unknown[0]!r} in it; its modalities are: {', '.join(['text', *found])}"
        )
    return {name: found[name] for name in wanted}


def with_label_format(
    source: Source,
    *,
    labels: bool | None,
    columns: Sequence[str] = (),
    kind: str | None = None,
    ranges: Sequence[float] | None = None,
    known: LabelFormat | None = None,
    of_all_splits: bool = False,
) -> Source:
    """The source with its `label_format`, found from the labels of its training split, or of all where it has none.

    Args:
        source: What a reader has opened.
        labels: Whether labels are wanted. None: they are given where they are right, and so numbers if nothing else is
            said.
        columns: The columns of the label that were asked for.
        kind: See [`find_format`].
        ranges: See [`find_format`].
        known: What the labels are, where that need not be found.
        of_all_splits: Whether the labels of all splits count.

    Raises:
        DataError: As for [`find_format`], or a number was asked for that the files do not have.
    """
    if labels is False or known is not None:
        return source._replace(label_format=known or SENTIMENT)
    said = source.label_format
    if said is not None and ranges is None and kind in (None, said.kind):
        return source
    kind = kind if labels or kind else "number"
    if source.labels is None:
        if unknown := [name for name in columns if name not in MOSEI_LABELS]:
            raise DataError(
                f"{source.path}: no label {unknown[0]!r} in it; of {source.format} data, labels may be "
                f"{', '.join(MOSEI_LABELS)}"
            )
        if columns:
            source = source._replace(rows=functools.partial(_rows_with_named_labels, source.rows))
    shards: Iterable[Any] = ()
    if source.labels is not None or kind in ("class", "classes"):
        train = () if of_all_splits else source.splits.get(SPLITS[0], ())
        shards = train or itertools.chain(*source.splits.values())
    read = source.labels or functools.partial(_labels_of_rows, source.rows)
    try:
        found = find_format(
            itertools.chain.from_iterable(map(read, shards)),
            kind=kind, names=columns, ranges=ranges, of_mosei=source.labels is None,
        )  # fmt: skip
    except DataError as error:
        raise DataError(f"{source.path}: {error}") from None
    return source._replace(label_format=found)


def _labels_of_rows(rows: Callable[[Any], Iterator[Any]], shard: Any) -> Iterator[Any]:
    return (item.get("label") for item in rows(shard) if isinstance(item, dict))


def _rows_with_named_labels(rows: Callable[[Any], Iterator[Any]], shard: Any) -> Iterator[Row | Skipped | Replaced]:
    """Rows whose label is a record of MOSEI's seven numbers, as far as there are any."""
    for item in rows(shard):
        if isinstance(item, dict) and not has_no_label(item.get("label")):
            with contextlib.suppress(ValueError):  # lists of different lengths, which are no label
                values = np.ravel(item["label"])
                if values.size in LABEL_SIZES:
                    item = item | {"label": dict(zip(MOSEI_LABELS, values.tolist(), strict=False))}
        yield item


def columns_left_out(source: Source) -> str:
    """What is said about the columns of a source that are no part of its rows; nothing where there are none."""
    names: dict[str, list[str]] = {}
    for name, reason in sorted(source.left_out.items()):
        names.setdefault(reason, []).append(name)
    listed = "; ".join(f"{', '.join(names[reason])} ({reason})" for reason in names)
    return f"columns left out: {listed}" if listed else ""


def reasons_left_out(samples: Iterable[tuple[str, str]]) -> list[str]:
    """What is said about samples that are left out, those with like reasons together: `a and 3 more: no words`.

    Args:
        samples: The id of each, and the reason. Reasons that differ in numbers and quoted values alone are alike.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, reason in samples:
        groups.setdefault(re.sub(r"'[^']*'|\"[^\"]*\"|-?\d[\d.e+-]*", "#", reason), []).append((name, reason))
    return [
        f"{name} and {len(others)} more: {reason}" if others else f"{name}: {reason}"
        for (name, reason), *others in groups.values()
    ]


def checked_rows(
    rows: Iterable[Row | Skipped | Replaced],
    modality_sizes: dict[str, int],
    *,
    labels: bool | None = True,
    label_format: LabelFormat = SENTIMENT,
) -> Iterator[Row | Skipped | Replaced | UnusedLabel]:
    """What a reader gives, with each row checked by [`checked_row`], or skipped where it is wrong or empty.

    A row that comes without its label, because that is wrong and none is needed, comes after an [`UnusedLabel`].
    """
    for item in rows:
        if isinstance(item, Skipped | Replaced):
            yield item
        elif _is_empty(item, modality_sizes):
            # Training skips it. For prediction it is an error, because every utterance needs a prediction.
            yield Skipped(item["id"], "neither words nor features", fault=not labels)
        else:
            try:
                row = checked_row(item, modality_sizes, label_format=label_format if labels else None)
            except DataError as error:
                yield Skipped(item["id"], str(error))
                continue
            if labels is None:
                row["label"], fault = label_or_fault(item.get("label"), label_format)
                if fault:
                    yield UnusedLabel(row["id"], item["label"], fault)
            yield row


def checked_row(row: Row, modality_sizes: dict[str, int], *, label_format: LabelFormat | None = SENTIMENT) -> Row:
    """A reader's row with its label checked, its features as arrays, and derived modalities added.

    Args:
        row: As a reader gives it, see `Source.rows`.
        modality_sizes: The wanted modalities and their sizes; one that the row does not have is the derived `timing`.
        label_format: What the label should be, see [`checked_label`]; None where it is not checked.

    Raises:
        DataError: A label is wrong, a string cannot be stored, or features are not numbers of shape (number of words,
            size) or too many. The message does not name the file.
    """
    words = row["words"]
    checked = dict(row)
    check_text(row["id"], row["video_id"], *words)
    if label_format is not None:
        checked["label"] = checked_label(row["label"], label_format)
    if "weight" in row and not 0.0 <= row["weight"] < math.inf:
        raise DataError(f"weight {row['weight']:g} is not a finite number, at least 0; correct it, or leave it empty")
    for name in ("word_start", "word_end"):
        if len(row.get(name, ())):
            _check_one_a_word(len(row[name]), f"values of {name}", len(words))
    num_rows = len(words) or None
    for name, size in modality_sizes.items():
        features = row[name] if name in row else timing_features(row)
        if features is None or not np.size(features):
            checked[name] = np.zeros((0, size), np.float32)
            continue
        features = np.asarray(features)
        if features.dtype.kind not in "fiub":
            raise DataError(f"{name} holds {features.dtype} values and not numbers; correct or remove the sample")
        check_shape(features.shape, name, num_words=num_rows, size=size)
        num_rows = len(features)
        checked[name] = features
    return checked


def check_text(*texts: str) -> None:
    """Raises DataError for a string that Arrow cannot hold: JSON can contain an unpaired surrogate."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        broken = next(text for text in texts if re.search("[\ud800-\udfff]", text))
        raise DataError(
            f"{broken[:80]!r} is not valid text: it has an unpaired surrogate; correct or remove it"
        ) from None


def check_shape(shape: tuple[int, ...], name: str, *, num_words: int | None = None, size: int | None = None) -> None:
    """Checks features by their shape alone, so that they need not be read first.

    Args:
        shape: The shape of the features.
        name: Their modality.
        num_words: The number of words, where it is known.
        size: The size of the modality's feature rows, where it is known.

    Raises:
        DataError: The features are not one row of this size for each word, or too many for a sample.
    """
    if len(shape) != 2:
        raise DataError(
            f"{name} has shape {shape}, and a modality needs one row a word; repeat a vector of the whole utterance "
            "for each word"
        )
    if size is not None and shape[1] != size:
        raise DataError(
            f"{name} has shape {shape}, and the other samples have {size} values a word; correct or remove the sample"
        )
    if math.prod(shape) > MAX_VALUES:
        raise DataError(f"{name} has shape {shape}, which is more than {MAX_VALUES} values; cut or remove the sample")
    if num_words is not None:
        _check_one_a_word(shape[0], f"rows of {name}", num_words)


def _check_one_a_word(count: int, what: str, num_words: int) -> None:
    if count != num_words:
        raise DataError(f"{count} {what} for {num_words} words; give one for each word")


def _is_empty(row: Row, modality_sizes: dict[str, int]) -> bool:
    """Whether a row has neither words nor any feature row of the wanted modalities."""
    return not row["words"] and all(row.get(name) is None or not len(row[name]) for name in modality_sizes)
