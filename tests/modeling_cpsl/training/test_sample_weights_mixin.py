"""Weights of samples in trainings: exact however a step is cut, through restarts, and in the log."""

import numpy as np
import pytest
import torch
from training_cases import RecordingTrainer, make_trainer, relative_distance


OPTIONS = {"latent_noise": "sample", "num_train_epochs": 3, "learning_rate": 1e-3}
WEIGHTS = np.tile([0.0, 0.5, 1.0, 2.5, 4.0, 1.0], 5).astype(np.float32)


class WeightKeeper(RecordingTrainer):
    """Keeps what each step gives each sample to count by."""

    def get_batch_samples(self, *args):
        batches, num_items = super().get_batch_samples(*args)
        step = {}
        for batch in batches:
            step |= dict(zip(batch["micro_batch"].ids, batch["sample_weight"].tolist(), strict=True))
        self.__dict__.setdefault("weights", []).append(step)
        return batches, num_items


def make(folder, way, weights=WEIGHTS, **options):
    trainer = make_trainer(folder, trainer_class=WeightKeeper, **OPTIONS | {"sample_weights": way} | options)
    if way == "column":
        columns = trainer.train_dataset.format["columns"]
        weighted = trainer.train_dataset.add_column("weight", weights)
        trainer.train_dataset = weighted.with_format("numpy", columns=columns)
    return trainer


def trained(*args, **options):
    trainer = make(*args, **options)
    trainer.train()
    return trainer


@pytest.mark.parametrize("way", ["column", "curriculum", "gap"])
def test_a_step_does_not_depend_on_how_it_is_cut_and_a_run_goes_on(tmp_path, way):
    saving = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None}
    whole = trained(tmp_path / "whole", way, per_device_train_batch_size=8, **saving)
    cut = trained(tmp_path / "cut", way, per_device_train_batch_size=1, gradient_accumulation_steps=8)
    for one, two in zip(whole.weights, cut.weights, strict=True):
        assert one == pytest.approx(two, abs=1e-4)
    assert relative_distance(whole.model.state_dict(), cut.model.state_dict()) <= 1e-5
    resumed = make(tmp_path / "resumed", way, **saving)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-6")
    assert resumed.weights == whole.weights[6:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    rows = [row for row in whole.state.log_history if "train_sample_weight" in row]
    assert len(rows) == 3 and all("train_squared_sample_weight" not in row for row in rows)
    for row, steps in zip(rows, (whole.weights[:4], whole.weights[4:8], whole.weights[8:]), strict=True):
        weights = np.array([weight for step in steps for weight in step.values()])
        assert len(weights) == 30 and row["train_sample_weight"] == pytest.approx(weights.mean(), rel=1e-5)
        share = weights.sum() ** 2 / (30 * np.square(weights).sum())
        assert row["train_effective_sample_share"] == pytest.approx(share, rel=1e-5)
    if way != "column":
        assert set(whole.weights[0].values()) == {1.0} and len(set(whole.weights[4].values())) > 2


def test_equal_weights_change_nothing(tmp_path):
    weighted = trained(tmp_path / "a", "column", np.full(30, 0.3, np.float32))
    plain = make_trainer(tmp_path / "b", **OPTIONS)
    plain.train()
    assert relative_distance(weighted.model.state_dict(), plain.model.state_dict()) <= 1e-5


def test_a_sample_of_weight_0_is_not_trained_on(tmp_path):
    """Against a training whose data does not have it, in one batch of all."""
    weights = np.ones(30, np.float32)
    weights[10:] = 0.0
    options = {
        "per_device_train_batch_size": 30,
        "balance": "none",
        "train_embeddings": "none",
        "config_fields": {"feature_normalization": "none"},
    }
    weighted = trained(tmp_path / "a", "column", weights, **options)
    plain = make_trainer(tmp_path / "b", **OPTIONS | options)
    plain.train_dataset = plain.train_dataset.select(range(10))
    plain.train()
    assert relative_distance(weighted.model.state_dict(), plain.model.state_dict()) <= 1e-5


@pytest.mark.parametrize("weights", [[-1.0] * 30, [np.nan] * 30, [0.0] * 30])
def test_weights_that_cannot_be_used_are_refused(tmp_path, weights):
    with pytest.raises(ValueError, match="finite, at least 0 and not all 0; correct the column weight"):
        trained(tmp_path, "column", np.float32(weights))


def test_what_cannot_be_weighed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the training data has no column weight; add one"):
        make_trainer(tmp_path, **OPTIONS, sample_weights="column").train()
    with pytest.raises(ValueError, match="sample_weights=gap compares predictions"):
        make_trainer(tmp_path, **OPTIONS, sample_weights="gap", config_fields={"architecture": "mult"}).train()
