"""CPSLTrainer over two real processes against one: the same coefficients, weights and metrics."""

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from launching import finish, free_port, launch
from task_cases import KINDS
from training_cases import coefficients, relative_distance, run_and_record

from modeling_cpsl.experiments.records import read_predictions


CASES = Path(__file__).parents[2] / "support" / "training_cases.py"
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"],
    "accelerate": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"),
    ],
}
OPTIONS = {"latent_noise": "sample", "num_train_epochs": 3, "learning_rate": 1e-3, "per_device_eval_batch_size": 3}
NORMALIZATIONS = ("none", "minmax_running")
SAVING = {"save_strategy": "steps", "save_steps": 6, "save_total_limit": None, "per_device_train_batch_size": 4}
RESUMABLE = {name: SAVING | {"train_sampling_strategy": name} for name in ("random", "group_by_length")}
# What is remembered of each sample is exchanged at each epoch's end and for each checkpoint.
REMEMBERING = {"config_fields": {"architecture": "self_mm", "architecture_options": {"dropout": 0.0}}}
RESUMABLE["remembering"] = SAVING | REMEMBERING
# What is trained of the text encoder, that samples are predicted twice, and which weights are kept.
RESUMABLE["fine-tuning"] = SAVING | {
    **{"lora_rank": 2, "rdrop_weight": 1.0},
    **{"weight_averaging": "ema", "weight_averaging_options": {"decay": 0.5}},
}
# The weights that it began with are kept for it.
RESUMABLE["mixout"] = SAVING | {"mixout": 0.3}
# What decides for single samples, in pairs of different moments.
BALANCING = {
    "opm and curriculum": {
        "modality_masking": "opm",
        "modality_masking_options": {"start_epoch": 0},
        "sample_weights": "curriculum",
    },
    "soft and gap": {"modality_masking": "soft", "sample_weights": "gap"},
    "contributions": {
        "balance": "shapley",
        "modality_masking": "contribution",
        "modality_masking_options": {"start_epoch": 1},
        "resample": "contribution",
        "resample_options": {"start_epoch": 1},
    },
    "boosted and discrepancy": {
        "config_fields": {"boosted_heads": 3},
        "resample": "discrepancy",
        "modality_masking": "uniform",
        "adaptive_strength": True,
        # no sample is evaluated twice to fill up a batch, which would count in the skills
        **{"eval_strategy": "epoch", "per_device_eval_batch_size": 5},
    },
}
MASKING = {"modality_masking": "contribution", "modality_masking_options": {"start_epoch": 1}}
RESUMABLE["masked and weighed"] = SAVING | MASKING | {"sample_weights": "curriculum"}
# Labels of each kind, each with a way to balance that needs what labels and predictions are.
LABELS = {
    "number": {"sample_weights": "curriculum"},
    "numbers": BALANCING["opm and curriculum"] | {"sample_weights": "none"},
    "class": {"class_weights": "balanced", "balance": "shapley", **MASKING},
    "classes": {"class_weights": "balanced", "resample": "contribution", "resample_options": {"start_epoch": 1}},
}
LABELS = {kind: LABELS[kind] | {"labels": kind} for kind in KINDS}


def on_two_processes(folder, launcher, runs):
    """Launches `training_cases.py` once for all the runs, `{name: options}`, and returns what rank 0 recorded."""
    runs = {name: OPTIONS | {"ddp_backend": "gloo"} | options for name, options in runs.items()}
    finish(launch(*LAUNCHERS[launcher], free_port(), CASES, folder, json.dumps(runs)))
    return torch.load(folder / "records.pt", weights_only=True)


def normalized(normalization):
    return {"config_fields": {"feature_normalization": normalization}}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    options = OPTIONS | {"per_device_train_batch_size": 8}
    return {name: run_and_record(folder / name, **options, **normalized(name)) for name in NORMALIZATIONS}


def runs_of(batch_size, accumulation):
    sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    return {name: sizes | normalized(name) for name in NORMALIZATIONS}


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory):
    """The folder of one launch for all that torchrun is to show, and its records."""
    folder = tmp_path_factory.mktemp("torchrun")
    runs = runs_of(4, 1) | RESUMABLE
    others = BALANCING | LABELS
    runs |= {name: options | {"per_device_train_batch_size": 4} for name, options in others.items()}
    runs["dropping out"] = {"rdrop_weight": 1.0, "config_fields": {"classifier_dropout": 0.5}, "num_train_epochs": 1}
    runs["without_text"] = {"config_fields": {"use_text": False}, "num_train_epochs": 1}
    return folder, on_two_processes(folder, "torchrun", runs)


