"""`Trainer` with gradient modulation, for any model. The only module that connects the two."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_utils import TrainOutput

from ..modulation import GradientModulator
from .base import TrainerBase
from .checkpoints import load_training_state, resuming_from


# What a checkpoint keeps beside Trainer's own files.
MODULATOR_FILE = "modulator.pt"


class GradientModulationMixin(TrainerBase):
    """Gradient modulation with the Conflict-aware Penalty for any `Trainer`: one modulation per optimizer step.

    Put it before `Trainer` and implement [`create_modulator`]. The model returns `modality_errors`, a dict of
    per-sample errors (B,) by modality (absolute errors, or 1 - probability of the true class), and where samples lack
    modalities also `modality_presence`, a dict of (B,) bool; the error of a missing modality is 0. A batch whose
    `modality_errors` are None has no part in the comparison.
    """

    modulator: GradientModulator | None = None

    def create_modulator(self) -> GradientModulator | None:
        """Builds the modulator over `self.model`'s parameters, or None to train without.

        Called by `train` when the model is wrapped and on its device, which may have replaced its parameters.
        """
        raise NotImplementedError("return a GradientModulator over the parameters of self.model")

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Extends `Trainer.train`: leaves the optimizer without the modulator's hooks, however the training ends."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.modulator is not None:
                self.modulator.detach()

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Extends `Trainer.compute_loss`: in training, passes the batch's errors to the modulator."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training and self.modulator is not None:
            errors, presence = outputs.get("modality_errors"), outputs.get("modality_presence")
            if errors is None:  # as in a phase in which the model does not train its unimodal predictions
                nothing = dict.fromkeys(self.modulator.modalities, torch.zeros_like(loss))
                self.modulator.observe(nothing, 0, score_sums=nothing, squared_error_sums=nothing)
            else:
                self.modulator.observe_samples(errors, presence)
            if self.modulator.wants_coalitions(self.state.epoch or 0.0):
                with self.accelerator.autocast():  # as the model's own forward runs
                    coalitions = self.coalition_errors(model, inputs)
                self.modulator.observe_coalitions({names: error.sum() for names, error in coalitions.items()})
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Extends `Trainer.training_step`: modulates the reduced gradients, before clipping, once a step."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self.accelerator.sync_gradients and self.modulator is not None:
            scaler = self.accelerator.scaler
            statistics = self.modulator.step(
                self.state.epoch or 0.0, grad_scale=1.0 if scaler is None else scaler.get_scale()
            )
            self.on_modulation(statistics)
        return loss

    def coalition_errors(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[tuple[str, ...], Tensor]:
        """What a rule that reads contributions needs: errors when only some of the modalities are known.

        Args:
            model: The model as it is trained.
            inputs: A micro-batch.

        Returns:
            (B,) for each coalition of modalities, from `()`, for what is predicted without any, to all of them:
            squared errors in regression, 1 - probability of the true class in classification.
        """
        raise NotImplementedError(
            "this balance reads contributions: return the errors of each coalition of modalities"
        )

    def on_modulation(self, statistics: dict[str, Tensor]) -> None:
        """Called with the statistics of each modulation, see [`GradientModulator.step`]."""

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self.modulator = self.create_modulator()
        if self.modulator is not None and self.modulator.config.target == "update":
            self.modulator.attach(self.optimizer)
        if self.modulator is not None and resume_from_checkpoint is not None:
            state = load_training_state(resume_from_checkpoint, MODULATOR_FILE, self.args.device)
            with resuming_from(resume_from_checkpoint):
                self.modulator.load_state_dict(state)
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and self.modulator is not None:
            torch.save(self.modulator.state_dict(), Path(output_dir) / MODULATOR_FILE)


__all__ = ["GradientModulationMixin"]
