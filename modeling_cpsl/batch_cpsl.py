"""A batch of a model's inputs: tensors that move together, and the same as lists."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature


class CPSLBatch(BatchFeature):
    """Model inputs whose `to` also moves the tensors in `modality_mask` and `extra_features`."""

    def to(self, *args: Any, **kwargs: Any) -> "CPSLBatch":
        """As [`~transformers.BatchFeature.to`]."""
        for name, value in self.items():
            if isinstance(value, dict):
                self[name] = dict(BatchFeature(value).to(*args, **kwargs))
        return super().to(*args, **kwargs)


def as_lists(batch: dict[str, Any], modalities: Sequence[str], padding: int) -> dict[str, list[Any]]:
    """A batch as lists with an entry for each utterance, which any collator batches again if all have one length.

    Args:
        batch: A model's inputs as tensors.
        modalities: The model's modalities, `text` first, in whose order `modality_mask` says which an utterance has.
        padding: The id of a token that stands for missing text, where no utterance of the batch has any.
    """
    if mask := batch.get("modality_mask"):
        # Only text is left out of the mask, where all utterances have it or none has.
        text = torch.full_like(batch["feature_mask"][:, 0], "input_ids" in batch)
        present = [mask.get(name, text) for name in modalities]
        batch = batch | {"modality_mask": torch.stack(present, dim=1)}
    if "text" in modalities:
        batch = {"input_ids": torch.full_like(batch["attention_mask"], padding)} | batch
    return {name: _entries(values) for name, values in batch.items()}


def _entries(values: Any) -> list[Any]:
    if not isinstance(values, dict):
        return values.tolist()
    return [dict(zip(values, row, strict=True)) for row in zip(*map(_entries, values.values()), strict=True)]


__all__ = ["CPSLBatch", "as_lists"]
