"""Checked rows as Arrow tables, and the `datasets.Features` of their columns."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Array2D, ClassLabel, Features, List, Value

from .labels import SENTIMENT, LabelFormat, noted_format, noted_number
from .rows import Row


ROWS_PER_TABLE = 256
BYTES_PER_TABLE = 64 * 2**20


def row_features(
    modality_sizes: dict[str, int],
    timed: bool,
    *,
    label_format: LabelFormat | None = SENTIMENT,
    feature_extractors: Mapping[str, str] = MappingProxyType({}),
    weighted: bool = False,
    group: str | None = None,
) -> Features:
    """The columns of a dataset in the row format.

    Args:
        modality_sizes: The size of a feature row of each modality.
        timed: Whether rows have the times of segments and words.
        label_format: What the labels are; None where rows have none.
        feature_extractors: The program that extracted a modality's features, where it is known.
        weighted: Whether rows have weights.
        group: The column by which samples are grouped, beside `video_id`.
    """
    features = {"id": Value("string"), "video_id": Value("string"), "words": List(Value("string"))}
    features |= {
        name: Array2D((None, size), "float32", id=feature_extractors.get(name))
        for name, size in modality_sizes.items()
    }
    if label_format is not None:
        features["label"] = _label_feature(label_format)
    if weighted:
        features["weight"] = Value("float32")
    if group is not None:
        features[group] = Value("string")
    if timed:
        features |= {"start": Value("float32"), "end": Value("float32")}
        features |= {"word_start": List(Value("float32")), "word_end": List(Value("float32"))}
    return Features(features)


def _label_feature(label_format: LabelFormat) -> Any:
    if label_format.kind == "class":
        return ClassLabel(names=list(label_format.names))
    if label_format.kind == "classes":
        return List(ClassLabel(names=list(label_format.names)))
    numbers = {
        name: Value("float32", id=noted_number(name, bounds))
        for name, bounds in zip(label_format.names, label_format.ranges, strict=True)
    }
    return numbers if label_format.kind == "numbers" else next(iter(numbers.values()))


def label_format_of(features: Mapping[str, Any]) -> LabelFormat | None:
    """What the column `label` of a data set holds; None where there is no such column.

    Args:
        features: The columns, as [`row_features`] or anybody else makes them: `Value`, `ClassLabel`, a list of
            `ClassLabel`, or a dict of `Value` by name.
    """
    if "label" not in features:
        return None
    return noted_format(Features({"label": features["label"]}).to_dict()["label"]) or SENTIMENT


def row_batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Groups rows into one batch for each Arrow table; large rows make smaller batches, so that memory is bounded."""
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += sum(value.nbytes for value in row.values() if isinstance(value, np.ndarray))
        # `datasets` gathers tables of one row in memory, so a table has at least two.
        if len(batch) == ROWS_PER_TABLE or (size >= BYTES_PER_TABLE and len(batch) > 1):
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def rows_to_table(rows: list[Row], features: Features) -> tuple[pa.Table, Counter[str]]:
    """An Arrow table of checked rows, and how many non-finite values of each modality became 0."""
    replaced: Counter[str] = Counter()
    columns = []
    for name, feature in features.items():
        values = [row[name] for row in rows]
        if isinstance(feature, Array2D):
            column, replaced[name] = _array_column(values, feature)
        elif name == "label":
            column = _label_column(values, feature, features)
        elif isinstance(feature, List):
            column = _list_column(values, feature)
        else:
            column = pa.array(values, pa.type_for_alias(feature.dtype))
        columns.append(column)
    return pa.table(columns, schema=features.arrow_schema), +replaced


def _offsets(lengths: Iterable[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(list(lengths))]).astype(np.int32)


def _label_column(labels: list[Any], feature: Any, features: Features) -> pa.Array:
    if isinstance(feature, ClassLabel):
        numbers = _numbers_of(feature)
        labels = [None if label is None else numbers[label] for label in labels]
    elif isinstance(feature, List):
        numbers = _numbers_of(feature.feature)
        labels = [None if label is None else [numbers[name] for name in label] for label in labels]
    return pa.array(labels, features.arrow_schema.field("label").type)


def _numbers_of(feature: ClassLabel) -> dict[str, int]:
    return {name: number for number, name in enumerate(feature.names)}


def _list_column(lists: list[list], feature: List) -> pa.Array:
    flat = pa.array([value for values in lists for value in values], pa.type_for_alias(feature.feature.dtype))
    return pa.ListArray.from_arrays(pa.array(_offsets(map(len, lists))), flat)


def _array_column(arrays: list[np.ndarray], feature: Array2D) -> tuple[pa.Array, int]:
    size = feature.shape[1]
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is counted below
        values = np.concatenate(arrays, dtype=np.float32, casting="unsafe").reshape(-1)
    finite = np.isfinite(values)
    replaced = values.size - int(finite.sum())
    if replaced:
        values[~finite] = 0
    inner = pa.ListArray.from_arrays(pa.array(np.arange(0, values.size + 1, size, dtype=np.int32)), pa.array(values))
    outer = pa.ListArray.from_arrays(pa.array(_offsets(map(len, arrays))), inner)
    return pa.ExtensionArray.from_storage(feature(), outer), replaced
