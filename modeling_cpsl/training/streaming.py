"""A split that is read and tokenised on the fly, in constant memory."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import torch
from datasets import DatasetInfo, Features, IterableDataset

from data_builders.columns import ROWS_AT_ONCE, read_columns, rows_of

from ..processing_cpsl import CPSLProcessor, EncodedUtterance, warn_truncated


SHUFFLE_BUFFER = 512

OnNames = Callable[[str, list[str], list[str]], None]


class EncodedStream(torch.utils.data.Dataset):
    """A streamed split with a length and with rows as [`encode_dataset`] gives them.

    A row is found by reading forward to it. Read in ascending order; a lower index restarts the stream. With a
    sequential sampler each epoch is one pass. Ranks and workers share the rows as they do with any dataset: each
    reads the whole stream and tokenises only the rows that it is asked for.

    Args:
        name: The split's name.
        stream: The split in the row format of `data_builders`; read once here, to count its rows and tokens.
        processor: Tokenises the words.
        seed: Shuffles in a buffer of `SHUFFLE_BUFFER` rows, and the shards, in a new order each epoch. Default: the
            order of the data.
        on_names: Called with the split's name, the ids and the ids of the videos of the rows that are counted.

    Raises:
        ValueError: A sample has no word with a subword or, when it is read, another number of feature rows than of
            words; the message names it.
    """

    def __init__(
        self,
        name: str,
        stream: IterableDataset,
        processor: CPSLProcessor,
        seed: int | None = None,
        on_names: OnNames | None = None,
    ):
        self.source, self.processor = stream, processor
        ordered = stream if seed is None else stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        self.stream = ordered.with_format("arrow")
        names = ["id"] if on_names is None else ["id", "video_id"]
        columns = [*names, *(["words"] if processor.use_text else processor.modality_sizes)]

        def batches() -> Iterator[list[EncodedUtterance]]:
            for table in read_columns(stream, columns):
                if on_names is not None:
                    on_names(name, table["id"].to_pylist(), table["video_id"].to_pylist())
                yield self._tokenized(self._decoded(table))

        counted = [
            (utterance.num_tokens, utterance.input_ids is not None) for batch in batches() for utterance in batch
        ]
        lengths = [num_tokens for num_tokens, _ in counted]
        self.has_words = any(has_words for _, has_words in counted)
        warn_truncated(lengths, processor.max_length, f"{name} split")
        self.num_rows = len(lengths)
        self._start = 0
        self._rows: list[dict[str, Any]] = []
        self._tables: Iterator[pa.Table] = iter(())
        self._opened_for: tuple[int, int] | None = None  # the process and the epoch

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
        row = self._rows[index - self._start]
        (tokens,) = self._tokenized([row])
        encoded = {name: value for name, value in row.items() if name != "words"} | {"word_index": tokens.word_index}
        return encoded | ({} if tokens.input_ids is None else {"input_ids": tokens.input_ids})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": [], "_tables": iter(()), "_opened_for": None}

    @property
    def info(self) -> DatasetInfo:
        """As for any split of `datasets`."""
        return self.source.info

    @property
    def features(self) -> Features:
        """The columns of the data, before it is encoded."""
        return self.source.features

    def select_columns(self, column_names: list[str]) -> IterableDataset:
        """The rows of the data with these columns alone, before they are shuffled and encoded."""
        return self.source.select_columns(column_names)

    def set_epoch(self, epoch: int) -> None:
        """Sets the order of a shuffled stream; `Trainer` calls it."""
        self.stream.set_epoch(epoch)

    def _decoded(self, table: pa.Table | None) -> list[dict[str, Any]]:
        if table is None:
            raise RuntimeError(f"the stream ended after {self._start} rows of {self.num_rows}: the data has changed")
        wanted = ("id", "label", "words", *self.processor.modality_sizes)
        return rows_of(table.select([name for name in wanted if name in table.column_names]))

    def _tokenized(self, rows: list[dict[str, Any]]) -> list[EncodedUtterance]:
        return self.processor.tokenize(
            [f"sample {row['id']}" for row in rows],
            [row.get("words") or None for row in rows],
            [{name: len(row[name]) for name in self.processor.modality_sizes if name in row} for row in rows],
        )


__all__ = ["EncodedStream"]
