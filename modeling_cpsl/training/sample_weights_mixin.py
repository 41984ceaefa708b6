"""`Trainer` with weights of training samples."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_builders.columns import read_columns

from .arguments import CPSLTrainingArguments
from .optimizer_step import Batch
from .sample_table_mixin import SampleTableMixin
from .sample_weights import SampleWeights


# Columns of the table of samples.
WEIGHT = "sample_weight"
OBSERVED = ("label", "prediction", "earlier_prediction", "unimodal_predictions")


class SampleWeightsMixin(SampleTableMixin):
    """Weighs the samples of a [`TrainableModel`] as `sample_weights` says, with weights in the table of samples."""

    args: CPSLTrainingArguments
    weighting: SampleWeights

    @property
    def sample_columns(self) -> dict[str, int]:
        """Extends [`SampleTableMixin.sample_columns`]: the weight and, where it follows the training, predictions."""
        columns = super().sample_columns
        if self.weighting.weighs:
            columns |= {WEIGHT: 1}
        if self.weighting.adapts:
            columns |= dict.fromkeys(map(_observed, OBSERVED[:-1]), 1)
            columns |= {_observed(OBSERVED[-1]): len(self.unwrapped_model.unimodal_names)}
        return columns

    def weigh_samples(self, batches: list[Batch], counts: list[int]) -> list[Any]:
        """Sets the `sample_weight` (B,) of a step's micro-batches, and keeps what the log says of them.

        Args:
            batches: With `ids`.
            counts: Number of samples that count in each.

        Returns:
            The sum of the weights of each micro-batch: without weights the number of its samples.
        """
        if not self.weighting.weighs:
            return [*counts]
        sums = []
        for batch, count in zip(batches, counts, strict=True):
            weights = self.remembered(batch["ids"])[WEIGHT].squeeze(1).nan_to_num(1.0)
            weights[count:] = 0.0
            batch["sample_weight"] = weights
            sums.append(weights.sum())
            logged = {"sample_weight": sums[-1], "squared_sample_weight": weights.square().sum()}
            self._train_means["epoch"].update(logged, count=count)
        return sums

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Extends `Trainer.compute_loss`: in a training step, notes what was predicted for samples."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if self._micro_batch is not None and self.weighting.adapts:
            assert self.sample_table is not None
            predictions, presence = outputs.get("unimodal_logits") or {}, outputs.get("modality_presence") or {}
            missing = torch.full_like(outputs["logits"], torch.nan, dtype=torch.float32)
            columns = [
                torch.where(presence[name], predictions[name].float(), missing)
                if name in presence
                else predictions[name]
                for name in self.unwrapped_model.unimodal_names
            ]
            observed = {
                "label": inputs["labels"].float().reshape(-1, 1),
                "prediction": outputs["logits"].reshape(-1, 1),
                "unimodal_predictions": torch.stack(columns, dim=1) if columns else missing[:, None][:, :0],
            }
            samples = self._micro_batch.ids[: self._micro_batch.num_samples]
            values = {_observed(name): value[: len(samples)] for name, value in observed.items()}
            self.sample_table.record(self.sample_table.indices(samples), **values)
        return (loss, outputs) if return_outputs else loss

    def update_sample_table(self, num_epochs: int) -> None:
        """Extends [`SampleTableMixin.update_sample_table`]: makes the weights of the epoch to come."""
        super().update_sample_table(num_epochs)
        if self.sample_table is None or not self.weighting.adapts:
            return
        observed = {name: self.sample_table.column(_observed(name)) for name in OBSERVED}
        single = {name: column.squeeze(1) for name, column in observed.items() if name != "unimodal_predictions"}
        progress = num_epochs / max(self.state.num_train_epochs - 1, 1)
        weights = self.weighting.updated(observed | single, min(progress, 1.0))
        earlier = {_observed("earlier_prediction"): observed["prediction"]}
        self.sample_table.replace(**{WEIGHT: weights[:, None]}, **earlier)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Extends `Trainer.log`: of the weights the mean, and the effective share of the samples.

        It is (sum of w)^2 / (n * sum of w^2), the effective sample size over the number of samples.
        """
        if (squared := logs.pop("train_squared_sample_weight", None)) is not None:
            logs["train_effective_sample_share"] = logs["train_sample_weight"] ** 2 / squared if squared else 0.0
        super().log(logs, *args, **kwargs)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        self.weighting = self.args.sample_weighting
        if self.args.sample_weights == "gap" and len(self.unwrapped_model.unimodal_names) < 2:
            raise ValueError(
                "sample_weights=gap compares predictions from one modality alone, and the model does not have two; "
                "choose curriculum or column"
            )
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.sample_table is not None and self.args.sample_weights == "column":
            weights = torch.from_numpy(weight_column(self.train_dataset))
            self.sample_table.replace(**{WEIGHT: weights[:, None]})
        return prepared


def weight_column(dataset: Any) -> np.ndarray:
    """The column `weight` (N,) float32 of a training split, checked.

    Raises:
        ValueError: There is no such column, a weight is negative or not finite, or all are 0.
    """
    if "weight" not in dataset.features:
        raise ValueError(
            "sample_weights=column: the training data has no column weight; add one (docs/own_data.md), or leave the "
            "option out"
        )
    tables = list(read_columns(dataset, ["weight"]))
    weights = np.concatenate([np.zeros(0, np.float32), *(table["weight"].to_numpy() for table in tables)])
    if not np.all(np.isfinite(weights) & (weights >= 0)) or not weights.any():
        raise ValueError(
            "sample_weights=column: weights are finite, at least 0 and not all 0; correct the column weight"
        )
    return weights.astype(np.float32)


def _observed(name: str) -> str:
    """The column of the table, whose names are also those of models' own columns."""
    return f"weighting_{name}"


__all__ = ["SampleWeightsMixin", "weight_column"]
