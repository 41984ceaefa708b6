"""Policies in trainings: the same masks however a step is cut, in restarts, and the log."""

import pytest
import torch
from training_cases import RecordingTrainer, make_trainer, relative_distance


ROWS = {
    "uniform": {"probability": 0.4},
    "opm": {"start_epoch": 0, "step_probability": 0.8},
    "soft": {},
}
OPTIONS = {"latent_noise": "sample", "num_train_epochs": 2, "learning_rate": 1e-3, "balance": "none"}


class MaskKeeper(RecordingTrainer):
    """Keeps what each step leaves of each sample."""

    def get_batch_samples(self, *args):
        batches, num_items = super().get_batch_samples(*args)
        step = {}
        for batch in batches:
            kept = torch.stack(list(batch["modality_mask"].values()), dim=1).tolist()
            step |= dict(zip(batch["micro_batch"].ids, kept, strict=True))
        self.__dict__.setdefault("masks", []).append(step)
        return batches, num_items


def make(folder, policy, **options):
    masking = {"modality_masking": policy, "modality_masking_options": ROWS[policy]}
    return make_trainer(folder, trainer_class=MaskKeeper, **OPTIONS | masking | options)


def trained(*args, **options):
    trainer = make(*args, **options)
    trainer.train()
    return trainer


def flat(kept):
    return torch.tensor([values for step in kept for values in step.values()])


@pytest.mark.parametrize("policy", ROWS)
def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path, policy):
    whole = trained(tmp_path / "whole", policy, per_device_train_batch_size=8)
    cut = trained(tmp_path / "cut", policy, per_device_train_batch_size=1, gradient_accumulation_steps=8)
    assert whole.masks == cut.masks and not flat(whole.masks).all()
    assert relative_distance(whole.model.state_dict(), cut.model.state_dict()) <= 1e-5


@pytest.mark.parametrize("policy", ROWS)
def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path, policy):
    saving = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None}
    whole = trained(tmp_path / "whole", policy, **saving)
    resumed = make(tmp_path / "resumed", policy, **saving)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-6")
    assert resumed.masks == whole.masks[6:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
