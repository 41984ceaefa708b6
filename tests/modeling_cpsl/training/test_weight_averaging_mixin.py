"""Averages of weights: what is averaged, evaluated, saved and kept, and resumed runs."""

import pytest
import torch
from safetensors.torch import load_file
from training_cases import make_trainer

from modeling_cpsl.training.arguments import CPSLTrainingArguments


# 30 samples in batches of 8: four steps an epoch.
EPOCHS = {"num_train_epochs": 4, "save_strategy": "epoch", "save_total_limit": None}
SWA = {"weight_averaging": "swa", "weight_averaging_options": {"start": 0.5}}
EMA = {"weight_averaging": "ema", "weight_averaging_options": {"decay": 0.7, "start": 0.25}}


def train(folder, **options):
    trainer = make_trainer(folder, **EPOCHS | options)
    trainer.train()
    return trainer


def saved_weights(folder, step):
    """The weights of a checkpoint, in float64."""
    weights = load_file(folder / "run" / f"checkpoint-{step}" / "model.safetensors")
    return {name: value.double() for name, value in weights.items() if "normalizers" not in name}


def assert_weights(weights, expected):
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_swa_is_the_mean_of_the_ends_of_the_last_epochs(tmp_path):
    """The checkpoints of the same training without it are what is averaged: the training itself does not change."""
    train(tmp_path / "plain")
    averaged = train(tmp_path / "swa", **SWA)
    plain = {epoch: saved_weights(tmp_path / "plain", 4 * epoch) for epoch in range(1, 5)}
    for epoch in range(1, 5):
        first = min(epoch, 2)  # half of the training ends with epoch 2
        counted = [plain[number] for number in range(first, epoch + 1)]
        mean = {name: sum(weights[name] for weights in counted) / len(counted) for name in counted[0]}
        assert_weights(saved_weights(tmp_path / "swa", 4 * epoch), mean)
    last = {name: value.double() for name, value in averaged.model.state_dict().items() if "normalizers" not in name}
    assert_weights(last, saved_weights(tmp_path / "swa", 16))


def test_ema_is_a_moving_average_over_steps(tmp_path):
    every_step = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}
    train(tmp_path / "plain", **every_step)
    train(tmp_path / "ema", **every_step, **EMA)
    average = None
    for step in range(1, 9):
        weights = saved_weights(tmp_path / "plain", step)
        earlier = average if step > 2 else weights  # weights count from a quarter of the 8 steps on
        average = {name: 0.7 * earlier[name] + 0.3 * weights[name] for name in weights}
        assert_weights(saved_weights(tmp_path / "ema", step), average)


def test_validation_chooses_between_averages_and_earlier_epochs(tmp_path):
    options = {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "mae"}
    trainer = train(tmp_path, **options, **SWA, per_device_eval_batch_size=10)
    errors = {round(row["epoch"]): row["eval_mae"] for row in trainer.state.log_history if "eval_mae" in row}
    best = min(errors, key=errors.get)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{4 * best}")
    assert trainer.evaluate()["eval_mae"] == pytest.approx(errors[best], rel=1e-6)
    for epoch, error in errors.items():
        trainer._load_from_checkpoint(str(tmp_path / "run" / f"checkpoint-{4 * epoch}"))
        assert trainer.evaluate()["eval_mae"] == pytest.approx(error, rel=1e-6), epoch


@pytest.mark.parametrize("options", [SWA, EMA], ids=["swa", "ema"])
@pytest.mark.parametrize("step", [4, 12])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, options, step):
    whole = train(tmp_path, **options)
    checkpoint = str(tmp_path / "run" / f"checkpoint-{step}")
    expected = load_file(tmp_path / "run" / "checkpoint-16" / "model.safetensors")
    resumed = make_trainer(tmp_path, **EPOCHS | options)
    resumed.train(resume_from_checkpoint=checkpoint)
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]) and torch.equal(value, expected[name]), name


def test_a_checkpoint_without_the_weights_of_the_training_is_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"has no weights_of_training[.]pt: a run cannot be resumed"):
        make_trainer(tmp_path, **EPOCHS | SWA).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))


def test_weights_that_are_not_trained_have_no_part_in_it(tmp_path):
    trainer = train(tmp_path, freeze_encoder=True, **EMA)
    state = torch.load(tmp_path / "run" / "checkpoint-16" / "weights_of_training.pt", weights_only=True)
    assert state["weights"] and not any(name.startswith("deberta.") for name in state["weights"])
    assert all(weight.requires_grad for weight in trainer.model.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"weight_averaging": "lawa"}, "weight_averaging='lawa' must be one of none, swa, ema"),
        ({"weight_averaging_options": ["start=0.5"]}, "'start' is not an option of weight_averaging=none"),
        (
            EMA | {"weight_averaging_options": ["decay=2"]},
            "weight_averaging_options: decay=2.0 must be between 0 and 1",
        ),
        (SWA | {"weight_averaging_options": ["decay=0.5"]}, "'decay' is not an option of weight_averaging=swa"),
    ],
)
def test_what_cannot_be(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        CPSLTrainingArguments(str(tmp_path), use_cpu=True, **options)
