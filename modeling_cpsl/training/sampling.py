"""The order in which training reads its samples."""

from collections.abc import Iterator
from typing import Any

import torch
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


__all__ = ["EpochLengthGroupedSampler", "sample_lengths"]
