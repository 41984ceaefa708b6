"""A search as a user runs it, and what its space may say."""

import csv
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cpsl import main
from data_builders import load_aligned_dataset
from modeling_cpsl.evidence import search as searching
from modeling_cpsl.evidence.group_sums import SUM_NAMES
from modeling_cpsl.evidence.records import record_path, write_record
from modeling_cpsl.evidence.search import search
from modeling_cpsl.evidence.search_space import read_space
from modeling_cpsl.experiments.assembly import load_data
from modeling_cpsl.experiments.recipe import read_recipe


SPACE = """
learning_rate: {low: 1e-5, high: 1.0e-2, log: true}
fusion: [gated, sum]
fusion_size: {low: 8, high: 64, step: 8}
"""


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


@pytest.fixture
def trainings(monkeypatch):
    """Stands for the trainings: their validation MAE is known, and what was trained is noted."""
    done = []

    def train(specification, folder, *, workers, quiet):
        [run] = specification.planned_runs()
        [row] = specification.rows.values()
        params = {name: value for name, value in row.items() if name != "test_split"}
        if len(done) == 3 and "interrupted" not in done:
            done.append("interrupted")
            raise KeyboardInterrupt
        done.append((run.name, params))
        failed = params["fusion"] == "sum" and params["fusion_size"] > 48
        metrics = {"validation_mae": abs(params["learning_rate"] - 1e-3) + (params["fusion"] == "sum")}
        record = {"row": run.row, "seed": run.seed, "fold": run.fold, "status": "finished", "sum_names": SUM_NAMES}
        write_record(record | {"metrics": metrics, "error": "no memory"}, record_path(folder, run))
        return [run] if failed else []

    monkeypatch.setattr(searching, "run_experiment", train)
    return done


