"""A split that is read and encoded while it is used, in constant memory."""

import os
from typing import Any

import pyarrow as pa
import torch
from datasets import DatasetInfo, Features, IterableDataset

from data_builders.columns import ROWS_AT_ONCE, feature_rows, read_columns

from ..processing_cpsl import CPSLProcessor, warn_truncated


SHUFFLE_BUFFER = 512


class EncodedStream(torch.utils.data.Dataset):
    """A streamed split with a length and with rows as [`encode_dataset`] gives them.

    A row is found by reading on to it, so indices must rise: a step back starts again at the first row. In the order
    of a sequential sampler every epoch is one pass, and ranks and workers share the rows out as they do with any
    dataset: each reads the whole stream and encodes what it is asked for.

    Args:
        name: The split's name.
        stream: The split in the row format of `data_builders`; read once here, to count its rows and tokens.
        processor: Its tokenizer and lengths.
        seed: Shuffles in a buffer of `SHUFFLE_BUFFER` rows, and shards among each other, anew in each epoch. Default:
            the order of the data.
    """

    def __init__(self, name: str, stream: IterableDataset, processor: CPSLProcessor, seed: int | None = None):
        self.source, self.processor = stream, processor
        ordered = stream if seed is None else stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        self.stream = ordered.with_format("arrow")
        lengths = [length for table in read_columns(stream, self._columns()) for length in self._token_counts(table)]
        warn_truncated(lengths, processor.max_length, f"{name} split")
        self.num_rows = len(lengths)
        self._start, self._rows, self._tables, self._opened_for = 0, [], None, None

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.num_rows:
            raise IndexError(index)
        # A worker process has a copy of the iterator that it cannot share, and another epoch is another order.
        if index < self._start or self._opened_for != (os.getpid(), self.stream.epoch):
            self._start, self._rows, self._tables = 0, [], self.stream.iter(batch_size=ROWS_AT_ONCE)
            self._opened_for = (os.getpid(), self.stream.epoch)
        while index >= self._start + len(self._rows):
            self._start += len(self._rows)
            self._rows = self._decoded(next(self._tables, None))
        return self._encoded(self._rows[index - self._start])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": [], "_tables": None, "_opened_for": None}

    @property
    def info(self) -> DatasetInfo:
        """As of any split of `datasets`."""
        return self.source.info

    @property
    def features(self) -> Features:
        """The columns of the data, before it is encoded."""
        return self.source.features

    def select_columns(self, column_names: list[str]) -> IterableDataset:
        """The rows of the data with these columns alone, before they are shuffled and encoded."""
        return self.source.select_columns(column_names)

    def _columns(self) -> list[str]:
        return ["words"] if self.processor.use_text else list(self.processor.modality_sizes)

    def set_epoch(self, epoch: int) -> None:
        """Decides the order of a shuffled stream; `Trainer` calls it."""
        self.stream.set_epoch(epoch)

    def _token_counts(self, table: pa.Table) -> list[int]:
        """Length of each row's input before it is cut."""
        if self.processor.use_text:
            return self.processor.count_tokens(table["words"].to_pylist())
        rows = zip(*(feature_rows(table[name]) for name in self.processor.modality_sizes), strict=True)
        return [max(map(len, features)) for features in rows]

    def _decoded(self, table: pa.Table | None) -> list[dict[str, Any]]:
        if table is None:
            raise RuntimeError(f"the stream ended after {self._start} rows of {self.num_rows}: the data has changed")
        columns = {name: table[name].to_pylist() for name in ("id", "label", "words") if name in table.column_names}
        columns |= {name: list(feature_rows(table[name])) for name in self.processor.modality_sizes}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _encoded(self, row: dict[str, Any]) -> dict[str, Any]:
        processor, row = self.processor, dict(row)
        words = row.pop("words")
        features = {name: row[name] for name in processor.modality_sizes}
        if not processor.use_text:
            length = min(max(map(len, features.values())), processor.max_length)
            return {**row, "word_index": list(range(length))}
        named = {name: [rows] for name, rows in features.items()}
        processor.check_features([words], named, [f"sample {row['id']}"])
        return row | {name: rows[0] for name, rows in processor.encode_words([words]).items()}


__all__ = ["EncodedStream"]
