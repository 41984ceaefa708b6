"""How a split in the row format is read: what its modalities are, and what each sample has of them.

A modality is an `Array2D((None, size))` column with one row a word. The column's `id` names the extractor that made
the features, and a sample that lacks the modality has an array of shape `(0, size)`. Only this module and
`arrow_rows`, which makes such columns, know that.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from datasets import Array2D, Dataset, Features, IterableDataset, List


ROWS_AT_ONCE = 64


class Split(Protocol):
    """What is read of a split: a `datasets.Dataset`, an `IterableDataset`, or anything that stands for one of them."""

    features: Features

    def select_columns(self, column_names: list[str]) -> Dataset | IterableDataset:
        """The same rows with these columns alone."""


def read_columns(split: Split, names: list[str]) -> Iterator[pa.Table]:
    """Reads columns of a split in its order, as Arrow tables of at most `ROWS_AT_ONCE` rows."""
    return split.select_columns(names).with_format("arrow").iter(batch_size=ROWS_AT_ONCE)


def modality_sizes(split: Split) -> dict[str, int]:
    """The size of a feature row of each modality of a split but text, by the modality's name.

    Raises:
        ValueError: A column holds lists of lists, whose size is not known.
    """
    for name, column in split.features.items():
        if isinstance(column, List) and isinstance(column.feature, List):
            raise ValueError(
                f"column {name} holds lists of lists; cast it to datasets.Array2D((None, size), 'float32') to make it "
                "a modality, or remove it"
            )
    return {name: column.shape[1] for name, column in split.features.items() if isinstance(column, Array2D)}


def feature_extractors(split: Split) -> dict[str, str]:
    """What made the features of each modality of a split, for those modalities whose source says it."""
    return {name: column.id for name, column in split.features.items() if isinstance(column, Array2D) and column.id}


def feature_rows(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    """The array of shape (n, size) of each sample in a modality's column, without copies."""
    size = column.type.shape[1]
    for chunk in column.chunks:
        lists = chunk.storage
        if len(lists):
            rows = lists.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
            yield from np.split(rows, np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))[:-1])


def modality_rows(split: Split, name: str) -> Iterator[np.ndarray]:
    """The features of one modality, of shape (n, size), of each sample of a split."""
    for table in read_columns(split, [name]):
        yield from feature_rows(table[name])


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table by column; features are arrays of shape (n, size), without copies."""
    columns = [
        list(feature_rows(column)) if isinstance(column.type, pa.ExtensionType) else column.to_pylist()
        for column in table.columns
    ]
    return [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def row_counts(split: Dataset, column: str) -> np.ndarray:
    """How many words, tokens or feature rows each of N samples has in a column, of shape (N,).

    The counts are read from Arrow's offsets, so the values themselves are not touched.
    """
    values = split.select_columns(column).with_format("arrow")[:][column]
    counts = [np.zeros(0, int)]
    for chunk in values.chunks:
        lists = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        counts.append(lists.value_lengths().to_numpy(zero_copy_only=False))
    return np.concatenate(counts)


def present_modalities(split: Split, modalities: Iterable[str], *, text: bool) -> list[list[str]]:
    """Which of some modalities each sample of a split has.

    Args:
        split: The split.
        modalities: The columns to look at.
        text: Whether words count as the modality `text`.

    Returns:
        The names of the modalities of each sample.
    """
    names, present = list(modalities), []
    for table in read_columns(split, ["words", *names]):
        given = {name: [len(rows) > 0 for rows in feature_rows(table[name])] for name in names}
        if text:
            given["text"] = [len(words) > 0 for words in table["words"].to_pylist()]
        present += [list(itertools.compress(given, flags)) for flags in zip(*given.values(), strict=True)]
    return present
