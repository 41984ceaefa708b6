"""A run that is killed and resumed ends as the uninterrupted one."""

import json
import signal

import pytest
import torch
from forked import ForkedProcess
from training_cases import main


OPTIONS = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 12, "save_total_limit": 3}


def process_of(folder, **options):
    return ForkedProcess(main, folder, json.dumps({"case": OPTIONS | options}))


def run(folder, **options):
    process = process_of(folder, **options)
    process.start()
    errors = process.finish()[1]
    assert process.exitcode == 0, errors[-3000:]
    return torch.load(folder / "records.pt", weights_only=True)["case"]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end_bit_for_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    first = run(whole)
    process = process_of(killed)
    # Step 15 is in the middle of an epoch of four steps; the process dies somewhere after it.
    process.signal_when((killed / "case" / "run" / "checkpoint-15").is_dir, signal.SIGKILL)
    process.start()
    process.finish()
    assert process.exitcode == -signal.SIGKILL
    assert not (killed / "records.pt").exists()
    second = run(killed, resume=True)
    assert len(second["steps"]) < len(first["steps"]) == 48
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    assert second["log"] == first["log"]
    assert second["steps"] == first["steps"][-len(second["steps"]) :]
