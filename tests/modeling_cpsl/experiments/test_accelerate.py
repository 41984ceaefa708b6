"""`accelerate launch` with the files of recipes/accelerate: two processes run and find what one finds."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from launching import finish, free_port, launch
from safetensors.torch import load_file

from modeling_cpsl.experiments import assembly, recipe, run
from modeling_cpsl.experiments.data_arguments import DataArguments
from modeling_cpsl.experiments.members import read_member
from modeling_cpsl.training.metrics import METRICS


ROOT = Path(__file__).parents[3]


ACCELERATE = ("-m", "accelerate.commands.launch")
CONFIGS = ROOT / "modeling_cpsl" / "recipes" / "accelerate"
NUM_PROCESSES = {"fsdp2": 4, "one_machine": 4, "two_cpu_processes": 2, "two_machines": 8}
TRAIN_SHARE = 0.25
OPTIONS = [
    *("--train_share", str(TRAIN_SHARE)),
    *("--max_steps", "3", "--use_cpu", "--disable_tqdm", "true", "--per_device_eval_batch_size", "8"),
    *("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"),
]


def check_clean_end(errors):
    """Checks that processes that have ended have not complained about how they ended."""
    for trace in ("Traceback", "abort", "terminate called", "Signal", "destroy_process_group", "leaked"):
        assert trace not in errors, errors[-3000:]


def test_every_file_is_tried():
    assert NUM_PROCESSES.keys() == {path.stem for path in CONFIGS.iterdir()}


@pytest.mark.parametrize("name", NUM_PROCESSES)
def test_accelerate_reads_the_file(name):
    path = CONFIGS / f"{name}.yaml"
    assert load_config_from_file(str(path)).num_processes == NUM_PROCESSES[name]
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "run_train.py"])
    arguments, config, _ = _validate_launch_command(arguments)
    assert arguments.num_processes == NUM_PROCESSES[name]
    assert arguments.num_machines == (2 if name == "two_machines" else 1)
    assert arguments.mixed_precision == "no"
    if name == "fsdp2":
        assert config.distributed_type == DistributedType.FSDP
        assert arguments.fsdp_version == 2
        assert arguments.fsdp_state_dict_type == "FULL_STATE_DICT"
    else:
        assert arguments.multi_gpu
    # The loader passes over what it does not know in here.
    assert all(hasattr(arguments, key) for key in yaml.safe_load(path.read_text()).get("fsdp_config", {}))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """A training on two processes, with a member to be distilled from: what it left and what it printed."""
    output_dir = tmp_path_factory.mktemp("two")
    config = ("--config_file", CONFIGS / "two_cpu_processes.yaml", "--main_process_port", free_port())
    command = ("-m", "modeling_cpsl", "train", "sample", "--output_dir", output_dir)
    distilled = ("--distillation_members", "1")
    printed, errors = finish(launch(*ACCELERATE, *config, *command, *OPTIONS, *distilled))
    check_clean_end(errors)
    return output_dir, printed


@pytest.mark.slow
def test_two_processes_ran(two_processes):
    output_dir, printed = two_processes
    log = [json.loads(line) for line in (output_dir / "training_log.jsonl").read_text().splitlines()]
    # 3 steps of the recipe's 16 samples on each of two processes
    num_samples = len(assembly.load_data(DataArguments(train_share=TRAIN_SHARE))["train"])
    steps_per_epoch = -(-num_samples // (2 * 16))
    assert log[-1]["epoch"] == pytest.approx(3 / steps_per_epoch)
    assert printed.count("are in") == printed.count("kept: ") == printed.count("member 1 of 1") == 1
    member = read_member(output_dir / "members" / "0")
    assert len(member.logits["train"]) == num_samples and np.isfinite(member.logits["train"]).all()
    assert [path.name for path in (output_dir / "members").iterdir()] == ["0.pt"]
    assert any("train_distillation_loss" in row for row in log)


@pytest.mark.slow
def test_evaluation_on_two_processes_is_that_of_one(two_processes, tmp_path):
    """Two processes share 15 validation batches: the one that is repeated to fill up must not count."""
    output_dir, _ = two_processes
    arguments = recipe.parse_arguments(["sample", "--output_dir", str(tmp_path), *OPTIONS])
    trainer, dataset = assembly.prepare(arguments)
    trainer.model.load_state_dict(load_file(output_dir / "model.safetensors"))
    one = run.evaluate_splits(trainer, dataset)
    two = json.loads((output_dir / "all_results.json").read_text())
    assert -(-len(dataset["validation"]) // 8) % 2 == 1
    for split in ("validation", "test"):
        for name in METRICS:
            assert two[f"{split}_{name}"] == one[f"{split}_{name}"], name
        first, second = (pd.read_parquet(folder / f"predictions_{split}.parquet") for folder in (tmp_path, output_dir))
        pd.testing.assert_frame_equal(first, second, check_exact=True)


@pytest.mark.slow
def test_two_machines_find_each_other(tmp_path):
    """Both machines are this one, with one process each.

    Of the two launchers the one that ends first takes the store along that the other may still ask about, which it
    then reports with a traceback. So the processes' own output is looked at, which the launchers write to files too.
    """
    config = ("--config_file", CONFIGS / "two_machines.yaml", "--num_processes", 2, "--main_process_port", free_port())
    script = ROOT / "examples" / "trainer_modulation.py"
    logs = [tmp_path / "first", tmp_path / "second"]
    machines = [
        launch(*ACCELERATE, *config, "--machine_rank", rank, "--log_dir", log, "--tee", 3, script, "--epochs", 1)
        for rank, log in enumerate(logs)
    ]
    for machine in machines:
        finish(machine)
    for log in logs:
        [errors] = log.rglob("stderr.log")
        check_clean_end(errors.read_text())
    outputs = [next(log.rglob("stdout.log")).read_text() for log in logs]
    first, second = ([ast.literal_eval(line) for line in output.splitlines()] for output in outputs)
    # 512 samples in steps of 2 micro-batches of 16 on each of two processes; one alone would take 16 steps
    summary = {name: float(value) for name, value in first[-1].items()}
    assert round(summary["train_runtime"] * summary["train_steps_per_second"]) == 8
    assert first[0]["coefficient_visual"] == second[0]["coefficient_visual"]
