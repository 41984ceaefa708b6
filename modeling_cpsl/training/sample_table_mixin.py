"""`Trainer` with a table of what the model wants remembered of each training sample."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .base import TrainableModelMixin
from .checkpoints import load_training_state, resuming_from
from .optimizer_step import MicroBatch
from .sample_table import SampleTable, sample_ids


# What a checkpoint keeps beside Trainer's own files.
SAMPLE_TABLE_FILE = "sample_table.pt"


class SampleTableMixin(TrainableModelMixin):
    """Keeps what is to be remembered of each training sample: the `sample_columns` of a [`TrainableModel`] and others.

    Without any column it does nothing.
    """

    sample_table: SampleTable | None = None
    _micro_batch: MicroBatch | None = None  # that of the training step, None outside of one

    @property
    def sample_columns(self) -> dict[str, int]:
        """The table's columns, the number of values of each; a mixin that remembers more extends it."""
        return dict(self.unwrapped_model.sample_columns)

    def remembered(self, ids: list[str]) -> dict[str, Tensor]:
        """What the table holds of samples, (n, width) by column; NaN where nothing was recorded."""
        return {} if self.sample_table is None else self.sample_table.rows(self.sample_table.indices(ids))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Extends `Trainer.get_batch_samples`: from the second epoch on, adds what the model wants remembered."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        names = self.unwrapped_model.sample_columns
        if names and (self.state.epoch or 0.0) >= 1.0:
            for batch in batches:
                remembered = self.remembered(batch["ids"])
                batch["sample_values"] = {name: remembered[name] for name in names}
        return batches, num_items

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Extends `Trainer.compute_loss`: in a training step, writes what the model returns of its samples down."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if self.sample_table is not None and self._micro_batch is not None and outputs.get("sample_values"):
            samples = self._micro_batch.ids[: self._micro_batch.num_samples]
            values = {name: column[: len(samples)] for name, column in outputs["sample_values"].items()}
            self.sample_table.record(self.sample_table.indices(samples), **values)
        return (loss, outputs) if return_outputs else loss

    def update_sample_table(self, num_epochs: int) -> None:
        """Has the model update its columns; called by each rank when an epoch's last step is done.

        Args:
            num_epochs: Number of epochs that are done.
        """
        if self.sample_table is not None:
            self.sample_table.exchange()
            columns = {name: self.sample_table.column(name) for name in self.unwrapped_model.sample_columns}
            self.sample_table.replace(**self.unwrapped_model.update_sample_columns(columns, num_epochs))

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        widths = self.sample_columns
        self.sample_table = SampleTable(sample_ids(self.train_dataset), widths, self.args.device) if widths else None
        if self.sample_table is not None and resume_from_checkpoint is not None:
            state = load_training_state(resume_from_checkpoint, SAMPLE_TABLE_FILE, self.args.device)
            with resuming_from(resume_from_checkpoint):
                self.sample_table.load_state_dict(state)
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.sample_table is not None:
            self.sample_table.exchange()
            if self.args.should_save:
                torch.save(self.sample_table.state_dict(), Path(output_dir) / SAMPLE_TABLE_FILE)


__all__ = ["SampleTableMixin"]
