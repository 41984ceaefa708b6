"""The window of modulation that closes by itself."""

import pytest
from training_cases import RecordingTrainer, make_trainer

from modeling_cpsl.training.arguments import CPSLTrainingArguments
from modeling_cpsl.training.callbacks import adapted_end_epoch


NAMES = ["acoustic", "visual"]


def history(*skills, first=1):
    rows = [
        {"epoch": float(epoch), "eval_skill_acoustic": one, "eval_skill_visual": other}
        for epoch, (one, other) in enumerate(skills, start=first)
    ]
    return [{"epoch": 0.5, "loss": 1.0}, *rows]


@pytest.mark.parametrize(
    ("imbalances", "end"),
    [
        ([], None),
        ([0.3, 0.2, 0.1, 0.05], None),
        ([0.3, 0.2, 0.25], None),
        ([0.3, 0.2, 0.25, 0.2], 3),  # not below .2 after the third and the fourth epoch, counted from 0
        ([0.3, 0.2, 0.25, 0.1, 0.2, 0.3], 5),
        ([0.3, 0.4, 0.4, 0.1, 0.0], 2),  # closed for good
    ],
)
def test_the_window_ends_when_the_imbalance_has_not_fallen_twice(imbalances, end):
    assert adapted_end_epoch(history(*((value + 0.1, 0.1) for value in imbalances)), NAMES, 0) == end


def test_what_says_nothing_of_the_window_does_not_count():
    nothing, equal = [(0.0, 0.0)] * 5, [(0.2, 0.2)] * 3
    assert adapted_end_epoch(history(*nothing), NAMES, 0) is None
    assert adapted_end_epoch(history(*nothing, *equal), NAMES, 0) == 7
    assert adapted_end_epoch(history(*equal, *equal), NAMES, 3) == 5
    assert adapted_end_epoch(history(*equal), ["acoustic"], 0) is None


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


@pytest.mark.parametrize(
    "options", [{"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}, {"balance": "none"}]
)
def test_nothing_to_adapt_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="adaptive_window=True needs evaluations, and modulation that it can end"):
        CPSLTrainingArguments(output_dir=str(tmp_path), use_cpu=True, adaptive_window=True, **options)
