"""Which checkpoint is complete, and what a checkpoint of the model alone does not give."""

import itertools
import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_cases import make_trainer

from modeling_cpsl.training.checkpoints import last_complete_checkpoint, link_equal_weights
from modeling_cpsl.training.metrics import METRICS


def make_checkpoint(folder, step, state=None):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}) if state is None else state)
    return path


@pytest.mark.parametrize("state", ["", '{"global_step": 2', "{}", "[]", "[" * 10**5, '{"global_step": 10}'])
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


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """The folder of a training with a checkpoint in the middle of its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    make_trainer(folder, num_train_epochs=2, max_steps=6, save_strategy="steps", save_steps=6).train()
    return folder / "run" / "checkpoint-6"


def resume(checkpoint, tmp_path):
    make_trainer(tmp_path, num_train_epochs=2).train(resume_from_checkpoint=str(checkpoint))


NEEDED = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "modulator.pt", "running_means.pt"]


@pytest.mark.parametrize("name", NEEDED)
def test_no_run_goes_on_without_a_part_of_its_state(stopped_run, tmp_path, name):
    checkpoint = shutil.copytree(stopped_run, tmp_path / "checkpoint-6")
    (checkpoint / name).unlink()
    with pytest.raises(ValueError, match=rf"checkpoint-6 has no {name}: a run cannot be resumed from a checkpoint"):
        resume(checkpoint, tmp_path)


def _cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [_cut, lambda content: b"", lambda content: pickle.dumps([1, {}])])
@pytest.mark.parametrize("name", [*NEEDED, "model.safetensors", "trainer_state.json"])
def test_a_damaged_checkpoint_is_named_on_one_line(stopped_run, tmp_path, name, damage):
    checkpoint = shutil.copytree(stopped_run, tmp_path / "checkpoint-6")
    (checkpoint / name).write_bytes(damage((checkpoint / name).read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint-6: a training cannot go on from it \(") as caught:
        resume(checkpoint, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "state",
    [{"global_step": "6"}, {"log": 3}, {"best_metric": "a"}, {"log_history": [1]}, {"train_batch_size": [8]}, [6]],
)
def test_a_state_of_wrong_types_is_named_on_one_line(stopped_run, tmp_path, state):
    checkpoint = shutil.copytree(stopped_run, tmp_path / "checkpoint-6")
    path = checkpoint / "trainer_state.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | state if isinstance(state, dict) else state))
    with pytest.raises(ValueError, match=r"checkpoint-6: a training cannot go on from it \("):
        resume(checkpoint, tmp_path)


def test_the_latest_complete_checkpoint_is_found_from_python_too(stopped_run, tmp_path):
    shutil.copytree(stopped_run, tmp_path / "run" / "checkpoint-6")
    make_checkpoint(tmp_path / "run", 7, state="")
    trainer = make_trainer(tmp_path, num_train_epochs=2)
    trainer.train(resume_from_checkpoint=True)
    assert len(trainer.samples) == 2


def test_no_run_goes_on_from_a_model_alone(tmp_path):
    make_trainer(tmp_path, num_train_epochs=1, save_strategy="epoch", save_only_model=True).train()
    trainer = make_trainer(tmp_path, num_train_epochs=2)
    with pytest.raises(ValueError, match=r"checkpoint-4 has no optimizer\.pt: a run cannot be resumed"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))


def getting_worse(trainer, start=0):
    """Has the validation MAE get worse from epoch to epoch."""
    errors = itertools.count(start)
    trainer.compute_metrics = lambda prediction: dict.fromkeys(METRICS, float(next(errors)))
    return trainer


def test_a_training_stops_early_and_one_that_is_resumed_goes_on_counting(tmp_path):
    options = {"early_stopping_patience": 3, "num_train_epochs": 8, "save_total_limit": None}
    options |= {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = getting_worse(make_trainer(tmp_path, **options))
    for _ in range(2):  # a second training counts anew
        trainer.train()
        assert trainer.state.global_step == 4 * 4
    resumed = getting_worse(make_trainer(tmp_path, **options), start=20)
    for checkpoint in ("checkpoint-12", "checkpoint-16"):  # the latter is of a training that was over
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / checkpoint))
        assert resumed.state.global_step == 16


def test_a_training_that_was_over_in_the_middle_of_an_epoch_takes_no_further_step(tmp_path):
    options = {"max_steps": 6, "save_strategy": "epoch", "eval_strategy": "epoch", "save_total_limit": None}
    trainer = make_trainer(tmp_path, **options)
    trainer.train()
    resumed = make_trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert resumed.state.global_step == 6 and not hasattr(resumed, "samples")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    without_times = [
        [row for row in one.state.log_history if "train_runtime" not in row] for one in (trainer, resumed)
    ]
    assert without_times[0] == without_times[1]


@pytest.fixture
def model_and_checkpoint(tmp_path):
    """A saved model with two files of weights, and a checkpoint of which one is the same."""
    folder, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    for number, file in enumerate([folder / "1.safetensors", checkpoint / "1.safetensors"]):
        save_file({"weight": torch.ones(3)}, file)
        save_file({"weight": torch.full((3,), float(number))}, file.with_stem("2"))
    return folder, checkpoint


def test_equal_weights_are_on_the_disk_once(model_and_checkpoint):
    folder, checkpoint = model_and_checkpoint
    for _ in range(2):  # again, it changes nothing
        link_equal_weights(folder, checkpoint)
        assert (folder / "1.safetensors").samefile(checkpoint / "1.safetensors")
        assert not (folder / "2.safetensors").samefile(checkpoint / "2.safetensors")
        assert sorted(path.name for path in folder.iterdir()) == ["1.safetensors", "2.safetensors", "checkpoint-4"]
    assert torch.equal(load_file(folder / "2.safetensors")["weight"], torch.zeros(3))


def test_weights_that_are_written_again_leave_those_of_the_checkpoint(model_and_checkpoint):
    folder, checkpoint = model_and_checkpoint
    link_equal_weights(folder, checkpoint)
    save_file({"weight": torch.zeros(3)}, folder / "1.safetensors")
    assert torch.equal(load_file(checkpoint / "1.safetensors")["weight"], torch.ones(3))


def test_without_links_both_files_stay(model_and_checkpoint, monkeypatch):
    folder, checkpoint = model_and_checkpoint

    def refused(*args):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    link_equal_weights(folder, checkpoint)
    assert not (folder / "1.safetensors").samefile(checkpoint / "1.safetensors")
    assert sorted(path.name for path in folder.iterdir()) == ["1.safetensors", "2.safetensors", "checkpoint-4"]


def test_a_run_that_goes_on_writes_over_a_linked_model_and_not_over_the_checkpoint(tmp_path):
    options = {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "mae"}
    trainer = make_trainer(tmp_path, num_train_epochs=1, eval_strategy="epoch", **options)
    trainer.train()
    trainer.save_model()
    run, checkpoint = tmp_path / "run", Path(trainer.state.best_model_checkpoint)
    link_equal_weights(run, checkpoint)
    assert (run / "model.safetensors").samefile(checkpoint / "model.safetensors")
    before = (checkpoint / "model.safetensors").read_bytes()
    trainer = make_trainer(tmp_path, num_train_epochs=2, eval_strategy="no", save_strategy="no")
    trainer.train(resume_from_checkpoint=str(checkpoint))
    for save in (trainer.save_model, lambda: trainer.model.save_pretrained(run)):
        save()
        assert (checkpoint / "model.safetensors").read_bytes() == before
        assert not (run / "model.safetensors").samefile(checkpoint / "model.safetensors")
