"""Tables and figures from records, against the predictions that the records are of."""

import csv
import json

import numpy as np
import pytest
import yaml
from PIL import Image

from cpsl import main
from modeling_cpsl import compute_sentiment_metrics
from modeling_cpsl.evidence.group_sums import SUM_NAMES, group_sums
from modeling_cpsl.evidence.records import write_record
from modeling_cpsl.evidence.report import write_report


SEEDS, FOLDS, SAMPLES = (0, 1, 2), 3, 60


def simulated(row, seed, fold):
    """Predictions, labels and groups of one run; the row `better` has half the errors."""
    samples = np.random.default_rng(fold)
    labels = np.round(samples.uniform(-3, 3, SAMPLES), 1)
    groups = [f"g{fold}{index % 10}" for index in range(SAMPLES)]
    noise = np.random.default_rng([seed, fold]).normal(0, 0.8, SAMPLES)
    return labels + noise * (0.5 if row == "better" else 1.0) + (0.001 if row == "same" else 0), labels, groups


def all_folds(row, seed):
    """Predictions and labels of all folds together."""
    return [np.concatenate([simulated(row, seed, fold)[part] for fold in range(FOLDS)]) for part in (0, 1)]


@pytest.fixture
def experiment(tmp_path):
    """The folder of an experiment of three rows, three seeds and three folds, with one run that failed."""
    rows = {"text": {}, "same": {}, "better": {}}
    specification = {"base": "gone.yaml", "rows": rows, "seeds": [*SEEDS], "folds": {"k": FOLDS}, "reference": "text"}
    (tmp_path / "specification.yaml").write_text(yaml.safe_dump(specification))
    for row in rows:
        for seed in SEEDS:
            for fold in range(FOLDS):
                record = {"row": row, "seed": seed, "fold": fold, "options": {}, "status": "finished"}
                if (row, seed, fold) == ("same", 2, 1):
                    record |= {"status": "failed", "error": "no space left", "log": "runs/x.log"}
                else:
                    sums = group_sums(*simulated(row, seed, fold))
                    record |= {"metrics": {"test_mae": 0.1}, "seconds": 10.0, "parameters": 2_000_000}
                    record |= {"sum_names": SUM_NAMES, "group_sums": {"test": sums}}
                    record["curves"] = [{"epoch": float(epoch), "eval_mae": 1 / epoch} for epoch in (1, 2)]
                write_record(record, tmp_path / "records" / f"{row}-seed{seed}-fold{fold}.json")
    return tmp_path


def test_figures_are_those_of_the_predictions_of_all_folds(experiment):
    write_report(experiment)
    with (experiment / "table.csv").open() as file:
        table = {entry["row"]: entry for entry in csv.DictReader(file)}
    by_seed = {}
    for row in ("text", "better"):
        by_seed[row] = []
        for seed in SEEDS:
            by_seed[row].append(compute_sentiment_metrics(*all_folds(row, seed)))
        for name in ("mae", "corr", "acc7", "f1_nonzero"):
            values = [metrics[name] for metrics in by_seed[row]]
            assert float(table[row][f"{name}_mean"]) == pytest.approx(np.mean(values))
            assert float(table[row][f"{name}_deviation"]) == pytest.approx(np.std(values, ddof=1))
    difference = np.mean([metrics["mae"] for metrics in by_seed["better"]]) - float(table["text"]["mae_mean"])
    assert float(table["better"]["mae_difference"]) == pytest.approx(difference)
    assert float(table["better"]["mae_high"]) < 0
    # A seed that lacks a fold does not count: its figures would be of other samples.
    same = [compute_sentiment_metrics(*all_folds("same", seed)) for seed in (0, 1)]
    assert float(table["same"]["mae_mean"]) == pytest.approx(np.mean([metrics["mae"] for metrics in same]))


def test_only_a_clear_difference_is_called_one(experiment):
    text = write_report(experiment)
    [better] = [line for line in text.splitlines() if line.startswith("| better") and "[" in line]
    [same] = [line for line in text.splitlines() if line.startswith("| same") and "[" in line]
    assert "better, p" in better and "worse" not in better
    assert "better" not in same.split("|")[2]
    assert "| same | 8 (1 failed) |" in text
    assert "180 samples of the test split in 30 groups, of 3 folds together" in text
    assert "cannot tell differences below" in text
    assert (experiment / "table.md").read_text() == text


def test_latex_marks_best_and_second(experiment):
    write_report(experiment)
    lines = (experiment / "table.tex").read_text().splitlines()
    assert r"\toprule" in lines and r"acc2\_nonzero" in lines[2]
    [better] = [line for line in lines if line.startswith("better")]
    assert better.count(r"\textbf{") == better.count("&")
    assert sum(line.count(r"\underline{") for line in lines) >= better.count("&")


def test_figures_are_drawn(experiment):
    write_report(experiment)
    for name in ("forest.png", "learning_curves.png"):
        with Image.open(experiment / name) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_another_reference_and_what_is_not_there(experiment, capsys):
    assert main(["report", str(experiment), "--reference", "better"]) == 0
    assert "Differences from `better`" in capsys.readouterr().out
    for arguments, message in (
        (["--reference", "bettr"], "reference 'bettr' is not a row; did you mean better?"),
        (["--split", "validation"], "no run has the split 'validation'; they have test"),
    ):
        assert main(["report", str(experiment), *arguments]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert message in line


def test_damaged_records_are_named(experiment, capsys):
    path = experiment / "records" / "text-seed0-fold0.json"
    record = json.loads(path.read_text())
    for damage, message in (
        ("{", "not a readable record of a run"),
        (json.dumps(record | {"sum_names": ["n"]}), "its sums are those of another version"),
    ):
        path.write_text(damage)
        assert main(["report", str(experiment)]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert str(path) in line and message in line and "remove it" in line
    assert main(["report", str(experiment / "records")]) == 1
    assert "no record in" in capsys.readouterr().err
