"""Dataset rows -> tokenised rows, once before training; the statistics that standardise features."""

import itertools
from collections.abc import Iterable

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, concatenate_datasets
from datasets.fingerprint import Hasher

from data_builders.columns import present_modalities, row_counts

from ..processing_cpsl import CPSLProcessor, warn_truncated
from ..uncertainty_cpsl import modality_set
from .streaming import EncodedStream


def encode_dataset(
    dataset: DatasetDict | IterableDatasetDict, processor: CPSLProcessor, *, seed: int = 0
) -> dict[str, Dataset | EncodedStream]:
    """Adds `input_ids` and `word_index` to every row and keeps what the collator reads.

    The features stay word by word; repeating them on subwords here would only make the Arrow files larger.

    Args:
        dataset: Splits in the row format of `data_builders`.
        processor: Its tokenizer and lengths.
        seed: Of the order of a streamed training split; others have an order that does not change, or a sampler.

    Returns:
        The splits, cached by `datasets`, in numpy format; streamed ones as [`EncodedStream`].

    Raises:
        ValueError: A sample has another number of feature rows than words; names it.
    """
    if isinstance(dataset, IterableDatasetDict):
        return {
            name: EncodedStream(name, split, processor, seed=seed if name == "train" else None)
            for name, split in dataset.items()
        }
    return DatasetDict({name: _encode_split(name, split, processor) for name, split in dataset.items()})


def _encode_split(name: str, split: Dataset, processor: CPSLProcessor) -> Dataset:
    counts = {modality: row_counts(split, modality) for modality in processor.modality_sizes}
    if processor.use_text:
        _check_counts(split, counts)
        # Only words are read and only ids are written: the features stay where they are. With a fingerprint of ours
        # `datasets` need not pickle the tokenizer to hash it.
        tokenizer = processor.tokenizer.backend_tokenizer.to_str()
        ids = split.select_columns(["words"]).map(
            processor.encode_words,
            batched=True,
            input_columns=["words"],
            remove_columns=["words"],
            new_fingerprint=Hasher.hash([split._fingerprint, tokenizer, processor.max_length]),
            desc=f"Tokenising {name}",
        )
        encoded = concatenate_datasets([split, ids], axis=1)
        encoded.info.config_name = split.info.config_name  # concatenation forgets it
        columns = ["input_ids", "word_index"]
        lengths = row_counts(ids, "input_ids")
        # Only those that fill the sequence may have been cut; how long they were is not kept.
        full = np.flatnonzero(lengths == processor.max_length)
        lengths[full] = processor.count_tokens(split.select(full)["words"][:]) if len(full) else []
    else:
        lengths = np.max(list(counts.values()), axis=0)
        longest = np.minimum(lengths, processor.max_length)
        encoded = split.add_column("word_index", [list(range(length)) for length in longest.tolist()])
        columns = ["word_index"]
    warn_truncated(lengths.tolist(), processor.max_length, f"{name} split")
    kept = ["id", *(["label"] if "label" in split.column_names else []), *processor.modality_sizes, *columns]
    return encoded.with_format("numpy", columns=kept)


def _check_counts(split: Dataset, counts: dict[str, np.ndarray]) -> None:
    words = row_counts(split, "words")
    for modality, rows in counts.items():
        wrong = np.flatnonzero((rows != 0) & (rows != words))
        if len(wrong):
            index = int(wrong[0])
            raise ValueError(
                f"sample {split[index]['id']}: {rows[index]} {modality} rows for {words[index]} words; a word has one"
            )


def modality_sets(split: Dataset | IterableDataset | EncodedStream, processor: CPSLProcessor) -> list[str]:
    """The modalities that each sample of a split has, see [`modality_set`]."""
    present = present_modalities(split, processor.modality_sizes, text=processor.use_text)
    return [modality_set(names) for names in present]


def compute_feature_statistics(rows: Iterable[np.ndarray]) -> dict[str, list[float]]:
    """Mean and deviation of each feature column over real word rows, for `CPSLProcessor` (METHOD 1).

    Args:
        rows: Arrays (n, d_m) of the training split, read once; empty ones are skipped.

    Returns:
        `mean` and `std`, d_m numbers each; the deviation of a constant column is given as 1.

    Raises:
        ValueError: There is no row at all.
    """
    rows = filter(len, rows)
    first = next(rows, None)
    if first is None:
        raise ValueError("no feature row in the training split to take statistics from")
    # Counted from one of the rows, so that a constant column has a deviation of 0 and large means cost no digits.
    origin = first[0].astype(np.float64)
    count, total, squares = 0, 0.0, 0.0
    rows = itertools.chain([first], rows)
    while some := list(itertools.islice(rows, 256)):
        shifted = np.concatenate(some).astype(np.float64) - origin
        count, total, squares = count + len(shifted), total + shifted.sum(axis=0), squares + (shifted**2).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return {"mean": (origin + mean).tolist(), "std": np.where(std > 0, std, 1.0).tolist()}


__all__ = ["compute_feature_statistics", "encode_dataset", "modality_sets"]
