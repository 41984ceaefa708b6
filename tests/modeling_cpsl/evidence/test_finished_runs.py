"""The table that compares runs: which runs are repetitions of each other, and what a folder must hold."""

import json

import pytest

from cpsl import main
from modeling_cpsl.evidence import finished_runs
from modeling_cpsl.evidence.finished_runs import compare_runs
from modeling_cpsl.experiments.recipe import read_recipe
from modeling_cpsl.experiments.records import write_resolved_config, write_results
from modeling_cpsl.training.metrics import METRICS


def test_a_report_says_what_is_missing(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err
        == f"cpsl report: error: {tmp_path}: not a finished run, for all_results.json and resolved_config.yaml are "
        "not both in it; name the output folder of one\n"
    )
    (tmp_path / "all_results.json").write_text(json.dumps({"validation_mae": 1.0}))
    (tmp_path / "resolved_config.yaml").write_text("seed: 0\n")
    assert main(["report", str(tmp_path)]) == 1
    assert "it has no metrics of the split 'test'" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--split", "validation", "--metrics", "mae"]) == 0
    assert capsys.readouterr().out.splitlines()[::2] == ["| row | runs | mae |", f"| {tmp_path} | 1 | 1.0000 |"]
    assert main(["report", str(tmp_path), "--split", "validation", "--metrics", "mae,accuracy"]) == 1
    error = capsys.readouterr().err
    assert "all_results.json: it has no metric 'accuracy' (it has mae)" in error
    assert main(["report", str(tmp_path), "--split", "validation", "--metrics", "maes"]) == 1
    assert "it has no metric 'maes'; did you mean mae?" in capsys.readouterr().err


def test_an_experiment_is_named_beside_which_a_folder_lies(tmp_path, capsys):
    experiment = tmp_path / "results" / "first"
    (experiment / "records").mkdir(parents=True)
    (experiment / "runs" / "text-seed0").mkdir(parents=True)
    for folder in (tmp_path / "results", experiment / "records", experiment / "runs" / "text-seed0"):
        assert main(["report", str(folder)]) == 1
        assert capsys.readouterr().err.endswith(f" are not both in it; name the experiment {experiment}\n")


def test_an_experiment_is_reported_on_by_itself_and_the_old_name_is_refused(tmp_path, capsys):
    (tmp_path / "experiment" / "records").mkdir(parents=True)
    run = write_run(tmp_path / "run", 1.0)
    for arguments, status, message in (
        (
            ["report", str(run), str(tmp_path / "experiment")],
            1,
            "this is an experiment, which is reported on by itself",
        ),
        (
            ["report", str(run), "--reference", "text"],
            1,
            "this is no run of `cpsl experiment`, which --reference is for",
        ),
        (["compare", str(run)], 2, "cpsl: error: compare is now `cpsl report`"),
    ):
        assert main(arguments) == status
        assert message in capsys.readouterr().err


def write_run(folder, mae, **options):
    folder.mkdir(parents=True)
    (folder / "all_results.json").write_text(json.dumps({"test_mae": mae}))
    # As JSON: openSMILE, once it is imported, makes PyYAML write keys in another order.
    (folder / "resolved_config.yaml").write_text(
        json.dumps({"ame": True, "logging_steps": 500, **options}, sort_keys=True)
    )
    return folder


def test_groups_in_one_folder_are_rows_of_their_own(tmp_path):
    runs = [
        write_run(tmp_path / f"{ame}_{seed}", seed / 10 + ame, ame=ame, seed=seed) for ame in (0, 1) for seed in (0, 1)
    ]
    table = compare_runs(runs, "test", ["mae"])
    assert table.index.tolist() == [f"{runs[0]}, {runs[1]}", f"{runs[2]}, {runs[3]}"]
    assert table["mae"].tolist() == ["0.0500 ± 0.0707", "1.0500 ± 0.0707"]


def test_runs_on_classes_have_the_metrics_of_classes(tmp_path):
    def write(name, classes):
        folder = write_run(tmp_path / name, 1.0)
        results = {"test_f1_weighted": 0.5, "test_uar": 0.25, "test_recall_a": 0.1, "test_loss": 2.0}
        (folder / "all_results.json").write_text(json.dumps(results))
        config = {"problem_type": "single_label_classification", "id2label": dict(enumerate(classes))}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    first, other = write("first", "ab"), write("other", "ac")
    assert [*compare_runs([first], "test").columns] == ["runs", "f1_weighted", "uar"]
    assert compare_runs([first], "test", ["recall_a"])["recall_a"].tolist() == ["0.1000"]
    with pytest.raises(ValueError, match=r"predicts a, c, and .*first a, b: .* name runs on the same labels"):
        compare_runs([first, other], "test")


def test_repetitions_of_a_run_are_one_row(tmp_path):
    names = {"output_dir": "b", "run_name": "b", "data_seed": 1, "ablation": "A6", "logging_steps": 500.0}
    first = write_run(tmp_path / "a", 1.0, seed=0, output_dir="a", run_name="a", data_seed=None, ablation=None)
    second = write_run(tmp_path / "b", 2.0, seed=1, **names)
    table = compare_runs([first, second, tmp_path / "b" / ".." / "a"], "test", ["mae"])
    assert table.to_dict("index") == {str(tmp_path): {"runs": 2, "mae": "1.5000 ± 0.7071"}}


def test_runs_that_differ_in_their_seed_alone_are_one_row(tmp_path):
    for seed, mae in enumerate((0.5, 0.7)):
        folder = tmp_path / "full" / f"seed{seed}"
        write_resolved_config(read_recipe("sample", seed=seed, output_dir=folder).resolved(), folder)
        write_results({f"test_{name}": mae for name in METRICS}, folder)
    table = compare_runs([tmp_path / "full" / "seed0", tmp_path / "full" / "seed1"])
    assert table.index.tolist() == [str(tmp_path / "full")]
    assert table.iloc[0].to_dict() == {"runs": 2} | dict.fromkeys(METRICS, "0.6000 ± 0.1414")
    with pytest.raises(ValueError, match="not a finished run"):
        compare_runs([tmp_path])


