"""A run that is killed and resumed ends as the uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch


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
