"""Tables and figures from records, against the predictions that the records are of."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_hex
from PIL import Image

from cpsl import main
from modeling_cpsl import compute_sentiment_metrics
from modeling_cpsl.evidence.figures import mean_log
from modeling_cpsl.evidence.group_sums import SUM_NAMES, group_sums
from modeling_cpsl.evidence.records import FINISHED, write_record
from modeling_cpsl.evidence.report import write_report
from modeling_cpsl.evidence.statistics import paired_differences
from modeling_cpsl.training.metrics import METRICS


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


def curves(seed, fold):
    """The log of a run of two epochs, of which the last seed's has but one."""
    log = []
    for epoch in (1.0, 2.0)[: 1 if seed == SEEDS[-1] else 2]:
        log += [
            {"epoch": epoch, "train_loss": 2 / epoch, "train_imbalance": 0.1, "train_error_acoustic": seed + epoch},
            {"epoch": epoch, "eval_mae": (1 + seed + fold) / epoch, "eval_loss": 3 / epoch},
        ]
    return [*log, {"epoch": epoch, "train_runtime": 3.0, "train_loss": 9.0}]


@pytest.fixture
def experiment(tmp_path):
    """The folder of an experiment of three rows, three seeds and three folds, with one run that failed."""
    rows = {"text": {}, "same": {}, "better": {}}
    specification = {"base": "gone.yaml", "rows": rows, "seeds": [*SEEDS], "folds": {"k": FOLDS}, "reference": "text"}
    (tmp_path / "specification.yaml").write_text(yaml.safe_dump(specification, sort_keys=False))
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
                    record["curves"] = curves(seed, fold)
                write_record(record, tmp_path / "records" / f"{row}-seed{seed}-fold{fold}.json")
    return tmp_path


@pytest.mark.usefixtures("quick")
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


@pytest.mark.usefixtures("quick")
def test_data_without_a_test_split_are_reported_on_by_their_validation_split(experiment):
    for path in (experiment / "records").glob("*.json"):
        record = json.loads(path.read_text())
        if record["status"] == FINISHED:
            record["group_sums"] = {"validation": record["group_sums"]["test"]}
        write_record(record, path)
    text = write_report(experiment)
    assert "180 samples of the validation split in 30 groups" in text
    assert "The epoch was chosen on the validation split, whose figures are therefore a little too good." in text


@pytest.mark.usefixtures("quick")
def test_only_a_clear_difference_is_called_one(experiment):
    text = write_report(experiment)
    [better] = [line for line in text.splitlines() if line.startswith("| better") and "[" in line]
    [same] = [line for line in text.splitlines() if line.startswith("| same") and "[" in line]
    assert "better, p" in better and "worse" not in better
    assert "better" not in same.split("|")[2]
    assert "| same | 6 (1 failed) |" in text
    assert "Left out are 2 finished runs of `same`: rows are compared over the folds" in text
    assert "better or worse only where the interval excludes 0 and p is below 0.05. With 2 seeds both are" in text
    assert "180 samples of the test split in 30 groups, of 3 folds together" in text
    smallest = pd.read_csv(experiment / "table.csv", index_col="row")["mae_smallest"].dropna()
    assert f"cannot tell differences below {smallest.min():.3f} to {smallest.max():.3f} in mae" in text
    assert (experiment / "table.md").read_text() == text


@pytest.mark.usefixtures("quick")
def test_a_metric_that_records_have_no_sums_for_is_refused(experiment, monkeypatch):
    monkeypatch.setitem(METRICS, "acc3", METRICS["acc7"])
    with pytest.raises(ValueError, match="metric 'acc3' does not follow from the sums of the records; there are"):
        write_report(experiment, metrics=["acc3"])


