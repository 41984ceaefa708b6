"""The order in which training and evaluation read their samples."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import recursively_apply
from datasets import Dataset
from transformers import EvalPrediction
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


class LongestFirst(list[int]):
    """The order of samples in which batches have little padding, as a sampler.

    The longest samples come first: if memory is too small for them, that is known at once.
    """


def longest_first(dataset: Any) -> LongestFirst | None:
    """The order in which to evaluate an encoded split; None, which keeps its own, where its lengths are not known."""
    if not isinstance(dataset, Dataset) or "word_index" not in dataset.column_names:
        return None
    return LongestFirst(np.argsort(-row_counts(dataset, "word_index"), kind="stable").tolist())


def order_of(loader: Any) -> LongestFirst | None:
    """The order in which a data loader reads its samples, if it is one of [`longest_first`]."""
    sampler = loader
    while sampler is not None and not isinstance(sampler, LongestFirst):
        sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
    return sampler


def in_data_order(output: Any, order: Sequence[int]) -> Any:
    """What was found for samples that were read in an order, in that of the data.

    Args:
        output: An `EvalPrediction` or `EvalLoopOutput`, whose arrays have a row for each sample that was read.
        order: As from [`longest_first`].
    """
    places = np.argsort(order)

    def in_place(values: Any) -> Any:
        return recursively_apply(
            lambda array: array[places], values, test_type=lambda value: isinstance(value, np.ndarray)
        )

    if isinstance(output, EvalPrediction):
        return EvalPrediction(*map(in_place, (output.predictions, output.label_ids, output.inputs, output.losses)))
    return output._replace(predictions=in_place(output.predictions), label_ids=in_place(output.label_ids))


__all__ = ["EpochLengthGroupedSampler", "LongestFirst", "in_data_order", "longest_first", "order_of", "sample_lengths"]
