"""Encoded rows -> batches: aligned and padded a batch at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..processing_cpsl import CPSLProcessor


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


__all__ = ["CPSLDataCollator"]
