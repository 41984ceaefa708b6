"""Encoded rows -> batches: features are checked, aligned to subwords and padded one batch at a time."""

from dataclasses import dataclass
from typing import Any

import torch

from ..processing_cpsl import CPSLProcessor, EncodedUtterance
from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT
from ..utterances_cpsl import check_row_counts, checked_features, name_in_errors


@dataclass
class CPSLDataCollator:
    """Makes a batch of rows of [`encode_dataset`], padded to the longest of them.

    Args:
        processor: Aligns and standardises the features.
        task: What labels are. Default: those of the model, of a [`CPSLTrainer`]; elsewhere a sentiment.
    """

    processor: CPSLProcessor
    task: Task | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the model's inputs (see [`CPSLProcessor`]), `labels` as the task has them, and `ids`.

        A model ignores the `ids`, which [`CPSLTrainer`] needs.

        Args:
            rows: Rows with `id`, `word_index`, the modalities' (n, d_m) arrays and, with text, `input_ids`, which are
                empty where the text is missing.

        Raises:
            ValueError: A feature has a wrong shape or is not finite, a label is none of the task's, or there is
                nothing in a row; the message names the sample. Or columns are missing.
        """
        if missing := {"id", "word_index", *self.processor.modality_sizes} - rows[0].keys():
            raise ValueError(
                f"rows lack {', '.join(sorted(missing))}; encode_dataset makes them, and a Trainer of transformers "
                "keeps them with TrainingArguments(remove_unused_columns=False)"
            )
        sizes, task = self.processor.modality_sizes, self.task or SENTIMENT
        utterances, labels = [], []
        for row in rows:
            with name_in_errors(f"sample {row['id']}"):
                features = checked_features({name: row[name] for name in sizes}, sizes)
                check_row_counts(None, {name: len(values) for name, values in features.items()})
                if not len(row["word_index"]):
                    raise ValueError("neither words nor features; leave it out")
                input_ids = row.get("input_ids", ())
                utterances.append(EncodedUtterance(row["word_index"], input_ids if len(input_ids) else None, features))
                if "label" in row:
                    labels.append(task.checked_label(row["label"]))
        batch = self.processor.make_batch(utterances)
        if labels:
            batch["labels"] = torch.from_numpy(task.label_array(labels))
        return batch | {"ids": [str(row["id"]) for row in rows]}


__all__ = ["CPSLDataCollator"]
