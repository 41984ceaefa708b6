"""An experiment as a user runs it: killed and continued, in two parts, with a run that fails."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from task_cases import relabelled
from warm_python import warm_python

from cpsl import main
from data_builders import load_aligned_dataset
from modeling_cpsl import compute_sentiment_metrics
from modeling_cpsl.evidence import running
from modeling_cpsl.evidence.group_sums import SMALLEST_GROUP
from modeling_cpsl.evidence.running import Place, _gpu, launched_place
from modeling_cpsl.evidence.specification import PlannedRun, Specification


ROOT = Path(__file__).parents[3]
QUICK = [
    "--num_train_epochs",
    "1",
    "--latent_size",
    "8",
    "--modality_hidden_size",
    "8",
    "--fusion_size",
    "8",
    "--disable_tqdm",
    "true",
]


@pytest.fixture
def specification(tmp_path, small_data):
    """Two rows and two seeds on a part of the sample corpus."""
    content = {"base": "sample", "rows": {"text": {"modalities": "text"}, "A6": {"ablation": "A6"}}, "seeds": [0, 1]}
    path = tmp_path / "two_by_two.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path, ["--dataset", str(small_data), *QUICK]


def start(specification, *arguments):
    """Starts the command in a process of its own, with a session of its own so that all of it can be killed."""
    path, options = specification
    command = [warm_python(), "-m", "modeling_cpsl", "experiment", str(path), *map(str, arguments), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=path.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def records_in(folder):
    return {path.stem: json.loads(path.read_text()) for path in (folder / "records").glob("[!.]*.json")}


@pytest.mark.slow
def test_an_experiment_is_continued_after_a_kill_and_done_in_two_parts(specification, tmp_path):
    out = tmp_path / "out"
    killed = start(specification, "--output_dir", out)
    while not records_in(out) and killed.poll() is None:
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in (out / "records").glob("[!.]*.json")}
    assert 1 <= len(before) < 4
    # As where the kill comes between the record of a run and the removal of its folder.
    for path in before:
        (out / "runs" / path.stem).mkdir(exist_ok=True)

    parts = [start(specification, "--output_dir", out, "--shard", f"{part}/2") for part in range(2)]
    for part in parts:
        printed, errors = part.communicate(timeout=600)
        assert part.returncode == 0, errors[-3000:]
    assert "| A6 | 2 |" in printed or "| text | 2 |" in printed
    assert {path: path.stat().st_mtime_ns for path in before} == before

    records = records_in(out)
    assert sorted(records) == ["A6-seed0", "A6-seed1", "text-seed0", "text-seed1"]
    for record in records.values():
        predictions = pd.read_parquet(out / "records" / record["predictions"])
        metrics = compute_sentiment_metrics(predictions["prediction"].to_numpy(), predictions["label"].to_numpy())
        assert record["metrics"]["test_mae"] == pytest.approx(metrics["mae"], abs=1e-6)
        # What may be published says nothing of single samples.
        assert not any(name in json.dumps(record) for name in predictions["id"])
    assert sorted(path.suffix for path in (out / "runs").iterdir()) == [".log"] * 4
    for name in ("records.parquet", "table.md", "table.tex", "table.csv", "forest.png", "learning_curves.png"):
        assert (out / name).stat().st_size > 0
    assert len(pd.read_parquet(out / "records.parquet")) == 4


def test_launched_processes_share_out_the_runs_of_their_shard_and_the_gpus(monkeypatch):
    assert launched_place((1, 3)) == Place((1, 3), 0)
    places = []
    for machine, rank in ((0, 0), (0, 1), (1, 2), (1, 3)):
        told = {"RANK": rank, "WORLD_SIZE": 4, "LOCAL_RANK": rank - 2 * machine, "LOCAL_WORLD_SIZE": 2}
        for name, value in told.items():
            monkeypatch.setenv(name, str(value))
        places.append(launched_place((1, 2)))
        assert not told.keys() & os.environ.keys()
    assert places == [Place((4, 8), 0, 2), Place((5, 8), 1, 2), Place((6, 8), 0, 2), Place((7, 8), 1, 2)]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [_gpu(slot, 2) for slot in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [_gpu(slot, 2) for slot in range(3)] == ["3", "5", "3"]


def test_a_launched_process_does_not_end_the_others(specification, tmp_path, monkeypatch, capsys):
    """An error of one, or a report of nothing, would have the launcher end all trainings."""
    path, options = specification
    failed = PlannedRun("A6", 0, None)
    monkeypatch.setattr(running, "run_experiment", lambda *arguments, **others: [failed])
    arguments = ["experiment", str(path), "--output_dir", str(tmp_path / "out"), *options]
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert main(arguments) == 0
    assert "1 of the runs failed, the first is A6-seed0" in capsys.readouterr().err
    assert main(arguments) == 1  # now nothing is launched


def test_a_run_an_experiment_and_a_search_do_not_share_a_folder(specification, tmp_path, capsys):
    path, _ = specification
    space = tmp_path / "space.yaml"
    space.write_text("fusion: [gated, sum]\n")
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    (run / "all_results.json").write_text("{}")
    out.mkdir()
    Specification("sample", {"text": {}}, [0], "text").save(out)
    search = ["search", "sample", str(space), "--trials", "1"]
    for arguments, message in (
        (["experiment", str(path), "--output_dir", str(run)], f"output_dir {run} holds a run of `cpsl train`; name"),
        ([*search, "--output_dir", str(run)], f"output_dir {run} holds a run of `cpsl train`; name another one"),
        ([*search, "--output_dir", str(out)], f"output_dir {out} holds an experiment; name another one"),
        (["train", "sample", "--output_dir", str(out)], f"output_dir {out} holds an experiment or a search; name"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert [len([*folder.iterdir()]) for folder in (run, out)] == [1, 1]


def test_a_folder_with_another_experiment_is_refused(specification, tmp_path, capsys):
    path, _ = specification
    saved = Specification(base="sample", rows={"late": {}, "mag": {}}, seeds=[0], reference="late", folds=None)
    saved.save(tmp_path / "out")
    before = (tmp_path / "out" / "specification.yaml").read_bytes()
    assert main(["experiment", str(path), "--output_dir", str(tmp_path / "out")]) == 1
    assert "out: it has another experiment, whose rows are late, mag; name another" in capsys.readouterr().err
    assert (tmp_path / "out" / "specification.yaml").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_fails_is_recorded_and_the_others_go_on(specification, tmp_path):
    path, options = specification
    content = yaml.safe_load(path.read_text()) | {"seeds": [0]}
    content["rows"] = {"broken": {"learning_rate": 1e30}, "text": content["rows"]["text"]}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    earlier = tmp_path / "out" / "runs" / "broken-seed0.log"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("of an earlier try\n")
    process = start((path, options), "--output_dir", tmp_path / "out", "--workers", "2")
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "broken-seed0: failed: " in printed and "| text | 1 |" in printed
    [line] = errors.splitlines()[-1:]
    assert "1 of the runs failed, the first is broken-seed0" in line
    record = records_in(tmp_path / "out")["broken-seed0"]
    assert record["status"] == "failed" and record["error"]
    log = (tmp_path / "out" / record["log"]).read_text()
    assert log.startswith("of an earlier try\n") and record["error"] in log

    content["rows"]["text"]["residual_weight"] = 0.5
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    process = start((path, options), "--output_dir", tmp_path / "out")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "that run was made with other options (residual_weight: 1.0, now 0.5)" in errors.splitlines()[-1]
    kept = yaml.safe_load((tmp_path / "out" / "specification.yaml").read_text())
    assert "residual_weight" not in kept["rows"]["text"]  # a call that is refused changes nothing

    content["rows"]["text"].pop("residual_weight")
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    base = tmp_path / "base.yaml"
    base.write_text("dataset: sample\nmodel_name_or_path: sample\nlearning_rate: 0.5\n")
    process = start((path, options), "--output_dir", tmp_path / "out", "--base", base)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "that run was made with other options (" in errors.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_classes_are_compared_by_what_their_records_say(tmp_path, small_data, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for name, split in relabelled(load_aligned_dataset(small_data), "class").items():
        split = split.remove_columns("video_id").add_column("video_id", split["id"][:])  # each a group of its own
        split.to_parquet(data / f"{name}.parquet")
    rows = {"text": {"modalities": "text"}, "balanced": {"modalities": "text", "class_weights": "balanced"}}
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump({"base": "sample", "rows": rows}, sort_keys=False))
    process = start((path, ["--dataset", str(data), *QUICK]), "--output_dir", out)
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    assert "text-seed0: validation_f1_weighted " in printed and "| row | runs | f1_weighted | accuracy |" in printed
    assert main(["report", str(out), "--errors"]) == 0
    assert "most frequent mistakes" in (out / "errors.md").read_text()

    shutil.rmtree(data)  # nothing but the records is needed
    for table in (out / "records").glob("*.parquet"):
        table.unlink()
    assert main(["report", str(out), "--metrics", "uar,recall_negative,count_neutral"]) == 0
    assert "| row | runs | uar | recall_negative | count_neutral | parameters | seconds |" in capsys.readouterr().out
    table = pd.read_csv(out / "table.csv", index_col="row")
    for name, record in records_in(out).items():
        assert all(sums[0] >= SMALLEST_GROUP for groups in record["group_sums"].values() for sums in groups.values())
        for metric in ("uar", "recall_negative", "count_neutral"):
            found = table.loc[name.removesuffix("-seed0"), f"{metric}_mean"]
            assert found == pytest.approx(record["metrics"][f"test_{metric}"])
