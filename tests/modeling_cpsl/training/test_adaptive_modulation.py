"""Modulation that follows the imbalance of validation skill: its window closes, its strength falls."""

import pytest
import torch
from training_cases import RecordingTrainer, make_trainer

from modeling_cpsl.losses_cpsl import loss_weights, total_loss
from modeling_cpsl.training.adaptive_modulation import adapted_end_epoch, adapted_strength, imbalances
from modeling_cpsl.training.arguments import CPSLTrainingArguments


NAMES = ["acoustic", "visual"]


def history(*skills, first=1):
    rows = [
        {"epoch": float(epoch), "eval_skill_acoustic": one, "eval_skill_visual": other}
        for epoch, (one, other) in enumerate(skills, start=first)
    ]
    return [{"epoch": 0.5, "loss": 1.0}, *rows]


@pytest.mark.parametrize(
    ("skills", "end"),
    [
        ([], None),
        ([0.3, 0.2, 0.1, 0.05], None),
        ([0.3, 0.2, 0.25], None),
        ([0.3, 0.2, 0.25, 0.2], 3),  # not below .2 after the third and the fourth epoch, counted from 0
        ([0.3, 0.2, 0.25, 0.1, 0.2, 0.3], 5),
        ([0.3, 0.4, 0.4, 0.1, 0.0], 2),  # closed for good
    ],
)
def test_the_window_ends_when_the_imbalance_has_not_fallen_twice(skills, end):
    rows = history(*((value + 0.1, 0.1) for value in skills))
    assert adapted_end_epoch(imbalances(rows, NAMES), 0) == end


def test_what_says_nothing_of_the_window_does_not_count():
    nothing, equal = [(0.0, 0.0)] * 5, [(0.2, 0.2)] * 3
    assert imbalances(history(*nothing), NAMES) == []
    assert adapted_end_epoch(imbalances(history(*nothing, *equal), NAMES), 0) == 7
    assert adapted_end_epoch(imbalances(history(*equal, *equal), NAMES), 3) == 5
    assert imbalances(history(*equal), ["acoustic"]) == []


@pytest.mark.parametrize(
    ("values", "strength"),
    [
        ([], 1.0),
        ([0.2], 1.0),
        ([0.4, 0.2], 0.75),
        ([0.1, 0.4, 0.4], 1.0),
        ([0.4, 0.2, 0.0], 0.25),
        ([0.0, 0.0], 0.0),
    ],
)
def test_the_strength_is_what_is_left_of_the_imbalance(values, strength):
    assert adapted_strength([*enumerate(values, start=1)]) == pytest.approx(strength)


class ScriptedSkill(RecordingTrainer):
    """Imbalances .3, .2, .2, .2 after four epochs."""

    def evaluation_loop(self, *args, **kwargs):
        output = super().evaluation_loop(*args, **kwargs)
        skill = 0.4 if self.state.epoch == 1 else 0.3
        output.metrics.update(eval_skill_acoustic=skill, eval_skill_visual=0.1)
        return output


def test_a_training_modulates_until_then_and_goes_on_so_when_it_is_resumed(tmp_path):
    options = {"eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 18, "save_total_limit": 2}
    options |= {
        "num_train_epochs": 6,
        "adaptive_window": True,
        "modulation_end_epoch": 5,
        "trainer_class": ScriptedSkill,
    }
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    is_modulated = [min(step[f"coefficient_{name}"] for name in NAMES) < 1 for step in whole.recorded]
    assert is_modulated == [True] * 16 + [False] * 8  # four epochs of four steps: .3, .2, .2, .2
    assert whole.modulator.config.end_epoch == 3
    again = make_trainer(tmp_path / "again", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "run" / "checkpoint-18"))
    assert again.recorded == whole.recorded[18:]
    assert again.modulator.config.end_epoch == 3


class StrengthKeeper(ScriptedSkill):
    """Keeps, of each step, the factor of CP and the weight of the statistical loss."""

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        weights = self.model.multimodal.loss_weights["statistical"], self.model.multimodal.loss_scales["statistical"]
        self.__dict__.setdefault("strengths", []).append((self.modulator.rule.penalty_factor, weights))
        return loss


def test_a_training_scales_what_balances_and_goes_on_so_when_it_is_resumed(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 6}
    options |= {"num_train_epochs": 3, "adaptive_strength": True, "trainer_class": StrengthKeeper}
    whole = make_trainer(tmp_path / "whole", save_total_limit=3, **options)
    whole.train()
    # two evaluations an epoch, imbalances .2, .3, .2, .2: before the second epoch .2 and .3, before the third .2 twice
    expected = [1.0] * 4 + [2.5 / 3] * 4 + [2 / 3] * 4
    weight = whole.model.config.statistical_weight
    assert whole.strengths == [(pytest.approx(1 - part / 2), (weight, pytest.approx(part))) for part in expected]
    logged = [row["train_adaptive_strength"] for row in whole.state.log_history if "train_adaptive_strength" in row]
    assert logged == [pytest.approx(part) for part in expected[::4]]
    again = make_trainer(tmp_path / "again", save_total_limit=3, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "run" / "checkpoint-6"))
    assert again.strengths == whole.strengths[6:] and again.recorded == whole.recorded[6:]
    again.model.prepare_for_training()
    assert again.model.multimodal.loss_scales == {}


def test_a_scaled_loss_counts_less_in_training_alone(make_model, make_batch):
    model = make_model()
    batch, weight = make_batch(model.config), model.config.statistical_weight
    whole = model(**batch)
    model.scale_loss("statistical", 0.25)
    assert torch.equal(model(**batch).loss, whole.loss)
    scaled = model.train()(**batch)
    losses, weights = scaled.losses, loss_weights(model.config) | {"statistical": weight / 4}
    torch.testing.assert_close(scaled.loss, total_loss(losses, weights))


@pytest.mark.parametrize(
    "options", [{"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}, {"balance": "none"}]
)
def test_nothing_to_adapt_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="adaptive_window=True needs evaluations, and modulation that it can end"):
        CPSLTrainingArguments(output_dir=str(tmp_path), use_cpu=True, adaptive_window=True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_strategy": "no"}, "adaptive_strength=True needs evaluations"),
        ({"balance": "none", "config_fields": {"sl": False}}, "adaptive_strength=True has nothing to scale"),
        ({"config_fields": {"architecture": "late"}, "cp": False}, "adaptive_strength=True has nothing to scale"),
    ],
)
def test_no_strength_to_adapt_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **{"eval_strategy": "epoch", "adaptive_strength": True} | options)