@pytest.mark.usefixtures("quick")
def test_a_difference_in_four_groups_is_not_called_one(experiment):
    remove_runs(experiment, "*-fold[12].json")
    for path in (experiment / "records").glob("*.json"):
        record = json.loads(path.read_text())
        groups = record["group_sums"]["test"]
        write_record(record | {"group_sums": {"test": {name: groups[name] for name in sorted(groups)[:4]}}}, path)
    text = write_report(experiment, metrics=["mae"])
    [better] = [line for line in text.splitlines() if line.startswith("| better") and "[" in line]
    assert float(pd.read_csv(experiment / "table.csv", index_col="row")["mae_high"]["better"]) < 0
    assert better.endswith("], p 0.250 |")  # the smallest of 2**4 exchanges is .125, times two rows


def remove_runs(experiment, pattern):
    for path in (experiment / "records").glob(pattern):
        path.unlink()


@pytest.mark.usefixtures("quick")
def test_rows_of_an_unfinished_experiment_are_compared_over_the_folds_that_all_have(experiment):
    remove_runs(experiment, "same-*")
    remove_runs(experiment, "better-*-fold2.json")
    text = write_report(experiment, metrics=["mae"])
    common = {
        row: [[simulated(row, seed, fold)[:2] for fold in (0, 1)] for seed in SEEDS] for row in ("text", "better")
    }
    for row, seeds in common.items():
        maes = [np.mean([np.abs(predictions - labels).mean() for predictions, labels in folds]) for folds in seeds]
        assert f"| {row} | 6 | {np.mean(maes):.4f} ± {np.std(maes, ddof=1):.4f} |" in text
    assert "120 samples of the test split in 20 groups, of 2 folds together" in text
    assert "over 3 seeds" in text and "Seeds are drawn in the interval; p is about these trained models." in text
    assert "Left out are 3 finished runs of `text`: " in text


@pytest.mark.usefixtures("quick")
def test_a_seed_that_is_not_finished_for_any_row_counts_as_none(experiment):
    remove_runs(experiment, "same-*")
    remove_runs(experiment, "*-seed[12]-fold2.json")
    text = write_report(experiment, metrics=["mae"])
    assert "of 3 folds together" in text and "mean over 1 seed." in text and "| text | 3 |" in text
    assert "Left out are 8 finished runs of `text`, `better`: " in text
    assert "With 1 seed both are about these trained models: the same row with another seed may differ" in text


@pytest.mark.usefixtures("quick")
def test_a_row_without_a_fold_in_common_is_left_out(experiment):
    remove_runs(experiment, "same-*-fold[01].json")
    remove_runs(experiment, "better-*-fold2.json")
    remove_runs(experiment, "text-*-fold2.json")
    text = write_report(experiment, metrics=["mae"])
    assert "| same |" not in text and "| better | 6 |" in text and "Left out are 3 finished runs of `same`: " in text


@pytest.mark.usefixtures("quick")
def test_a_row_that_predicts_what_the_reference_does_says_nothing_of_the_smallest_difference(experiment):
    for path in (experiment / "records").glob("text-*.json"):
        record = json.loads(path.read_text()) | {"row": "same"}
        write_record(record, path.with_name(path.name.replace("text", "same")))
    text = write_report(experiment, metrics=["mae"])
    smallest = pd.read_csv(experiment / "table.csv", index_col="row")["mae_smallest"]
    assert smallest["same"] == 0 and f"cannot tell differences below {smallest['better']:.3f} in mae: " in text
    remove_runs(experiment, "better-*")
    assert "cannot tell differences" not in write_report(experiment, metrics=["mae"])


@pytest.mark.usefixtures("quick")
def test_latex_marks_best_and_second(experiment):
    write_report(experiment)
    lines = (experiment / "table.tex").read_text().splitlines()
    assert r"\toprule" in lines and r"acc2\_nonzero" in lines[2]
    [better] = [line for line in lines if line.startswith("better")]
    assert better.count(r"\textbf{") == better.count("&")
    assert sum(line.count(r"\underline{") for line in lines) >= better.count("&")


