"""What a label is: one number, several by name, one of some classes, or any of them; how that is found, and checked"""

import contextlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .files import DataError, counted
from .label_options import KINDS


Range = tuple[float, float]

LABEL_RANGE: Range = (-3.0, 3.0)  # of a sentiment
# The seven labels of CMU-MOSEI in the order of its files; where there is one value, it is the first of them.
MOSEI_LABELS = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
LABEL_SIZES = (1, len(MOSEI_LABELS))
MAX_CLASSES = 1000

_EMOTION_RANGE: Range = (0.0, 3.0)  # of MOSEI's emotions
_BETWEEN_CLASSES = ";"  # in a text that names several
_MOST_SHOWN = 30
_LIKE_NUMBER = re.compile(r"\s*[-+]?[\d.,]*\d\s*")  # with a decimal comma too, which is then an error and no class
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control characters, halves of others
_MISSING = "its label is missing (empty or NaN); add it or remove the sample"


class LabelFormat(NamedTuple):
    """What the labels of a data set are.

    Attributes:
        kind: `number`; `numbers`, several by name; `class`, one of some; or `classes`, any of some.
        names: The names of the numbers, or of the classes in their order.
        ranges: The least and the greatest value of each number, None for any finite one; of classes none.
    """

    kind: str = "number"
    names: tuple[str, ...] = MOSEI_LABELS[:1]
    ranges: tuple[Range | None, ...] = (LABEL_RANGE,)


SENTIMENT = LabelFormat()


def default_range(name: str, *, of_mosei: bool = False) -> Range | None:
    """The range of one of several numbers for which none is given: that of a sentiment, or none.

    Args:
        name: The name of the number.
        of_mosei: Whether the emotions are those of CMU-MOSEI, from 0 to 3.
    """
    if name == MOSEI_LABELS[0]:
        return LABEL_RANGE
    return _EMOTION_RANGE if of_mosei and name in MOSEI_LABELS else None


def classes_text(format: LabelFormat) -> str:
    """The classes of a format as messages show them: `one of 2 classes: happy, sad`."""
    listed = ", ".join(format.names[:_MOST_SHOWN]) + (", ..." if len(format.names) > _MOST_SHOWN else "")
    return f"{'one' if format.kind == 'class' else 'any'} of {counted(len(format.names), 'class')}: {listed}"


def range_text(bounds: Range) -> str:
    """A range as messages show it: `[0, 1]`."""
    return "[{:g}, {:g}]".format(*bounds)


def has_no_label(label: Any) -> bool:
    """Whether a label says that there is none: None, NaN, an empty text, an array of NaN, or a record of such."""
    if isinstance(label, np.ndarray):
        return label.dtype.kind == "f" and label.size > 0 and bool(np.isnan(label).all())
    if isinstance(label, dict):
        return bool(label) and all(map(has_no_label, label.values()))
    return label is None or (isinstance(label, float) and math.isnan(label)) or (isinstance(label, str) and not label)


# Finding what the labels are


def find_format(
    labels: Iterable[Any],
    *,
    kind: str | None = None,
    names: Sequence[str] = (),
    ranges: Sequence[float] | None = None,
    of_mosei: bool = False,
) -> LabelFormat:
    """What the labels of a training split are.

    Args:
        labels: The labels, as a reader gives them; read as far as they are needed.
        kind: One of `KINDS`; None to tell by the labels. They are numbers if any is one, several numbers if they are
            records, and else classes: of two texts or more, or lists of texts.
        names: The columns or fields that hold the label. Several are several numbers; or, of the kind `classes`, those
            are the classes of a sample whose number is above 0.
        ranges: The least and the greatest value; of several numbers for each in turn, or once for all.
        of_mosei: See [`default_range`].

    Raises:
        DataError: An option is wrong, two contradict each other, or there are too many classes.
    """
    if kind is not None and kind not in KINDS:
        raise DataError(f"label_kind={kind!r} is none of {', '.join(KINDS)}")
    if len(names) > 1:
        if kind == "class":
            raise DataError(f"label_kind=class takes one column, and labels names {', '.join(names)}; name one")
        found = kind or "numbers"
        found = "numbers" if found == "number" else found
        return _with_ranges(found, tuple(names), ranges, of_mosei=of_mosei)
    if kind is None or kind in ("class", "classes"):
        seen = _look_at(labels, kind)
        if seen.kind != "number":
            return _with_ranges(seen.kind, seen.names, ranges, of_mosei=of_mosei)
    return _with_ranges("number", tuple(names) or SENTIMENT.names, ranges, of_mosei=of_mosei)


