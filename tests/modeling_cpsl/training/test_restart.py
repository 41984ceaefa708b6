"""Runs that are killed go on to the same end, and runs that have gone wrong stop and say why."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_cases import make_trainer

from modeling_cpsl.training.checkpoints import last_complete_checkpoint
from modeling_cpsl.training.loss_watch import NonFiniteLossError


CASES = Path(__file__).parents[2] / "support" / "training_cases.py"
OPTIONS = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 12, "save_total_limit": 3}


def start(folder, **options):
    command = [sys.executable, str(CASES), str(folder), str(folder / "record.pt"), json.dumps(OPTIONS | options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end_bit_for_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    finish(start(whole))
    process = start(killed)
    deadline = time.monotonic() + 200
    # Step 15 is in the middle of an epoch of four steps; the process dies somewhere after it.
    while not (killed / "run" / "checkpoint-15").is_dir() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "record.pt").exists()
    finish(start(killed, resume=True))
    first, second = (torch.load(folder / "record.pt", weights_only=True) for folder in (whole, killed))
    assert len(second["steps"]) < len(first["steps"]) == 48
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    assert second["log"] == first["log"]
    assert second["steps"] == first["steps"][-len(second["steps"]) :]


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


def test_a_batch_that_leaves_no_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"per_device_train_batch_size=64.*leaves no step.*30 samples"):
        make_trainer(tmp_path, per_device_train_batch_size=64, dataloader_drop_last=True)