def test_figures_are_drawn(experiment):
    write_report(experiment)
    rows = [f"curves/{row}-{name}.png" for row in ("text", "same") for name in ("training_dynamics", "modulation")]
    for name in ("forest.png", "learning_curves.png", *rows):
        with Image.open(experiment / name) as image:
            assert np.asarray(image.convert("L")).std() > 5


def steps_of(experiment, *rows):
    """Has the experiment's specification name a waterfall."""
    path = experiment / "specification.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"waterfall": [*rows]}, sort_keys=False))


def drawn_waterfall(experiment, monkeypatch):
    """The bars (start, length, colour, hatch) of the figure, without the outlines, and its texts."""
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "close", lambda figure: None)
    write_report(experiment)
    figure = next(plt.figure(number) for number in plt.get_fignums() if plt.figure(number)._suptitle)
    monkeypatch.undo()
    [axes] = figure.axes
    bars = [bar for bar in axes.patches if bar.get_facecolor()[3] > 0]
    texts = [text.get_text() for text in axes.texts]
    names = [label.get_text() for label in axes.get_yticklabels()]
    plt.close("all")
    return [(bar.get_x(), bar.get_width(), to_hex(bar.get_facecolor()), bar.get_hatch()) for bar in bars], texts, names


def test_a_waterfall_goes_from_row_to_row(experiment, monkeypatch):
    steps_of(experiment, "text", "better", "same")
    monkeypatch.setattr("modeling_cpsl.evidence.report.plot_forest", lambda *arguments: None)
    bars, texts, names = drawn_waterfall(experiment, monkeypatch)
    # The seeds that all three rows have of every fold; a metric is of the samples of all folds.
    maes = {
        row: np.mean([compute_sentiment_metrics(*all_folds(row, seed))["mae"] for seed in (0, 1)])
        for row in ("text", "better", "same")
    }
    differences = [maes["better"] - maes["text"], maes["same"] - maes["better"]]
    assert [start for start, *_ in bars] == pytest.approx([maes["text"], maes["better"]])
    assert [length for _, length, *_ in bars] == pytest.approx(differences)
    assert [kind for _, _, *kind in bars] == [["#009e73", None], ["#d55e00", "////"]]
    assert names == ["text", "better", "same", "in all"]
    assert texts == [f"{maes['text']:.4f}", f"{maes['same']:.4f}", *(f"{value:+.4f}" for value in differences)]
    with Image.open(experiment / "waterfall.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.usefixtures("quick")
def test_each_step_of_a_waterfall_is_judged_against_the_row_before(experiment):
    steps_of(experiment, "text", "same", "better")
    text = write_report(experiment, metrics=["mae", "corr"])
    section = text[text.index("Ingredient by ingredient") :]
    assert "(corrected for 2 steps)" in section and "| row | from | mae | corr |" in section
    sums = {row: np.array([np.concatenate([
        [*group_sums(*simulated(row, seed, fold)).values()] for fold in range(FOLDS)]) for seed in (0, 1)])
        for row in ("text", "same", "better")}  # fmt: skip
    steps = [("same", "text"), ("better", "same")]
    found = {row: paired_differences(sums[row], sums[before]) for row, before in steps}
    p_values = sorted(found[row]["mae"].p for row in found)
    for row, before in steps:
        mae = found[row]["mae"]
        corrected = min(1, 2 * p_values[0]) if mae.p == p_values[0] else max(2 * p_values[0], mae.p)
        [line] = [line for line in section.splitlines() if line.startswith(f"| {row} | {before} |")]
        assert f"| {mae.value:+.4f} [{mae.low:+.4f}, {mae.high:+.4f}], " in line and f"p {corrected:.3f} |" in line
    assert "better, p" in line


@pytest.mark.usefixtures("quick")
def test_a_waterfall_passes_over_a_row_without_a_finished_run(experiment):
    steps_of(experiment, "text", "same", "better")
    remove_runs(experiment, "same-*")
    assert "| better | text | " in write_report(experiment)
    remove_runs(experiment, "better-*")
    assert "Ingredient by ingredient" not in write_report(experiment)


def test_curves_are_means_over_runs_with_their_deviations():
    logs = [curves(seed, 0) for seed in SEEDS]
    means, deviations = mean_log(logs)
    assert [row["epoch"] for row in means] == [1.0, 2.0]
    first = {
        "epoch": 1,
        "train_loss": 2,
        "train_imbalance": 0.1,
        "train_error_acoustic": 2,
        "eval_mae": 2,
        "eval_loss": 3,
    }
    assert means[0] == pytest.approx(first)
    assert deviations[0]["eval_mae"] == pytest.approx(np.std([1, 2, 3]))
    assert (means[1]["eval_mae"], deviations[1]["eval_mae"]) == (0.75, 0.25)  # the third run ended before


@pytest.mark.usefixtures("quick")
def test_figures_of_others_stand_apart(experiment):
    path = experiment / "specification.yaml"
    published = {"source": "a paper", "systems": {"X": {"protocol": "has-0", "acc2": 0.84}, "Y": {"mae": 0.7}}}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"published": published}, sort_keys=False))
    text = write_report(experiment)
    assert "| X | has-0 | 0.8400 |  |\n| Y |  |  | 0.7000 |\n" in text
    assert text.endswith("\n26 of 27 planned runs have finished; missing: same-seed2-fold1.\n")
    assert text.count("not ours and not on the same ground: a paper") == 1
    assert "0.8400" not in (experiment / "table.csv").read_text()


