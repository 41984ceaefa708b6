"""Describes the content of data, without `datasets`, which takes longer to import than most data to read."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .files import DataError, counted
from .formats.recognition import open_source
from .labels import LABEL_RANGE, SENTIMENT, LabelFormat, class_warnings, label_text, range_text
from .leaks import leak_search
from .names import locate
from .rows import (
    Replaced,
    Row,
    Skipped,
    Source,
    UnusedLabel,
    checked_rows,
    columns_left_out,
    reasons_left_out,
    wanted_sizes,
)


_ROWS_SHOWN = 2  # of each split


@dataclass
class _Split:
    """What a report says about the samples of a split."""

    names: dict[str, list[str]] = field(default_factory=lambda: {"id": [], "video_id": []})
    labels: list[Any] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    first_rows: list[str] = field(default_factory=list)


@dataclass
class _Content:
    """What a report says about all splits."""

    sizes: dict[str, int]
    label_format: LabelFormat = SENTIMENT
    splits: dict[str, _Split] = field(default_factory=dict)
    replaced: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    unused_labels: list[UnusedLabel] = field(default_factory=list)


def inspect(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    labels: bool | Sequence[str] = True,
    **options: Any,
) -> str:
    """A report on data: format, splits, sizes, labels, lengths, faults, leaks and a few rows.

    Bad samples are listed and do not stop the report. Where no labels can be read, the report says why and is about
    the rest.

    Args:
        name_or_path: See `load_aligned_dataset`.
        data_dir: See `load_aligned_dataset`.
        labels: Whether labels are to be read, or from which columns.
        options: `format`, `modalities`, `feature_sequences`, `folds`, `label_kind` and `label_range`, see
            `load_aligned_dataset`.

    Raises:
        DataError: The data cannot be read at all.
    """
    path, format = locate(name_or_path, data_dir)
    options |= {} if format is None else {"format": format}
    unlabelled = [] if labels else ["labels: not read"]
    try:
        source = open_source(path, labels=labels, **options)
        content = _read(source, options.get("modalities"), labels=bool(labels))
    except DataError as error:
        if not labels:
            raise
        try:
            source = open_source(path, labels=False, **options)
            content = _read(source, options.get("modalities"), labels=False)
        except DataError:
            raise error from None
        unlabelled = [f"labels: none ({error})"]
    if labels and content.skipped and not any(split.lengths for split in content.splits.values()):
        without = _read(source, options.get("modalities"), labels=None)
        if any(split.lengths for split in without.splits.values()):  # the labels are what is wrong
            content, unlabelled = without, [_unusable(without)]
    return "\n".join([f"{name_or_path}: {source.format}", *unlabelled, *_report(content, columns_left_out(source))])


def _read(source: Source, modalities: Iterable[str] | None, *, labels: bool | None) -> _Content:
    label_format = source.label_format or SENTIMENT
    content = _Content(wanted_sizes(source, modalities), label_format)
    for name, shards in source.splits.items():
        split = content.splits[name] = _Split()
        rows = itertools.chain.from_iterable(map(source.rows, shards))
        for item in checked_rows(rows, content.sizes, labels=labels, label_format=label_format):
            if isinstance(item, Replaced):
                content.replaced[item.modality] += int(item.num_values)
            elif isinstance(item, Skipped):
                content.skipped.append(item)
            elif isinstance(item, UnusedLabel):
                content.unused_labels.append(item)
            else:
                _add(item, split, content)
    return content


def _add(row: Row, split: _Split, content: _Content) -> None:
    for column, names in split.names.items():
        names.append(row[column])
    label = row.get("label")
    if label is not None:
        split.labels.append(label)
    split.lengths.append(max(len(row[name]) for name in ("words", *content.sizes)))
    for name in content.sizes:
        split.missing[name] += not len(row[name])
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            content.replaced[name] += int((~np.isfinite(row[name].astype(np.float32))).sum())
    if len(split.first_rows) < _ROWS_SHOWN:
        shown = "" if label is None else f" [{label_text(label)}]"
        shapes = ", ".join(f"{name} {row[name].shape}" for name in content.sizes)
        split.first_rows.append(f"  {row['id']}{shown} {' '.join(row['words'])[:80]!r} {shapes}")


def _report(content: _Content, left_out: str) -> list[str]:
    lines = []
    for name, split in content.splits.items():
        videos = set(split.names["video_id"])
        lines += ["", f"{name}: {counted(len(split.lengths), 'sample')} of {counted(len(videos), 'video')}"]
        lines += _split_lines(split, content) if split.lengths else []
    lines += ["", "non-finite values replaced with 0: " + (_listed(+content.replaced) or "none")]
    lines += [f"left out: {counted(len(content.skipped), 'sample')}"]
    lines += [f"  {line}" for line in reasons_left_out((item.id, item.reason) for item in content.skipped)[:20]]
    lines += [*filter(None, [left_out]), *class_warnings(content.label_format)]
    lines += _leaks({name: split.names for name, split in content.splits.items()})
    first_rows = itertools.chain.from_iterable(split.first_rows for split in content.splits.values())
    return [*lines, "", "first rows:", *first_rows]


def _split_lines(split: _Split, content: _Content) -> list[str]:
    lines = [
        f"  {name}: {size} values a word, missing in {counted(split.missing[name], 'sample')}"
        for name, size in content.sizes.items()
    ]
    if split.labels:
        lines += _label_lines(split.labels, content.label_format)
    return [*lines, f"  words: {min(split.lengths)} to {max(split.lengths)}, median {int(np.median(split.lengths))}"]


def _label_lines(labels: list[Any], label_format: LabelFormat) -> list[str]:
    if not label_format.ranges:
        lists = [[label] if isinstance(label, str) else label for label in labels]
        counts = Counter(itertools.chain.from_iterable(lists))
        return [f"  labels: {_listed({name: counts[name] for name in label_format.names})}"]
    if label_format.kind == "numbers":
        return [f"  label {name}: {_moments([label[name] for label in labels])}" for name in label_format.names]
    low, high = label_format.ranges[0] or LABEL_RANGE
    classes = np.arange(math.floor(low), math.ceil(high) + 1)
    counted_labels, _ = np.histogram(labels, [*(classes - 0.5), classes[-1] + 0.5])
    listed = _listed({f"{value:g}": count for value, count in zip(classes, counted_labels, strict=True)})
    return [f"  labels: {listed}", f"  labels: {_moments(labels)}"]


def _moments(labels: list[float]) -> str:
    values = np.asarray(labels)
    return f"mean {values.mean():.3f}, deviation {values.std():.3f}, zero {int((values == 0).sum())}"


def _unusable(content: _Content) -> str:
    """What is said of labels none of which can be used: what they are, and what can be done about it."""
    labels, label_format = content.unused_labels, content.label_format
    try:
        values = np.array([float(np.ravel(item.label)[0]) for item in labels])
    except (TypeError, ValueError, IndexError, OverflowError):
        values = np.array([np.nan])
    if not labels:
        found = "empty cells"
    elif np.isfinite(values).all():
        found = f"{counted(len(labels), 'number')} from {values.min():g} to {values.max():g}"
    else:
        found = f"{counted(len(labels), 'value')}, the first {str(labels[0].label)[:40]!r} of sample {labels[0].id}"
    wanted, way_out = "that can be used", "correct them"
    if label_format.kind == "number":
        wanted = f"in {range_text(label_format.ranges[0] or LABEL_RANGE)}"
        way_out = "write sentiment as numbers in this range, or give their range (--label_range)"
    return (
        f"labels: none {wanted}, but {found}; to train, {way_out}; to predict use cpsl predict, to inspect or convert "
        "the rest give --no_labels"
    )


def _leaks(splits: dict[str, dict[str, list[str]]]) -> list[str]:
    with leak_search() as search:
        for name, names in splits.items():
            search.add(name, names["id"], names["video_id"])
        repeated, shared = search.repeated_ids(), search.shared_videos()
    return [
        f"ids that occur more than once: {repeated.number} {' '.join(repeated.first)}".rstrip(),
        f"videos in more than one split: {shared.number} {' '.join(shared.first)}".rstrip(),
    ]


def _listed(counts: dict) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())
