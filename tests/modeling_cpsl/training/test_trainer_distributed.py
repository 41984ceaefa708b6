"""CPSLTrainer over two real processes against one: the same coefficients, weights and metrics."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import coefficients, relative_distance


CASES = Path(__file__).parents[2] / "support" / "training_cases.py"
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"],
    "accelerate": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"),
    ],
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def launch(folder, launcher=None, **options):
    """Runs `training_cases.py`, on two processes with a launcher, and returns what rank 0 recorded."""
    defaults = {
        "latent_noise": "sample",
        "num_train_epochs": 8,
        "learning_rate": 1e-3,
        "per_device_eval_batch_size": 3,
        "ddp_backend": "gloo" if launcher else None,
    }
    output = folder / "record.pt"
    launcher_options = [*LAUNCHERS[launcher], free_port()] if launcher else []
    command = [sys.executable, *launcher_options, str(CASES), str(folder), str(output)]
    process = subprocess.run(
        [*command, json.dumps(defaults | options)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return torch.load(output, weights_only=True)


@pytest.fixture(scope="module", params=["none", "minmax_running"])
def one_process(request, tmp_path_factory):
    fields = {"feature_normalization": request.param}
    folder = tmp_path_factory.mktemp("one")
    return fields, launch(folder, config_fields=fields, per_device_train_batch_size=8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "batch_size", "accumulation"), [("torchrun", 4, 1), ("accelerate", 2, 2)], ids=["2x4", "2x2x2"]
)
def test_trajectory_does_not_depend_on_the_number_of_processes(
    one_process, tmp_path, launcher, batch_size, accumulation
):
    fields, one = one_process
    two = launch(
        tmp_path,
        launcher,
        config_fields=fields,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
    )
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    assert len(one["steps"]) == len(two["steps"]) == 32
    np.testing.assert_allclose(coefficients(one["steps"]), coefficients(two["steps"]), atol=1e-6)
    assert relative_distance(one["weights"], two["weights"]) <= 1e-5
    for name in ("eval_mae", "eval_corr", "eval_acc7", "eval_f1_nonzero"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_two_processes_go_on_in_the_middle_of_an_epoch_bit_for_bit(tmp_path, strategy):
    """Step 6 of 12 is the second of its epoch; each epoch's last batch holds 6 samples and 2 that fill it up."""
    options = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 6,
        "save_total_limit": None,
        "train_sampling_strategy": strategy,
    }
    whole = launch(tmp_path, "torchrun", **options)
    epochs = [list(itertools.chain(*whole["samples"][start : start + 4])) for start in (0, 4, 8)]
    assert [len(samples) for samples in epochs] == [len(set(samples)) for samples in epochs] == [30, 30, 30]
    assert epochs[0] != epochs[1] != epochs[2]
    shutil.rmtree(tmp_path / "run" / "checkpoint-12")
    resumed = launch(tmp_path, "torchrun", resume=True, **options)
    assert resumed["num_processes"] == 2
    assert resumed["samples"] == whole["samples"][6:]
    assert resumed["steps"] == whole["steps"][6:]
    assert resumed["log"] == whole["log"]
    assert ["loss" in row for row in resumed["log"]] == [False, True] * 3
    for name, value in whole["weights"].items():
        assert torch.equal(value, resumed["weights"][name]), name


@pytest.mark.slow
def test_two_processes_train_without_text(tmp_path):
    record = launch(tmp_path, "torchrun", config_fields={"use_text": False}, num_train_epochs=1)
    assert record["num_processes"] == 2
    assert len(record["steps"]) == 2