def test_runs_from_before_and_after_a_metric_was_added_are_compared_by_what_both_have(tmp_path):
    earlier, later = write_run(tmp_path / "earlier", 1.0, ame=False), write_run(tmp_path / "later", 2.0)
    write_results({"test_acc7": 0.5, "test_mae": 2.0, "test_corr": 0.25}, later)
    table = compare_runs([earlier, later])
    assert table.columns.tolist() == ["runs", "mae", "options"]
    in_order = [name for name in METRICS if name in {"acc7", "mae", "corr"}]
    assert compare_runs([later]).columns.tolist() == ["runs", *in_order]
    with pytest.raises(ValueError, match=r"earlier.*it has no metric 'corr'"):
        compare_runs([earlier, later], metrics=["mae", "corr"])


def test_a_run_that_was_copied_counts_once(tmp_path, caplog):
    """Its seed gives the same figures, which say nothing more about the deviation; other figures do."""
    a, b, c = (write_run(tmp_path / name, mae, seed=0) for name, mae in (("a", 1.0), ("b", 1.0), ("c", 2.0)))
    assert compare_runs([a, b, c])["runs"].tolist() == [2]
    assert caplog.messages == [f"{b}: not counted, with the seed and the metrics of {a}"]
    d = write_run(tmp_path / "d", 1.0, seed=1)
    assert compare_runs([a, d])["runs"].tolist() == [2]


def test_options_of_no_influence_do_not_split_a_row(tmp_path):
    """Each of them is an option, so that none is misspelt."""
    options = read_recipe("sample").resolved()
    names = [name for name in finished_runs._OF_NO_INFLUENCE if name not in ("ablation", "hub_model_id")]
    assert set(names) <= options.keys()
    runs = [write_run(tmp_path / name, 1.0, seed=seed, **dict.fromkeys(names, name)) for seed, name in enumerate("ab")]
    assert compare_runs(runs)["runs"].tolist() == [2]


def test_the_table_says_in_what_its_rows_differ(tmp_path):
    changes = ({}, {"ame": False}, {"alpha": 0.5, "versions": {"torch": "2.9.0"}})
    base = {"alpha": 1.0, "versions": {"torch": "2.8.0"}, "seed": 3, "disable_tqdm": True}
    runs = [write_run(tmp_path / str(index), 1.0, **base | change) for index, change in enumerate(changes)]
    assert compare_runs(runs)["options"].tolist() == [
        "alpha=1.0 ame=True version of torch=2.8.0",
        "alpha=1.0 ame=False version of torch=2.8.0",
        "alpha=0.5 ame=True version of torch=2.9.0",
    ]
    assert "options" not in compare_runs(runs[:1])


def test_runs_on_different_data_sets_are_refused_and_moved_data_are_the_same(tmp_path, capsys):
    paths = {"a": "data/mosi", "b": "/elsewhere/mosi", "c": "data/mosei"}
    a, b, c = (str(write_run(tmp_path / name, 1.0, dataset=path)) for name, path in paths.items())
    assert main(["report", a, b, c]) == 1
    assert capsys.readouterr().err == (
        f"cpsl report: error: {c} is a run on the data set mosei, and {a} on mosi: their metrics cannot be compared; "
        "name runs on one data set\n"
    )
    assert main(["report", a, b]) == 0
    assert "dataset=/elsewhere/mosi" in capsys.readouterr().out


def test_epochs_do_not_split_a_row_where_steps_decide(tmp_path):
    runs = [write_run(tmp_path / name, 1.0, seed=int(name), num_train_epochs=int(name), max_steps=9) for name in "12"]
    assert compare_runs(runs)["runs"].tolist() == [2]
    runs = [write_run(tmp_path / name, 1.0, num_train_epochs=int(name), max_steps=-1) for name in "34"]
    assert compare_runs(runs)["options"].tolist() == ["num_train_epochs=3", "num_train_epochs=4"]


@pytest.mark.parametrize("split", ["dev", "val", "valid", "Validation"])
def test_runs_without_the_split_are_left_out_by_name(tmp_path, caplog, split):
    runs = [write_run(tmp_path / name, 1.0) for name in "ab"]
    write_results({"validation_mae": 0.5}, runs[1])
    table = compare_runs(runs, split)
    assert table["mae"].to_dict() == {str(runs[1]): "0.5000"}
    assert caplog.messages == [f"left out, since they have no metrics of the split 'validation': {runs[0]}"]


@pytest.mark.parametrize(
    ("results", "config"),
    [
        ("[1]", "seed: 0"),
        ("{", "seed: 0"),
        ('{"test_mae": "x"}', "seed: 0"),
        ('{"test_mae": 1}', "versions: 3"),
        ('{"test_mae": 1}', "- 1"),
        ("[" * 9999, "seed: 0"),
    ],
)
def test_a_folder_of_something_else_is_named_in_a_line(tmp_path, capsys, results, config):
    (tmp_path / "all_results.json").write_text(results)
    (tmp_path / "resolved_config.yaml").write_text(config)
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"cpsl report: error: {tmp_path}") and error.count("\n") == 1


def test_an_unknown_split_is_named(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--split", "tests"]) == 1
    assert "split 'tests' is not one of train, " in capsys.readouterr().err


def test_a_metric_that_is_no_number_stays_one(tmp_path):
    assert compare_runs([write_run(tmp_path / "a", None)])["mae"].tolist() == ["nan"]
