"""Dataset rows -> batches: tokenise once, align and pad a batch at a time."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Array2D, Dataset, DatasetDict, IterableDataset, IterableDatasetDict, List, concatenate_datasets
from datasets.fingerprint import Hasher

from .processing_cpsl import CPSLProcessor, warn_truncated
from .streaming import EncodedStream, feature_rows, tables
from .uncertainty_cpsl import modality_set


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
    counts = {modality: sequence_lengths(split, modality) for modality in processor.modality_sizes}
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
        lengths = sequence_lengths(ids, "input_ids")
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


def sequence_lengths(split: Dataset, column: str) -> np.ndarray:
    """Number of words, tokens or feature rows of each sample (N,), read from Arrow's offsets."""
    values = split.select_columns(column).with_format("arrow")[:][column]
    lists = [getattr(chunk, "storage", chunk) for chunk in values.chunks]
    return np.concatenate([pc.list_value_length(chunk).to_numpy() for chunk in lists]) if lists else np.zeros(0, int)


def _check_counts(split: Dataset, counts: dict[str, np.ndarray]) -> None:
    words = sequence_lengths(split, "words")
    for modality, rows in counts.items():
        wrong = np.flatnonzero((rows != 0) & (rows != words))
        if len(wrong):
            index = int(wrong[0])
            raise ValueError(
                f"sample {split[index]['id']}: {rows[index]} {modality} rows for {words[index]} words; a word has one"
            )


def modality_sizes(dataset: Dataset | IterableDataset) -> dict[str, int]:
    """Feature size of each non-text modality of a split, by name.

    Raises:
        ValueError: A column holds lists of lists, of which the size is not known.
    """
    for name, column in dataset.features.items():
        if isinstance(column, List) and isinstance(column.feature, List):
            raise ValueError(
                f"column {name} holds lists of lists; cast it to datasets.Array2D((None, size), 'float32') to make it "
                "a modality, or remove it"
            )
    return {name: column.shape[1] for name, column in dataset.features.items() if isinstance(column, Array2D)}


def feature_extractors(dataset: Dataset) -> dict[str, str]:
    """What made the features of each modality of a split, as far as its source says it."""
    return {name: column.id for name, column in dataset.features.items() if isinstance(column, Array2D) and column.id}


def modality_rows(split: Dataset | IterableDataset | EncodedStream, name: str) -> Iterator[np.ndarray]:
    """The feature array (n, d_m) of each sample of a split, of one modality."""
    for table in tables(split, [name]):
        yield from feature_rows(table[name])


def modality_sets(split: Dataset | IterableDataset | EncodedStream, processor: CPSLProcessor) -> list[str]:
    """The modalities that each sample of a split has, see [`modality_set`]."""
    names, sets = list(processor.modality_sizes), []
    for table in tables(split, ["words", *names]):
        given = {name: [len(rows) > 0 for rows in feature_rows(table[name])] for name in names}
        if processor.use_text:
            given["text"] = [len(words) > 0 for words in table["words"].to_pylist()]
        for present in zip(*given.values(), strict=True):
            sets.append(modality_set(itertools.compress(given, present)))
    return sets


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


@dataclass
class CPSLDataCollator:
    """Makes a batch of rows of [`encode_dataset`], padded to its longest.

    Args:
        processor: Aligns and standardises.
    """

    processor: CPSLProcessor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the model's inputs (see [`CPSLProcessor`]), `labels` (B,) where rows have them, and `ids`.

        [`CPSLTrainer`] takes the ids out again, which are no input of the model.

        Args:
            rows: Rows with `id`, `word_index`, the modalities' (n, d_m) arrays and, with text, `input_ids`.

        Raises:
            ValueError: A feature has a wrong shape or is not finite, or a label is not in [-3, 3]; names the sample.
        """
        ids = [str(row["id"]) for row in rows]
        features = {name: [row[name] for row in rows] for name in self.processor.modality_sizes}
        self.processor.check_features(None, features, [f"sample {sample_id}" for sample_id in ids])
        encoded = {name: [row[name] for row in rows] for name in ("input_ids", "word_index") if name in rows[0]}
        batch = self.processor.make_batch(features, **encoded)
        if "label" in rows[0]:
            labels = np.array([row["label"] for row in rows], dtype=np.float32)
            for sample_id, label in zip(ids, labels, strict=True):
                if not -3.0 <= label <= 3.0:
                    raise ValueError(f"sample {sample_id}: label {label} is not in [-3, 3]")
            batch["labels"] = torch.from_numpy(labels)
        return batch | {"ids": ids}


__all__ = [
    "CPSLDataCollator",
    "compute_feature_statistics",
    "encode_dataset",
    "feature_extractors",
    "modality_rows",
    "modality_sets",
    "modality_sizes",
]