@pytest.mark.usefixtures("quick")
def test_what_each_modality_contributes_is_said_where_every_subset_was_trained(experiment):
    modalities = {"text": "text", "same": "acoustic", "better": "text,acoustic"}
    for path in (experiment / "records").glob("*.json"):
        record = json.loads(path.read_text())
        write_record(record | {"options": {"modalities": modalities[record["row"]], "command_line": []}}, path)
    lines = write_report(experiment).splitlines()
    [contribution] = [line for line in lines if line.startswith("| acoustic |")]
    table = {line.split(" | ")[0]: line for line in lines if line.startswith(("| same | 6", "| better | 9"))}
    assert contribution.split(" | ")[1] in table["| same"]
    assert len([line for line in lines if line.startswith("| text |")]) == 2


@pytest.mark.usefixtures("quick")
def test_runs_on_other_samples_are_not_compared(experiment, capsys):
    path = experiment / "records" / "better-seed0-fold0.json"
    record = json.loads(path.read_text())
    record["group_sums"]["test"]["g00"][SUM_NAMES.index("all_label")] += 1
    write_record(record, path)
    assert main(["report", str(experiment)]) == 1
    assert "seed 0 were tested on other samples or labels" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_another_reference_and_what_is_not_there(experiment, capsys):
    assert main(["report", str(experiment), "--reference", "better"]) == 0
    assert "Differences from `better`" in capsys.readouterr().out
    assert main(["report", str(experiment), "--metrics", "corr,mae"]) == 0
    assert "| row | runs | corr | mae | parameters | seconds |" in capsys.readouterr().out
    for arguments, message in (
        (["--metrics", "maes"], "metric 'maes' is unknown; did you mean mae?"),
        (["--reference", "bettr"], "reference 'bettr' is not a row; did you mean better?"),
        (["--split", "dev"], "no run has the split 'validation'; they have test"),
        (
            ["--split", "tset"],
            "split 'tset' is not one of train, training, dev, val, valid, validation, test; did you",
        ),
    ):
        assert main(["report", str(experiment), *arguments]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert message in line


@pytest.mark.usefixtures("quick")
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
    (experiment / "records").rename(experiment / "elsewhere")
    assert main(["report", str(experiment)]) == 1
    assert "no record in" in capsys.readouterr().err
