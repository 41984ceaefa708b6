"""Which checkpoint is complete, and what a checkpoint of the model alone does not give."""

import json
import logging

import pytest
from training_cases import make_trainer

from modeling_cpsl.training.checkpoints import last_complete_checkpoint


def make_checkpoint(folder, step, state=None):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}) if state is None else state)
    return path


@pytest.mark.parametrize("state", ["", '{"global_step": 2', "{}", '{"global_step": 10}'])
def test_a_checkpoint_cut_short_is_passed_over(tmp_path, caplog, state):
    whole = make_checkpoint(tmp_path, 10)
    cut = make_checkpoint(tmp_path, 20, state)
    (tmp_path / "checkpoint-30").mkdir()
    with caplog.at_level(logging.WARNING):
        assert last_complete_checkpoint(tmp_path) == str(whole)
    assert [record.getMessage().split()[0] for record in caplog.records] == [str(tmp_path / "checkpoint-30"), str(cut)]


def test_what_an_earlier_run_left_does_not_make_a_cut_checkpoint_look_whole(tmp_path, monkeypatch):
    options = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1}
    make_trainer(tmp_path, **options).train()
    checkpoint = tmp_path / "run" / "checkpoint-4"
    assert last_complete_checkpoint(tmp_path / "run") == str(checkpoint)
    trainer = make_trainer(tmp_path, **options)

    def interrupted(output_dir):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert last_complete_checkpoint(tmp_path / "run") is None


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "nowhere") is None


def test_a_later_step_is_later_whatever_its_name_sorts_like(tmp_path):
    make_checkpoint(tmp_path, 9)
    latest = make_checkpoint(tmp_path, 100)
    assert last_complete_checkpoint(tmp_path) == str(latest)


def test_no_run_goes_on_from_a_model_alone(tmp_path):
    make_trainer(tmp_path, num_train_epochs=1, save_strategy="epoch", save_only_model=True).train()
    trainer = make_trainer(tmp_path, num_train_epochs=2)
    with pytest.raises(ValueError, match=r"checkpoint-4 has no modulator\.pt: a run cannot be resumed"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
