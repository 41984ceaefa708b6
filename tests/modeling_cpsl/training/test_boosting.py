"""Who is given another head, and trainings in which heads are given."""

import pytest
import torch
from training_cases import make_trainer

from modeling_cpsl.training import boosting
from modeling_cpsl.training.boosting import next_head


NAMES = ("acoustic", "text", "visual")
BOOSTED = {"boosted_heads": 3}
EVALUATED = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 4}


def row(skills, heads=(1, 1, 1)):
    """The log's row of an evaluation."""
    named = {f"eval_skill_{name}": value for name, value in zip(NAMES, skills, strict=True)}
    return named | {f"eval_heads_{name}": count for name, count in zip(NAMES, heads, strict=True)}


def given(*rows, heads=None, most=4):
    counts = heads or [rows[-1][f"eval_heads_{name}"] for name in NAMES] if rows else heads or (1, 1, 1)
    return next_head([{"loss": 1.0}, *rows], dict(zip(NAMES, counts, strict=True)), most)


def test_the_weakest_modality_is_given_a_head_if_the_gap_is_wide():
    assert given(row([0.1, 0.5, 0.2])) == "acoustic"
    assert given(row([0.3, 0.5, 0.2])) == "visual"
    assert given(row([0.49, 0.5, 0.481])) is None
    assert given() is None


def test_no_more_than_the_most():
    assert given(row([0.1, 0.5, 0.2], (3, 1, 1)), most=3) is None


def test_a_head_is_evaluated_before_the_next_one():
    """So that a training that is resumed behind it does not give it twice."""
    assert given(row([0.1, 0.5, 0.2]), heads=(2, 1, 1)) is None


def test_two_heads_without_a_gain_are_enough():
    first, second = row([0.1, 0.5, 0.4]), row([0.08, 0.5, 0.4], (2, 1, 1))
    assert given(first, second) == "acoustic"
    assert given(first, second, row([0.1, 0.5, 0.4], (3, 1, 1))) is None
    assert given(first, second, row([0.2, 0.5, 0.4], (3, 1, 1))) == "acoustic"
    # a gain that comes later is that of the last head
    assert given(first, row([0.09, 0.5, 0.4], (2, 1, 1)), row([0.2, 0.5, 0.4], (2, 1, 1))) == "acoustic"


def test_a_modality_that_no_sample_has_takes_no_part():
    rows = row([0.1, 0.5, 0.2])
    del rows["eval_skill_acoustic"]
    assert next_head([rows], dict.fromkeys(NAMES, 1), 4) == "visual"


def counts_of(trainer):
    prefix = "eval_heads_"
    rows = [row for row in trainer.state.log_history if "eval_mae" in row]
    return [{name.removeprefix(prefix): row[name] for name in row if name.startswith(prefix)} for row in rows]


@pytest.mark.parametrize(("strategy", "step"), [("epoch", 4), ("steps", 6)])  # an epoch has 4 steps
def test_a_training_gives_heads_by_its_log_and_goes_on_with_them(tmp_path, monkeypatch, strategy, step):
    """Resumed after an epoch and in the middle of one, it ends in the same weights."""
    monkeypatch.setattr(boosting, "LARGEST_GAP", -1.0)  # in so short a training all skills are 0
    saved = {"save_strategy": strategy, "save_steps": 6, "save_total_limit": 4}
    options = {"config_fields": BOOSTED} | EVALUATED | saved
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    counts = counts_of(whole)
    assert counts[0] == dict.fromkeys(("text", "acoustic", "visual"), 1)
    for epoch in range(1, 4):
        history = [row for row in whole.state.log_history if row["epoch"] <= epoch]
        name = next_head(history, counts[epoch - 1], 3)
        expected = {modality: count + (modality == name) for modality, count in counts[epoch - 1].items()}
        assert counts[epoch] == expected
    assert sum(counts[-1].values()) > 3
    again = make_trainer(tmp_path / "again", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "run" / f"checkpoint-{step}"))
    assert counts_of(again) == counts
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_the_best_model_has_the_heads_that_it_was_evaluated_with(tmp_path):
    trainer = make_trainer(tmp_path, config_fields=BOOSTED, **EVALUATED | {"load_best_model_at_end": True})
    trainer.train()
    best = min((row for row in trainer.state.log_history if "eval_mae" in row), key=lambda row: row["eval_mae"])
    again = trainer.evaluate()
    for name in ("text", "acoustic", "visual"):
        assert again[f"eval_heads_{name}"] == best[f"eval_heads_{name}"]
        assert again[f"eval_skill_{name}"] == pytest.approx(best[f"eval_skill_{name}"], abs=1e-6)


def test_heads_need_evaluations(tmp_path):
    with pytest.raises(ValueError, match="boosted_heads=3: heads are given by validation skill; set eval_strategy"):
        make_trainer(tmp_path, config_fields=BOOSTED)
