"""A training whose losses are no longer finite stops and says where."""

import pytest
import torch
from training_cases import make_trainer

from modeling_cpsl.training.loss_watch import LossWatch, NonFiniteLossError


def test_the_losses_that_are_not_finite_are_named():
    watch = LossWatch()
    watch.add({"task_loss": torch.tensor(1.0), "unimodal_loss": torch.tensor(2.0)}, "step 0")
    watch.check(wait=True)
    watch.add({"task_loss": torch.tensor(1.0), "unimodal_loss": torch.tensor(torch.inf)}, "step 1, samples a, b")
    with pytest.raises(NonFiniteLossError, match=r"^step 1, samples a, b: unimodal_loss is not finite; lower"):
        watch.check(wait=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_samples(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4, train_sampling_strategy="sequential")
    healthy = trainer.model.multimodal.unimodal_heads["visual"].forward

    def broken(pooled):
        output = healthy(pooled)
        return output * torch.nan if trainer.model.training and trainer.state.global_step == 2 else output

    trainer.model.multimodal.unimodal_heads["visual"].forward = broken
    with pytest.raises(NonFiniteLossError) as error:
        trainer.train()
    message = str(error.value)
    assert message.startswith("step 2, samples ")
    assert all(sample_id in message for sample_id in trainer.train_dataset["id"][8:12])
    assert "unimodal_loss" in message
    assert "error of visual" in message
    assert "task_loss" not in message
    assert "\n" not in message
