"""`Trainer` with a policy that leaves modalities out of training samples."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .arguments import CPSLTrainingArguments
from .checkpoints import load_training_state, resuming_from
from .modulation_mixin import GradientModulationMixin
from .sample_policies import SamplePolicy, StepSamples
from .sample_table_mixin import SampleTableMixin


# What a checkpoint keeps beside Trainer's own files, of a policy that remembers something.
POLICY_FILE = "sample_policy.pt"


class SamplePolicyMixin(SampleTableMixin, GradientModulationMixin):
    """Applies the policy that `modality_masking` names to the batches of a [`TrainableModel`]."""

    args: CPSLTrainingArguments
    policy: SamplePolicy

    def apply_policy(self, batches: list[dict[str, Any]]) -> None:
        """Sets the `modality_mask` of a step's micro-batches, and keeps the shares of what was left out for the log.

        Args:
            batches: With `ids`, `labels` and where samples lack modalities `modality_mask`.
        """
        if not self.policy.masks:
            return
        names = self.unwrapped_model.modality_names
        for batch in batches:
            labels, given = batch["labels"], batch.get("modality_mask", {})
            everywhere = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
            presence = torch.stack([given.get(name, everywhere) for name in names], dim=1)
            kept = self.policy(
                StepSamples(
                    ids=batch["ids"],
                    modalities=names,
                    presence=presence,
                    step=self.state.global_step,
                    seed=self.args.seed,
                    epoch=self.state.epoch or 0.0,
                    remembered=self.remembered(batch["ids"]),
                )
            )
            batch["modality_mask"] = dict(zip(names, kept.unbind(dim=1), strict=True))
            # of a weakened modality, what it lacks
            left_out, counts = (presence.float() - kept.float()).sum(dim=0), presence.sum(dim=0)
            for name, total, count in zip(names, left_out, counts, strict=True):
                self._train_means["epoch"].update({f"masked_{name}": total}, count=count)

    def on_modulation(self, statistics: dict[str, Tensor]) -> None:
        """Extends [`GradientModulationMixin.on_modulation`]: the policy sees the step's statistics."""
        super().on_modulation(statistics)
        self.policy.observe(statistics)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self.policy = self.args.sample_policy
        if self.policy.weakens and not self.unwrapped_model.weakens_modalities:
            raise ValueError(
                f"modality_masking={self.args.modality_masking} weakens modalities, which only the "
                "architectures cpsl and late can; choose one of them, or uniform"
            )
        compared = [] if self.modulator is None else self.modulator.modalities
        if "scores" in self.policy.needs and len(compared) < 2:
            raise ValueError(
                f"modality_masking={self.args.modality_masking} compares modalities by their own predictions, and "
                f"{', '.join(compared) or 'none'} can be compared; choose uniform"
            )
        if resume_from_checkpoint is not None and self.policy.state_dict():
            state = load_training_state(resume_from_checkpoint, POLICY_FILE, self.args.device)
            with resuming_from(resume_from_checkpoint):
                self.policy.load_state_dict(state)
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and (state := self.policy.state_dict()):
            torch.save(state, Path(output_dir) / POLICY_FILE)


__all__ = ["SamplePolicyMixin"]
