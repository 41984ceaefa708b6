"""Every architecture in whole runs: on two processes, and as a row of an experiment."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from launching import finish, free_port, launch
from training_cases import run_and_record, small_backbone

from cpsl import main
from data_builders import load_aligned_dataset
from modeling_cpsl.architectures_cpsl import ARCHITECTURES


pytestmark = pytest.mark.slow
CASES = Path(__file__).parents[2] / "support" / "training_cases.py"
# One step on 8 samples, of which each of two processes has 4: as many as losses over a batch need.
ONE_STEP = {"num_samples": 8, "num_train_epochs": 1, "latent_noise": "sample"}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two processes record of a step of each architecture, in one launch."""
    folder = tmp_path_factory.mktemp("two")
    small_backbone(ONE_STEP["num_samples"])  # of several processes, not the one that asks first may write all of it
    step = ONE_STEP | {"per_device_train_batch_size": 4, "ddp_backend": "gloo"}
    runs = {name: step | {"config_fields": {"architecture": name}} for name in ARCHITECTURES}
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    finish(launch(*torchrun, CASES, folder, json.dumps(runs)))
    return torch.load(folder / "records.pt", weights_only=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_task_loss_of_two_processes_is_that_of_one(two_processes, architecture, tmp_path):
    fields = {"architecture": architecture}
    one = run_and_record(tmp_path, **ONE_STEP, per_device_train_batch_size=8, config_fields=fields)
    two = two_processes[architecture]
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    losses = [next(row["train_task_loss"] for row in run["log"] if "train_task_loss" in row) for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_each_is_a_row_of_an_experiment(tmp_path, capsys):
    """In a table that calls it by its title."""
    data = tmp_path / "data"
    data.mkdir()
    for name, split in load_aligned_dataset("sample").items():
        split.select(range(0, len(split), 16)).to_parquet(data / f"{name}.parquet")
    rows = {kind.title: {"architecture": name} for name, kind in ARCHITECTURES.items()}
    specification = tmp_path / "peers.yaml"
    specification.write_text(yaml.safe_dump({"base": "sample", "rows": rows, "seeds": [0]}, sort_keys=False))
    options = ["--dataset", str(data), "--output_dir", str(tmp_path / "out"), "--num_train_epochs", "1"]
    assert main(["experiment", str(specification), *options, "--disable_tqdm", "true"]) == 0, capsys.readouterr()
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "records").glob("*.json")]
    assert {record["row"]: record["status"] for record in records} == dict.fromkeys(rows, "finished")
    table = (tmp_path / "out" / "table.md").read_text()
    assert all(f"| {title} |" in table for title in rows)


def test_a_card_says_what_the_model_is(tmp_path):
    options = ["--architecture", "mag", "--output_dir", str(tmp_path), "--max_steps", "1", "--disable_tqdm", "true"]
    assert main(["train", "sample", *options]) == 0
    card = (tmp_path / "README.md").read_text()
    assert "The architecture is MAG (this package), after Rahman et al. (2020)" in card
    assert "`beta=1.0`, `dropout=0.5`, `shift_special_tokens=False`" in card
    assert "unimodal_logits" not in card
