"""What is done once before training: rows are tokenised, and feature statistics computed."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, concatenate_datasets
from datasets.fingerprint import Hasher

from data_builders.columns import present_modalities, row_counts
from data_builders.files import seal

from ..processing_cpsl import CPSLProcessor, warn_truncated
from ..uncertainty_cpsl import modality_set
from .streaming import EncodedStream, OnNames


def encode_dataset(
    dataset: DatasetDict | IterableDatasetDict,
    processor: CPSLProcessor,
    *,
    seed: int = 0,
    on_names: OnNames | None = None,
) -> dict[str, Dataset | EncodedStream]:
    """Adds `word_index` and, where text is read, `input_ids` to every row, and selects the columns for the collator.

    The features keep one row a word: repeating them on subwords here would only make the Arrow files larger. A row
    without words lacks the text: its `input_ids` are empty and each of its feature rows is one token.

    Args:
        dataset: Splits in the row format of `data_builders`.
        processor: Tokenises the words.
        seed: Decides the order of a streamed training split. Other splits keep their order, or have a sampler.
        on_names: Of streamed splits: called with a split's name, and with the ids and the ids of the videos of its
            rows, some at a time.

    Returns:
        The splits, cached by `datasets`, in numpy format; streamed ones as [`EncodedStream`].

    Raises:
        ValueError: A sample has another number of feature rows than of words, or no word with a subword; the message
            names it. (In a streamed split numbers of rows are checked when the row is read.) Or text is to be read,
            and no training sample has words.
    """
    encoded: dict[str, Dataset | EncodedStream]
    if isinstance(dataset, IterableDatasetDict):
        encoded = {
            name: EncodedStream(name, split, processor, seed if name == "train" else None, on_names)
            for name, split in dataset.items()
        }
        has_words = "train" not in encoded or encoded["train"].has_words
    else:
        encoded = DatasetDict({name: _encode_split(name, split, processor) for name, split in dataset.items()})
        has_words = "train" not in encoded or bool(row_counts(dataset["train"], "words").any())
    if processor.use_text and not has_words:
        raise ValueError(
            f"train split: no sample has words; use the other modalities alone: --modalities "
            f"{','.join(processor.modality_sizes)} (in Python: CPSLProcessor(..., use_text=False))"
        )
    return encoded


def _encode_split(name: str, split: Dataset, processor: CPSLProcessor) -> Dataset:
    sample_names = [f"sample {sample_id}" for sample_id in split["id"][:]]
    num_rows = {modality: row_counts(split, modality).tolist() for modality in processor.modality_sizes}

    def tokenize(words: list[list[str]], indices: list[int]) -> dict[str, list[Any]]:
        encoded = processor.tokenize(
            [sample_names[index] for index in indices],
            [spoken or None for spoken in words],
            [{modality: counts[index] for modality, counts in num_rows.items()} for index in indices],
        )
        columns = {name: [getattr(utterance, name) for utterance in encoded] for name in ("word_index", "num_tokens")}
        if processor.use_text:
            columns["input_ids"] = [utterance.input_ids or [] for utterance in encoded]
        return columns

    # Only words are read and only tokens are written: the features stay where they are. With a fingerprint of ours
    # `datasets` need not pickle the tokenizer to hash it.
    tokenizer = processor.tokenizer.backend_tokenizer.to_str()
    settings = [tokenizer, processor.max_length, processor.use_text, list(processor.modality_sizes)]
    tokens = split.select_columns(["words"]).map(
        tokenize,
        batched=True,
        with_indices=True,
        input_columns=["words"],
        remove_columns=["words"],
        new_fingerprint=Hasher.hash([split._fingerprint, *settings]),
        desc=f"Tokenising {name}",
    )
    seal(Path(file["filename"]) for file in tokens.cache_files)
    warn_truncated(tokens["num_tokens"][:], processor.max_length, f"{name} split")
    tokens = tokens.remove_columns("num_tokens")
    encoded = concatenate_datasets([split, tokens], axis=1)
    encoded.info.config_name = split.info.config_name  # concatenation forgets it
    labels = ["label"] if "label" in split.column_names else []
    columns = ["id", *labels, *processor.modality_sizes, *tokens.column_names]
    return encoded.with_format("numpy", columns=columns)


def modality_sets(split: Dataset | IterableDataset | EncodedStream, processor: CPSLProcessor) -> list[str]:
    """The name of the set of modalities that each sample of a split has, see [`modality_set`]."""
    present = present_modalities(split, processor.modality_sizes, text=processor.use_text)
    return [modality_set(names) for names in present]


def compute_feature_statistics(rows: Iterable[np.ndarray]) -> dict[str, list[float]]:
    """Mean and standard deviation of each feature column, for `CPSLProcessor` (docs/method.md, "Inputs").

    Args:
        rows: One modality's arrays (n, d_m) of the training split, one row a word; read once, empty ones are skipped.

    Returns:
        `mean` and `std`, d_m numbers each; the deviation of a constant column is given as 1.

    Raises:
        ValueError: There is no row at all.
    """
    rows = filter(len, rows)
    first = next(rows, None)
    if first is None:
        raise ValueError("the training split has no feature row to compute statistics from")
    # Relative to the first row, so that a constant column has a deviation of exactly 0 and large means cost no digits.
    origin = first[0].astype(np.float64)
    count, total, squares = 0, 0.0, 0.0
    rows = itertools.chain([first], rows)
    while chunk := list(itertools.islice(rows, 256)):
        shifted = np.concatenate(chunk).astype(np.float64) - origin
        count, total, squares = count + len(shifted), total + shifted.sum(axis=0), squares + (shifted**2).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return {"mean": (origin + mean).tolist(), "std": np.where(std > 0, std, 1.0).tolist()}


__all__ = ["compute_feature_statistics", "encode_dataset", "modality_sets"]
