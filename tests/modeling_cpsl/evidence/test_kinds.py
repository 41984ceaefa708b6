"""Experiments on labels of every kind: tables, figures, error analysis and search, from records as runs leave them."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from task_cases import relabelled

from cpsl import main
from data_builders import load_aligned_dataset
from modeling_cpsl.evidence.errors import write_error_analysis
from modeling_cpsl.evidence.records import task_of_record, write_record
from modeling_cpsl.evidence.report import write_report
from modeling_cpsl.evidence.search import search
from modeling_cpsl.evidence.task_sums import sum_names, task_sums
from modeling_cpsl.experiments.label_formats import task_fields, task_of_fields
from modeling_cpsl.experiments.prediction_tables import predictions_and_labels
from modeling_cpsl.experiments.records import read_predictions, write_predictions
from modeling_cpsl.number_task_cpsl import NumberTask
from modeling_cpsl.training.labels import label_values
from modeling_cpsl.training.task_metrics import best_metric, compute_task_metrics


# By kind, the metrics of a table in their order; the first is that of learning curves and of a search.
COLUMNS = {
    "class": ["f1_weighted", "accuracy", "uar", "f1_macro"],
    "classes": ["f1_macro", "accuracy", "exact_match", "uar", "f1_micro", "f1_weighted"],
    "numbers": ["mae", "corr", "ccc"],
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """By kind, the folder of a part of the sample corpus with such labels, and its splits."""
    folders = {}
    own = load_aligned_dataset("sample")
    for kind in COLUMNS:
        folder = tmp_path_factory.mktemp(kind)
        for name, split in relabelled(own, kind).items():
            split.select(range(0, len(split), 8 if name == "train" else 4)).to_parquet(folder / f"{name}.parquet")
        folders[kind] = folder, load_aligned_dataset(folder)
    return folders


def logits_of(labels, task, noise, generator):
    """Logits that say the labels, but for noise."""
    right = np.eye(len(task.names))[labels] if labels.ndim == 1 else labels
    center = right if isinstance(task, NumberTask) else 6 * right - 3
    return (center + noise * generator.normal(size=center.shape)).astype(np.float32)


def write_experiment(folder, data_folder, splits):
    """Two seeds of a bad row, a good one and one of both modalities, as trainings would leave them."""
    rows = {"bad": {"modalities": "text"}, "good": {"modalities": "acoustic"}, "both": {"modalities": "text,acoustic"}}
    specification = {"base": "sample", "rows": rows, "seeds": [0, 1], "reference": "bad"}
    specification["options"] = ["--dataset", str(data_folder)]
    (folder / "specification.yaml").write_text(yaml.safe_dump(specification, sort_keys=False))
    fields, split = task_fields(splits["train"].features), splits["test"]
    task, labels = task_of_fields(fields), label_values(split, task_of_fields(fields))
    groups = [f"g{number % 12:02d}" for number in range(len(split))]
    for row, noise in {"bad": 9.0, "good": 2.0, "both": 1.0}.items():
        for seed in (0, 1):
            generator = np.random.default_rng([seed, int(noise)])
            logits = logits_of(labels, task, noise, generator)
            parts = {"text": logits, "acoustic": -logits} if row == "both" else {}
            path = folder / "records" / f"{row}-seed{seed}.json"
            record = {"row": row, "seed": seed, "fold": None, "status": "finished", "options": rows[row]}
            record |= {"seconds": 1.0, "parameters": 10, "labels": fields, "sum_names": sum_names(task)}
            record["curves"] = [
                {"epoch": 1.0, f"eval_{best_metric(task)}": noise, "eval_loss": 1.0, "train_loss": 2.0}
            ]
            path.parent.mkdir(exist_ok=True)
            write_predictions(split["id"], labels, logits, parts, path.parent, "test", task)
            table = read_predictions(path.parent, "test")
            (path.parent / "predictions_test.parquet").rename(path.with_suffix(".test.parquet"))
            sums = task_sums(*predictions_and_labels(table, task), groups, task)
            write_record(record | {"metrics": {}, "group_sums": {"test": sums}}, path)


@pytest.fixture(params=COLUMNS)
def experiment(request, corpora, tmp_path):
    """The kind, the folder of an experiment on such labels, and the splits of its data."""
    write_experiment(tmp_path, *corpora[request.param])
    return request.param, tmp_path, corpora[request.param][1]


@pytest.mark.usefixtures("quick")
def test_a_report_shows_the_metrics_of_the_kind_in_their_directions(experiment):
    kind, folder, splits = experiment
    text = write_report(folder)
    columns = COLUMNS[kind]
    assert text.splitlines()[0] == f"| row | runs | {' | '.join(columns)} | parameters | seconds |"
    assert "nonzero" not in text and "has0" not in text
    [good] = [line for line in text.splitlines() if line.startswith("| good") and "[" in line and "better" in line]
    assert "worse" not in text.partition("Differences")[2].replace("better or worse", "") and good.count("better") > 1
    best = (folder / "table.tex").read_text().splitlines()[-3]
    assert best.startswith("both") and best.count(r"\textbf") == len(columns)

    with (folder / "table.csv").open() as file:
        table = {entry["row"]: entry for entry in csv.DictReader(file)}
    record = json.loads((folder / "records" / "good-seed0.json").read_text())
    task, expected = task_of_record(record), []
    for seed in (0, 1):
        noise = np.random.default_rng([seed, 2])
        labels = label_values(splits["test"], task)
        expected.append(compute_task_metrics(task, logits_of(labels, task, 2.0, noise), labels))
    for name in expected[0]:
        assert float(table["good"][f"{name}_mean"]) == pytest.approx(np.mean([each[name] for each in expected]))

    metric = "corr" if kind == "numbers" else "uar"
    [line] = [line for line in text.splitlines() if line.startswith("What each modality contributes to")]
    assert f"`{metric}`: alone" in line and ("one answer" in line) == (kind != "numbers")
    shapley = [
        float(line.split(" | ")[3].split(" ")[0]) for line in text.splitlines() if line.startswith("| acoustic")
    ]
    assert shapley[0] > 0


def test_figures_are_drawn(corpora, tmp_path):
    write_experiment(tmp_path, *corpora["class"])
    write_report(tmp_path)
    for name in ("forest.png", "learning_curves.png"):
        with Image.open(tmp_path / name) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_errors_are_those_of_the_predictions(experiment):
    kind, folder, splits = experiment
    text = write_error_analysis(folder).read_text()
    tables = [pd.read_parquet(folder / "records" / f"good-seed{seed}.test.parquet") for seed in (0, 1)]
    task = task_of_fields(task_fields(splits["train"].features))
    errors = []
    for table in tables:
        errors.append(task.distance(*map(torch.from_numpy, predictions_and_labels(table, task))).numpy())
    together = pd.concat(tables, ignore_index=True).assign(error=np.concatenate(errors))
    assert "By preferred modality: left out" in text
    if kind == "numbers":
        assert "By label: left out" in text and "right: left out" in text
        assert "Mean absolute errors (means over sentiment, intensity)" in text
    else:
        name = task.names[0]
        inside = together["label"].str.split("; ").map(lambda names: name in names)
        [line] = [
            line for line in text.splitlines() if line.startswith(f"| {name} | ") and "%" in line.split(" | ")[1]
        ]
        assert line.split(" | ")[1:4:2] == [f"{inside.mean():.0%}", f"{together['error'][inside].mean():.3f}"]
        assert "| right alone | both |" in text
        assert ("most frequent mistakes" in text) == (kind == "class")
    worst = text.partition("| id | error | label |")[2].splitlines()[2:]
    assert len(worst) == 20 and ("most frequent prediction" in text) == (kind != "numbers")


def test_rows_with_other_labels_are_not_compared(experiment, capsys):
    _, folder, _ = experiment
    path = folder / "records" / "good-seed0.json"
    record = json.loads(path.read_text())
    record["labels"]["id2label"] = {number: f"n{number}" for number in record["labels"]["id2label"]}
    record["labels"].pop("label_ranges", None)
    record["sum_names"] = sum_names(task_of_record(record))
    write_record(record, path)
    assert main(["report", str(folder)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "has other labels than row" in line and "compare runs on the same labels" in line


@pytest.mark.parametrize(("option", "metric"), [((), None), (("--metric_for_best_model", "uar"), "uar")])
@pytest.mark.parametrize("kind", COLUMNS)
def test_a_search_is_judged_by_the_metric_of_the_kind(kind, option, metric, corpora, tmp_path, monkeypatch):
    def train(specification, folder, **options):
        [run], [params] = specification.planned_runs(), specification.rows.values()
        value = {f"validation_{name}": params["learning_rate"] for name in ("mae", "f1_weighted", "f1_macro", "uar")}
        record = {"row": run.row, "seed": run.seed, "fold": run.fold, "status": "finished", "sum_names": sum_names()}
        write_record(record | {"metrics": value}, folder / "records" / f"{run.name}.json")
        return []

    monkeypatch.setattr("modeling_cpsl.evidence.search.run_experiment", train)
    (tmp_path / "space.yaml").write_text("learning_rate: [0.1, 0.2, 0.3]\n")
    options = ["--dataset", str(corpora[kind][0]), *option]
    found = search("sample", tmp_path / "space.yaml", tmp_path / "out", 8, options=options)
    metric = metric or COLUMNS[kind][0]
    best = 0.1 if metric == "mae" else 0.3
    assert f"validation {metric} {best:.4f}" in found