@pytest.fixture(scope="module", params=["2x4", "2x2x2"])
def two_processes(request, tmp_path_factory):
    if request.param == "2x4":
        return request.getfixturevalue("torchrun")[1]
    return on_two_processes(tmp_path_factory.mktemp("accelerate"), "accelerate", runs_of(2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_trajectory_does_not_depend_on_the_number_of_processes(one_process, two_processes, normalization):
    one, two = one_process[normalization], two_processes[normalization]
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    assert len(one["steps"]) == len(two["steps"]) == 12
    np.testing.assert_allclose(coefficients(one["steps"]), coefficients(two["steps"]), atol=1e-6)
    assert relative_distance(one["weights"], two["weights"]) <= 1e-5
    for name in ("eval_mae", "eval_corr", "eval_acc7", "eval_f1_nonzero"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], abs=1e-5)


@pytest.mark.slow
def test_two_processes_train_without_text(torchrun):
    record = torchrun[1]["without_text"]
    assert record["num_processes"] == 2
    assert len(record["steps"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_each_kind_are_predicted_alike_by_any_number_of_processes(torchrun, tmp_path, kind):
    folder, records = torchrun
    one = run_and_record(tmp_path, **OPTIONS | LABELS[kind] | {"per_device_train_batch_size": 8})
    two = records[kind]
    assert two["num_processes"] == 2
    assert relative_distance(one["weights"], two["weights"]) <= 1e-5
    assert two["figures"] == pytest.approx(one["figures"], abs=1e-5)
    tables = [read_predictions(path / "run", "eval") for path in (tmp_path, folder / kind)]
    pd.testing.assert_frame_equal(*tables, check_exact=False, atol=1e-4)


@pytest.mark.slow
def test_two_processes_predict_each_sample_twice(torchrun):
    record = torchrun[1]["dropping out"]
    assert record["num_processes"] == 2
    [divergence] = [row["train_rdrop_loss"] for row in record["log"] if "train_rdrop_loss" in row]
    assert 0 < divergence < math.inf


@pytest.mark.slow
@pytest.mark.parametrize("name", ["remembering", "fine-tuning"])
def test_what_is_kept_over_steps_does_not_depend_on_the_number_of_processes(torchrun, tmp_path, name):
    two = torchrun[1][name]
    one = run_and_record(tmp_path, **OPTIONS | RESUMABLE[name] | {"per_device_train_batch_size": 8})
    assert two["num_processes"] == 2
    assert relative_distance(one["weights"], two["weights"]) <= 1e-5
    assert two["metrics"]["eval_mae"] == pytest.approx(one["metrics"]["eval_mae"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", BALANCING)
def test_what_balances_samples_does_not_depend_on_the_number_of_processes(torchrun, tmp_path, name):
    two = torchrun[1][name]
    one = run_and_record(tmp_path, **OPTIONS | BALANCING[name] | {"per_device_train_batch_size": 8})
    assert two["num_processes"] == 2
    assert [sorted(step) for step in two["samples"]] == [sorted(step) for step in one["samples"]]
    assert relative_distance(one["weights"], two["weights"]) <= 1e-5
    assert two["metrics"]["eval_mae"] == pytest.approx(one["metrics"]["eval_mae"], abs=1e-5)


@pytest.fixture(scope="module")
def resumed(torchrun):
    """Records of two processes that resume what others have begun, in the middle of the second epoch."""
    folder, _ = torchrun
    for name in RESUMABLE:
        shutil.rmtree(folder / name / "run" / "checkpoint-12")
    runs = {name: options | {"resume": True} for name, options in RESUMABLE.items()}
    return on_two_processes(folder, "torchrun", runs)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", RESUMABLE)
def test_two_processes_go_on_in_the_middle_of_an_epoch_bit_for_bit(torchrun, resumed, strategy):
    """Step 6 of 12 is the second of its epoch; each epoch's last batch holds 6 samples and 2 that fill it up."""
    whole, resumed = torchrun[1][strategy], resumed[strategy]
    epochs = [list(itertools.chain(*whole["samples"][start : start + 4])) for start in (0, 4, 8)]
    assert [len(samples) for samples in epochs] == [len(set(samples)) for samples in epochs] == [30, 30, 30]
    assert epochs[0] != epochs[1] != epochs[2]
    assert resumed["num_processes"] == 2
    assert resumed["samples"] == whole["samples"][6:]
    # as text, in which the error of a modality that is masked in a whole step, NaN, equals itself
    assert repr(resumed["steps"]) == repr(whole["steps"][6:])
    assert resumed["log"] == whole["log"]
    assert ["loss" in row for row in resumed["log"]] == [False, True] * 3
    for name, value in whole["weights"].items():
        assert torch.equal(value, resumed["weights"][name]), name