def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(space, trainings, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search("sample", space, tmp_path / "first", 12)
    found = search("sample", space, tmp_path / "first", 12)
    first = [each for each in trainings if each != "interrupted"]
    del trainings[: len(trainings) - 1]
    trainings[0] = "interrupted"
    search("sample", space, tmp_path / "second", 5)
    search("sample", space, tmp_path / "second", 12)
    assert trainings[1:] == first and len(first) == 12
    assert [name for name, _ in first] == [f"trial-{number}-seed0" for number in range(12)]
    assert len({str(params) for _, params in first}) == 12

    with (tmp_path / "first" / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    values = [float(row["validation_mae"] or "inf") for row in table]
    assert {row["error"] for row in table} <= {"", "no memory"}
    best = first[values.index(min(values))][1]
    recipe = read_recipe(tmp_path / "first" / "best.yaml")
    assert {"learning_rate": recipe.training.learning_rate, "fusion": recipe.model.fusion,
            "fusion_size": recipe.model.fusion_size} == best  # fmt: skip
    assert f"validation mae {min(values):.4f} with learning_rate" in found
    with Image.open(tmp_path / "first" / "importance.png") as image:
        assert image.width > 300

    other = tmp_path / "other.yaml"
    other.write_text("fusion: [gated, sum]\n")
    with pytest.raises(ValueError, match="that search had another space"):
        search("sample", other, tmp_path / "first", 13)


def test_the_best_recipe_has_what_its_base_switched_and_the_command_line_gave(space, trainings, tmp_path):
    space.write_text("learning_rate: [0.1, 0.001]\nfusion: [gated, sum]\nfusion_size: [8, 16]\nge: [true, false]\n")
    base = tmp_path / "base.yaml"
    base.write_text("dataset: sample\nmodel_name_or_path: sample\nablation: A2\noutput_dir: elsewhere\n")
    search(str(base), space, tmp_path / "out", 1, options=["--max_steps", "3"], seed=5)
    found = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert "ablation" not in found
    assert found.items() >= {"cp": False, "sl": False, "max_steps": 3, "seed": 5}.items()
    assert read_recipe(tmp_path / "out" / "best.yaml").training.ge is trainings[0][1]["ge"]


def test_a_search_goes_on_after_a_trial_without_a_value(space, trainings, tmp_path, monkeypatch):
    train = searching.run_experiment

    def train_without_a_value_first(specification, folder, **options):
        failed = train(specification, folder, **options)
        [run] = specification.planned_runs()
        if run.name.startswith("trial-0"):
            record = searching.read_record(record_path(folder, run))
            write_record(record | {"metrics": {"validation_mae": None}}, record_path(folder, run))
        return failed

    monkeypatch.setattr(searching, "run_experiment", train_without_a_value_first)
    assert search("sample", space, tmp_path / "out", 2).startswith("best of 2 trials")
    first, second = csv.DictReader((tmp_path / "out" / "trials.csv").read_text().splitlines())
    assert first["validation_mae"] == "" and first["error"] == "its value is nan" and second["validation_mae"]


def test_a_trial_whose_error_is_known_is_not_tried_again():
    optuna = pytest.importorskip("optuna")
    space = {"learning_rate": optuna.distributions.FloatDistribution(0, 1)}
    study = optuna.create_study()
    failed, interrupted = study.ask(space), study.ask(space)
    failed.set_user_attr("error", "no memory")  # and then the search was killed
    again = searching._next_trial(study, space, 0, 1)
    assert again.params == interrupted.params
    assert [trial.number for trial in searching._judged(study)] == [failed.number]


@pytest.mark.parametrize("num_folds", [None, 3])
def test_no_trial_looks_at_a_test_split(num_folds, space, tmp_path, monkeypatch):
    judged = {}

    def train(specification, folder, **options):
        for run in specification.planned_runs():
            data = load_data(specification.recipe(run, folder).data)
            judged[run.name] = {name: {*split["id"]} for name, split in data.items()}
            record = {"row": run.row, "seed": run.seed, "fold": run.fold, "status": "finished", "sum_names": SUM_NAMES}
            write_record(record | {"metrics": {"validation_mae": 1.0}}, record_path(folder, run))
        return []

    monkeypatch.setattr(searching, "run_experiment", train)
    search("sample", space, tmp_path / "out", 1, num_folds=num_folds)
    assert all(splits.keys() == {"train", "validation"} for splits in judged.values())
    if num_folds:  # each sample is judged once
        validation = [sample for splits in judged.values() for sample in splits["validation"]]
        assert len(validation) == len({*validation}) == sum(map(len, load_aligned_dataset("sample").values()))
    assert "test_split" not in yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())


def test_data_without_a_validation_split_are_refused_before_the_first_trial(space, trainings, tmp_path, small_data):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes((small_data / "train.parquet").read_bytes())
    with pytest.raises(ValueError, match="judged on the validation split, and the data has none; cut one with --fold"):
        search("sample", space, tmp_path / "out", 1, options=["--dataset", str(tmp_path / "data")])
    assert not trainings


def test_a_search_may_be_judged_by_one_fold_and_not_by_one_fold_several_times(space, trainings, tmp_path):
    search("sample", space, tmp_path / "one", 1, options=["--fold", "0/3", "--fold_seed", "1"])
    for options, num_folds, message in (
        (["--fold", "0/3"], 3, "command line: --fold would be the same in every run; leave it out, or --folds"),
        (["--test_split"], None, "--test_split would be the same in every run; leave it out, since a search leaves"),
        (["--resume_from_checkpoint", "last"], None, "command line: --resume_from_checkpoint would be the same"),
        (["--max_step", "1"], None, "command line: unknown option --max_step; did you mean --max_steps?"),
    ):
        with pytest.raises(ValueError, match=message):
            search("sample", space, tmp_path / "several", 1, options=options, num_folds=num_folds)
    assert len(trainings) == 1 and not (tmp_path / "several").exists()


def test_a_missing_package_is_named(space, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"optuna is not installed; .* pip install 'cpsl\[search\]'"):
        search("sample", space, tmp_path / "out", 1)


@pytest.mark.slow
def test_a_search_with_folds_trains(tmp_path, small_data, capsys):
    (tmp_path / "space.yaml").write_text("learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}\n")
    options = ["--max_steps", "2", "--num_train_epochs", "1", "--latent_size", "8", "--dataset", str(small_data)]
    arguments = ["sample", str(tmp_path / "space.yaml"), "--trials", "1", "--folds", "3", "--output_dir"]
    assert main(["search", *arguments, str(tmp_path / "out"), *options]) == 0
    printed = capsys.readouterr().out
    assert printed.count("validation mae") == 2 and "test_mae" not in printed
    records = list((tmp_path / "out" / "records").glob("*.json"))
    assert len(records) == 3 and not any("test_mae" in path.read_text() for path in records)
    assert not list((tmp_path / "out" / "records").glob("*.test.parquet"))
    assert main(["report", str(tmp_path / "out")]) == 0
    assert "| trial-0 | 3 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat: [1, 2]", "'learning_rat' is not an option; did you mean learning_rate?"),
        ("fusion: [gated, sums]", "argument --fusion: invalid choice: 'sums'"),
        ("fusion: gated", "fusion must be such as {low: 1.0e-5"),
        ("fusion_size: {low: 8}", "fusion_size must be such as"),
        ("fusion_size: {low: 8, high: many}", "fusion_size must be such as"),
        ("fusion_size: {low: 64, high: 8}", "fusion_size: "),
        ("modulated_modalities: [[acoustic], [visual]]", "modulated_modalities must be such as"),
        ("seed: [0, 1]", "seed is not searched over"),
        ("max_steps: [1, 2]", "max_steps is searched over, and the command line sets it to 1"),
        ("sl: [true, false]", "sl is searched over, and the command line sets it to False"),
        ("{}", "it names no option to search over"),
    ],
)
def test_a_wrong_space_is_refused_before_anything_is_trained(content, message, tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        read_space(path, "sample", ["--max_steps", "1", "--ablation", "A2"])
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_projects_space_is_one():
    path = Path(__file__).parents[3] / "experiments" / "spaces" / "sample.yaml"
    assert list(read_space(path, "sample", [])) == ["learning_rate", "fusion", "fusion_size", "sl"]


def test_whole_bounds_are_whole_numbers(space):
    import optuna

    kinds = {name: type(each) for name, each in read_space(space, "sample", []).items()}
    distributions = optuna.distributions
    assert kinds == {
        "learning_rate": distributions.FloatDistribution,
        "fusion": distributions.CategoricalDistribution,
        "fusion_size": distributions.IntDistribution,
    }
