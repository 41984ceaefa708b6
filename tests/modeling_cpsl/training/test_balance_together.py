"""Ways to balance at all moments of a step at once, and what a training without any of them does not do."""

import itertools
import math

import numpy as np
import pytest
import torch
from training_cases import RecordingTrainer, make_trainer, relative_distance

from modeling_cpsl.training import coalitions, sample_draws, sample_policies, sample_policy_mixin


OPTIONS = {"latent_noise": "sample", "num_train_epochs": 3, "learning_rate": 1e-3, "eval_strategy": "epoch"}
TOGETHER = OPTIONS | {
    "balance": "ogm",
    "adaptive_strength": True,
    "modality_masking": "soft",
    "sample_weights": "curriculum",
    "resample": "contribution",
    "resample_options": {"start_epoch": 1},
    "config_fields": {"boosted_heads": 3},
}
ON_CONTRIBUTIONS = OPTIONS | {
    "balance": "shapley",
    "modality_masking": "contribution",
    "modality_masking_options": {"start_epoch": 1},
    "sample_weights": "gap",
    "resample": "discrepancy",
}
CASES = {"together": TOGETHER, "on contributions": ON_CONTRIBUTIONS}


def trained(folder, resume=None, **options):
    trainer = make_trainer(folder, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_step_does_not_depend_on_how_it_is_cut_and_a_run_goes_on(tmp_path, case):
    saving = CASES[case] | {"save_strategy": "steps", "save_steps": 6, "save_total_limit": 3}
    whole = trained(tmp_path / "whole", **saving)
    cut = trained(tmp_path / "cut", **CASES[case], per_device_train_batch_size=1, gradient_accumulation_steps=8)
    assert whole.samples == cut.samples
    assert relative_distance(whole.model.state_dict(), cut.model.state_dict()) <= 1e-5
    resumed = trained(tmp_path / "resumed", resume=f"{whole.args.output_dir}/checkpoint-6", **saving)
    assert resumed.samples == whole.samples[6:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_in_half_precision(tmp_path, case):
    """On a CPU bfloat16 alone is to be had; what is drawn and weighed does not follow from a rounded prediction."""
    half = trained(tmp_path, **CASES[case], bf16=True)
    assert all(math.isfinite(value) for value in itertools.chain(*(step.values() for step in half.recorded)))
    assert all(value.isfinite().all() for value in half.model.state_dict().values())
    full = make_trainer(tmp_path, **CASES[case])
    full.train()
    assert half.samples[:4] == full.samples[:4]
    losses = [
        [row["train_loss"] for row in each.state.log_history if "train_task_loss" in row] for each in (half, full)
    ]
    np.testing.assert_allclose(*losses, rtol=0.05)


class CountingTrainer(RecordingTrainer):
    """Counts what is evaluated, and looks for hooks, within a training."""

    def training_step(self, model, *args, **kwargs):
        if not hasattr(self, "calls"):
            self.found = [*_hooks(model), *_hooks(self.optimizer.optimizer)]
            self.calls = {"text encoder": 0, "all above": 0}
            for name, module in (("text encoder", model.base_model), ("all above", model.multimodal)):
                module.register_forward_pre_hook(lambda *_, name=name: self._count(name))
        return super().training_step(model, *args, **kwargs)

    def _count(self, name):
        self.calls[name] += 1


def _hooks(owner):
    """The hooks of a model's modules or of an optimizer."""
    owners = owner.modules() if isinstance(owner, torch.nn.Module) else [owner]
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_optimizer_step_pre_hooks")
    names += ("_optimizer_step_post_hooks",)
    return [hook for each in owners for name in names for hook in getattr(each, name, {}).values()]


@pytest.mark.parametrize("balance", ["none", "cpsl", "ogm"])
def test_without_the_rest_a_training_evaluates_nothing_more_and_hooks_nothing(tmp_path, monkeypatch, balance):
    def fail(*args, **kwargs):
        raise AssertionError("nothing of this is asked for")

    for module in (sample_policies, sample_draws):
        monkeypatch.setattr(module, "sample_generator", fail)
    monkeypatch.setattr(coalitions, "coalition_logits", fail)
    monkeypatch.setattr(sample_policy_mixin, "StepSamples", fail)
    trainer = make_trainer(tmp_path, trainer_class=CountingTrainer, balance=balance, eval_strategy="epoch")
    trainer.train()
    steps, evaluations = 3 * 4, 3 * 2  # 30 samples of 8, 10 to validate on of 8, three epochs
    assert trainer.calls == dict.fromkeys(trainer.calls, steps + evaluations)
    assert trainer.found == []
    assert trainer.sample_table is None and trainer._epoch_sampler is None
    assert len(trainer.recorded) == steps
