"""The order in which training and evaluation read their samples."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils import recursively_apply
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler

from data_builders.columns import row_counts


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """transformers' [`LengthGroupedSampler`], in an order that follows from the seed and the epoch alone.

    The order is therefore the same on all ranks and after a restart.

    Args:
        batch_size: Number of samples of similar length that are drawn together.
        lengths: Length of each sample.
        seed: Seed of the order.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()

    def set_epoch(self, epoch: int) -> None:
        """Decides the order; the data loader calls it."""
        self.epoch = epoch


def sample_lengths(dataset: Any) -> list[int]:
    """The number of tokens of each sample of an encoded split."""
    if isinstance(dataset, Dataset):
        return row_counts(dataset, "word_index").tolist()
    return [len(row["word_index"]) for row in dataset]


def longest_first(dataset: Any) -> list[int] | None:
    """An order in which the batches of an encoded split have little padding; None where its lengths are not known.

    The longest samples come first: if memory is too small for them, that is known at once.
    """
    if not isinstance(dataset, Dataset) or "word_index" not in dataset.column_names:
        return None
    return np.argsort(-row_counts(dataset, "word_index"), kind="stable").tolist()


def in_data_order(values: Any, order: list[int] | None) -> Any:
    """What was found for samples that were read in an `order`, in the order of the data.

    Args:
        values: An array with a row for each sample that was read, or a tuple, list or dict of such.
        order: As from [`longest_first`].
    """
    if order is None:
        return values
    return recursively_apply(
        lambda array: array[np.argsort(order)], values, test_type=lambda value: isinstance(value, np.ndarray)
    )


__all__ = ["EpochLengthGroupedSampler", "in_data_order", "longest_first", "sample_lengths"]
