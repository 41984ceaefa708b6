"""Dataset rows -> batches: tokenise once, align and pad a batch at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Array2D, Dataset, DatasetDict

from .processing_cpsl import CPSLProcessor


def encode_dataset(dataset: DatasetDict, processor: CPSLProcessor) -> DatasetDict:
    """Adds `input_ids` and `word_index` to every row and keeps what the collator reads.

    The features stay word by word; repeating them on subwords here would only make the Arrow files larger.

    Args:
        dataset: Splits in the row format of `data_builders`.
        processor: Its tokenizer and lengths.

    Returns:
        The splits, cached by `datasets`, in numpy format.
    """

    def encode(batch: dict[str, list]) -> dict[str, list]:
        if processor.use_text:
            return processor.encode_words(batch["words"])
        features = {name: batch[name] for name in processor.modality_sizes}
        return {"word_index": processor.index_rows(features, len(batch["id"]))}

    encoded = ["input_ids", "word_index"] if processor.use_text else ["word_index"]
    columns = ["id", "label", *processor.modality_sizes, *encoded]
    return DatasetDict(
        {
            name: split.map(encode, batched=True, desc=f"Tokenising {name}").with_format("numpy", columns=columns)
            for name, split in dataset.items()
        }
    )


def modality_sizes(dataset: Dataset) -> dict[str, int]:
    """Feature size of each non-text modality of a split, by name."""
    return {name: column.shape[1] for name, column in dataset.features.items() if isinstance(column, Array2D)}


def modality_rows(dataset: Dataset, name: str) -> list[np.ndarray]:
    """All feature arrays (n, d_m) of one modality of a split."""
    return list(dataset.with_format("numpy", columns=[name])[:][name])


@dataclass
class CPSLDataCollator:
    """Makes a batch of rows of [`encode_dataset`], padded to its longest.

    Args:
        processor: Aligns and standardises.
    """

    processor: CPSLProcessor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the model's inputs (see [`CPSLProcessor`]), `labels` (B,) where rows have them, and `ids`.

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


__all__ = ["CPSLDataCollator", "encode_dataset", "modality_rows", "modality_sizes"]