def _with_ranges(kind: str, names: tuple[str, ...], given: Sequence[float] | None, *, of_mosei: bool) -> LabelFormat:
    if unusable := [name for name in names if _UNUSABLE.search(name)]:
        raise DataError(f"label {unusable[0]!r} has a name that cannot be used; rename it")
    if kind in ("class", "classes"):
        if given is not None:
            raise DataError("label_range: the labels are classes, which have no range; leave it out")
        return LabelFormat(kind, names, ())
    if given is None:
        if kind == "number":
            return LabelFormat(kind, names, (default_range(names[0], of_mosei=of_mosei) or LABEL_RANGE,))
        return LabelFormat(kind, names, tuple(default_range(name, of_mosei=of_mosei) for name in names))
    pairs = [(float(low), float(high)) for low, high in zip(given[::2], given[1::2], strict=False)]
    if len(given) % 2 or len(pairs) not in (1, len(names)) or not all(-math.inf < a < b < math.inf for a, b in pairs):
        shown = " ".join(f"{value:g}" for value in given)
        raise DataError(
            f"label_range={shown}: give the least and the greatest label, as in -1 1"
            + (f", for all or for each of {', '.join(names)} in turn" if len(names) > 1 else "")
        )
    return LabelFormat(kind, names, tuple(pairs * (len(names) // len(pairs))))


class _Seen(NamedTuple):
    kind: str
    names: tuple[str, ...] = ()


def _look_at(labels: Iterable[Any], kind: str | None) -> _Seen:
    """The kind of labels, if it is not given, and the names of classes in alphabetical order."""
    texts: Counter[str] = Counter()
    listed: set[str] = set()
    has_lists = False
    for label in labels:
        if has_no_label(label):
            continue
        if kind is None and isinstance(label, dict) and label:
            return _Seen("numbers", tuple(label))
        if _is_list_of_texts(label):
            has_lists = True
            listed.update(filter(None, map(_name_or_nothing, label)))
        elif kind is not None or (isinstance(label, str) and not _is_number(label)):
            texts[_name_or_nothing(label)] += 1
        else:
            return _Seen("number")
        if len(texts) + len(listed) > MAX_CLASSES:
            raise DataError(
                f"the label has more than {MAX_CLASSES} different values, among them {next(iter(texts or listed))!r}; "
                "a label is a number, or the name of one of some classes"
            )
    if kind is None and len(texts) < 2 and not listed:
        return _Seen("number")
    found = kind or ("classes" if has_lists else "class")
    names = listed.union(*map(_names_of_text, texts)) if found == "classes" else listed | texts.keys()
    return _Seen(found, tuple(sorted(names - {""})))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return bool(_LIKE_NUMBER.fullmatch(text))
    return True


def _is_list_of_texts(label: Any) -> bool:
    is_list = isinstance(label, list | tuple) or getattr(label, "ndim", 0) == 1
    return is_list and all(isinstance(item, str) for item in label)


def _name_or_nothing(label: Any) -> str:
    try:
        return class_name(label)
    except DataError:
        return ""


def class_name(label: Any) -> str:
    """The class that a label names: a text without the blanks around it, a whole number, or an array of one of them.

    Raises:
        DataError: It is something else, empty, or has control characters.
    """
    if isinstance(label, np.ndarray) and label.size == 1:
        label = label.item()
    if isinstance(label, str):
        name = label.strip()
    elif isinstance(label, bool | np.bool_):
        name = str(bool(label))
    elif isinstance(label, int | np.integer) or (isinstance(label, float | np.floating) and label.is_integer()):
        name = str(int(label))
    else:
        raise DataError(f"label {str(label)[:80]!r} is not the name of a class; write one text or whole number")
    if not name or _UNUSABLE.search(name):
        raise DataError(f"label {name[:80]!r} is not the name of a class; write it in one line")
    return name


def _names_of_text(text: str) -> set[str]:
    return {part.strip() for part in text.split(_BETWEEN_CLASSES)}


def class_warnings(format: LabelFormat) -> list[str]:
    """What is said of classes that differ in case or in how characters are written only, or that look like several."""
    if format.kind not in ("class", "classes"):
        return []
    alike: dict[str, list[str]] = {}
    for name in format.names:
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    said = [
        f"{' and '.join(map(repr, names))} differ in case or in how characters are written only, and are different "
        "classes; write them alike if they are not"
        for names in alike.values()
        if len(names) > 1
    ]
    joined = [name for name in format.names if _BETWEEN_CLASSES in name]
    if joined:
        said.append(
            f"{counted(len(joined), 'class')} with a semicolon, the first is {joined[0]!r}; if these are "
            "several classes of a sample, give --label_kind classes"
        )
    return said


# The check of a label


def checked_label(label: Any, format: LabelFormat = SENTIMENT) -> Any:
    """A label as a float, a dict of floats by name, the name of its class, or a list of names in their order.

    Args:
        label: As a reader gives it. One number may be an array of one value or of MOSEI's seven, of which sentiment is
            the first. Several classes may be a text with semicolons.
        format: What it should be.

    Raises:
        DataError: The label is missing or something else. The message does not name the file.
    """
    if has_no_label(label):
        raise DataError(_MISSING)
    if format.kind == "number":
        return _checked_number(label, format)
    if format.kind == "numbers":
        return _checked_numbers(label, format)
    return _checked_class(label, format) if format.kind == "class" else _checked_classes(label, format)


def label_or_fault(label: Any, format: LabelFormat = SENTIMENT) -> tuple[Any, str]:
    """A label where it is right, else what is wrong with it; neither where it is missing."""
    try:
        return (None if has_no_label(label) else checked_label(label, format)), ""
    except DataError as error:
        return None, str(error)


def _checked_number(label: Any, format: LabelFormat) -> float:
    [name], [bounds] = format.names, format.ranges
    if isinstance(label, dict) and label:
        return _number_in(label.get(name), name, bounds)
    if isinstance(label, str) and _is_number(label) and "," not in label:
        label = float(label)
    try:
        values = np.asarray(label)
    except ValueError:  # lists of different lengths
        values = np.empty(0)
    if values.dtype.kind not in "fiub" or values.size not in LABEL_SIZES:
        raise DataError(
            f"label {str(label)[:80]!r} is not a number, or sentiment and six emotions; write {name} as a number in "
            f"{range_text(bounds or LABEL_RANGE)}, or give --label_kind class if labels are names of classes"
        )
    return _in_range(float(values.reshape(-1)[0]), "label", bounds)


def _checked_numbers(label: Any, format: LabelFormat) -> dict[str, float]:
    if not isinstance(label, dict):
        raise DataError(f"label {str(label)[:80]!r} is not a record of {', '.join(format.names)}; write all of them")
    return {
        name: _number_in(label.get(name), name, bounds)
        for name, bounds in zip(format.names, format.ranges, strict=True)
    }


def _number_in(value: Any, name: str, bounds: Range | None) -> float:
    if has_no_label(value):
        raise DataError(f"its label {name} is missing; add it or remove the sample")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"label {name} {str(value)[:80]!r} is not a number; correct or remove the sample") from None
    return _in_range(number, f"label {name}", bounds)


def _in_range(value: float, what: str, bounds: Range | None) -> float:
    low, high = bounds or (-math.inf, math.inf)
    if not (low <= value <= high and math.isfinite(value)):
        is_outside = f"is outside of {range_text((low, high))}" if bounds else "is not a finite number"
        raise DataError(
            f"{what} {value:g} {is_outside}; correct or remove the sample, or scale all labels to this range, or give "
            "theirs (--label_range)"
        )
    return value


def _checked_class(label: Any, format: LabelFormat) -> str:
    name = class_name(label)
    if name not in format.names:
        raise DataError(
            f"label {name[:80]!r} is not {classes_text(format)} (those of the training split); correct or remove the "
            "sample"
        )
    return name


def _checked_classes(label: Any, format: LabelFormat) -> list[str]:
    if isinstance(label, dict):
        return [name for name in format.names if _number_in(label.get(name), name, None) > 0]
    if isinstance(label, str):
        label = [part for part in label.split(_BETWEEN_CLASSES) if part.strip()]
    if not isinstance(label, list | tuple | np.ndarray):
        label = [label]
    given = {_checked_class(item, format) for item in label}
    return [name for name in format.names if name in given]


def label_text(label: Any) -> str:
    """A checked label as reports show it."""
    if isinstance(label, dict):
        return ", ".join(f"{name} {value:+.2f}" for name, value in label.items())
    if isinstance(label, list):
        return f"{_BETWEEN_CLASSES} ".join(label) or "none"
    return label if isinstance(label, str) else f"{label:+.2f}"


# Notes of the format in the columns of a data set


def noted_number(name: str, bounds: Range | None) -> str | None:
    """What a column of numbers says of itself; None for a sentiment."""
    return None if (name.lower(), bounds) == (SENTIMENT.names[0], LABEL_RANGE) else json.dumps({name: bounds})


def noted_format(label: Any) -> LabelFormat | None:
    """What the notes of `datasets` say that a column of labels holds; None where they do not say it.

    Args:
        label: The notes of the column as JSON, which anybody can write: of a `ClassLabel` or a list of them, of a
            `Value` with a note of ours, or of such by name.
    """
    with contextlib.suppress(TypeError, ValueError, AttributeError, LookupError):
        if (kind := label.get("_type")) == "Value":
            return LabelFormat("number", *zip(*_noted_number(label["id"]).items(), strict=True))
        if kind is not None:
            classes = label if kind == "ClassLabel" else label["feature"]
            if classes["_type"] == "ClassLabel" and (names := tuple(map(class_name, classes["names"]))):
                return LabelFormat("class" if classes is label else "classes", names, ())
        elif label and all(value["_type"] == "Value" and value["dtype"] != "string" for value in label.values()):
            ranges = {
                name: next(iter(_noted_number(value["id"]).values())) if value.get("id") else default_range(name)
                for name, value in label.items()
            }
            return LabelFormat("numbers", tuple(ranges), tuple(ranges.values()))
    return None


def _noted_number(note: str) -> dict[str, Range | None]:
    [(name, bounds)] = json.loads(note).items()
    if bounds is None:
        return {name: None}
    low, high = map(float, bounds)
    if not low < high:
        raise ValueError(note)
    return {name: (low, high)}


__all__ = [
    "LABEL_RANGE",
    "LABEL_SIZES",
    "MAX_CLASSES",
    "MOSEI_LABELS",
    "SENTIMENT",
    "LabelFormat",
    "Range",
    "checked_label",
    "class_name",
    "class_warnings",
    "classes_text",
    "default_range",
    "find_format",
    "has_no_label",
    "label_or_fault",
    "label_text",
    "noted_format",
    "noted_number",
    "range_text",
]
