"""A specification of an experiment: what it plans, and what it refuses before anything is trained."""

from pathlib import Path

import pytest
import yaml

from modeling_cpsl.architectures_cpsl import ARCHITECTURES
from modeling_cpsl.evidence.specification import PlannedRun, read_specification
from modeling_cpsl.experiments.recipe import read_recipe
from modeling_cpsl.modulation import RULES
from modeling_cpsl.training.resampling import RESAMPLING
from modeling_cpsl.training.sample_policies import POLICIES
from modeling_cpsl.training.sample_weights import SAMPLE_WEIGHTS


SPECIFICATIONS = sorted((Path(__file__).parents[3] / "experiments").glob("*.yaml"))
RIGHT = {"base": "sample", "rows": {"text": {"modalities": "text"}, "A6": {"ablation": "A6"}}, "seeds": [0, 1]}


def written(folder, **changes):
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump({**RIGHT, **changes}, sort_keys=False))
    return path


def test_every_row_has_every_fold_of_a_seed_before_the_next_seed(tmp_path):
    specification = read_specification(written(tmp_path, folds={"k": 3}))
    planned = specification.planned_runs()
    assert planned == [PlannedRun(row, seed, fold) for seed in (0, 1) for fold in range(3) for row in ("text", "A6")]
    assert [run.name for run in planned[:2]] == ["text-seed0-fold0", "A6-seed0-fold0"]
    assert read_specification(written(tmp_path)).planned_runs()[-1].name == "A6-seed1"


def test_options_of_row_and_command_line_override_those_of_the_base(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("dataset: sample\nlearning_rate: 0.1\nnum_train_epochs: 7\nseed: 9\nfusion_size: 8\n")
    rows = {"row": {"learning_rate": 0.2, "num_train_epochs": 5}}
    specification = read_specification(
        written(tmp_path, base="base.yaml", rows=rows, folds={"k": 4, "group": "speaker", "seed": 6}),
        ["--learning-rate", "0.3"],
    )
    recipe = specification.recipe(PlannedRun("row", 1, 2), tmp_path / "out")
    assert (recipe.training.learning_rate, recipe.training.num_train_epochs, recipe.model.fusion_size) == (0.3, 5, 8)
    data = recipe.data
    assert (recipe.training.seed, data.fold, data.fold_group, data.fold_seed) == (1, "2/4", "speaker", 6)
    assert recipe.training.output_dir == str(tmp_path / "out")


def test_what_is_saved_is_the_same_specification(tmp_path):
    path = written(tmp_path, folds={"k": 3}, waterfall=["text", "A6"])
    specification = read_specification(path, ["--max_steps", "1"])
    assert specification.waterfall == ["text", "A6"]
    specification.save(tmp_path / ".")
    assert read_specification(tmp_path / "specification.yaml") == specification


def test_names_of_rows_are_for_tables_and_give_names_of_files(tmp_path):
    rows = {"MAG (this package)": {}, "text+timing": {"modalities": "text,timing"}, "+ R-Drop": {"rdrop_weight": 1}}
    specification = read_specification(written(tmp_path, rows=rows))
    assert [run.name for run in specification.planned_runs()] == [
        "MAG-this-package-seed0", "text+timing-seed0", "+-R-Drop-seed0",
        "MAG-this-package-seed1", "text+timing-seed1", "+-R-Drop-seed1",
    ]  # fmt: skip


def test_base_seeds_and_folds_can_be_given_in_place_of_the_files(tmp_path):
    path = written(tmp_path, folds={"k": 3, "group": "speaker"})
    specification = read_specification(path, base="mosi_csd", seeds=[4], num_folds=5)
    assert (specification.base, specification.seeds) == ("mosi_csd", [4])
    assert specification.folds == {"k": 5, "group": "speaker"}
    assert read_specification(written(tmp_path), num_folds=4).folds == {"k": 4, "group": "video_id"}


def test_every_subset_is_of_what_the_data_has_or_of_what_is_asked_for(tmp_path):
    path = written(tmp_path, rows="every_subset", reference="text")
    specification = read_specification(path, ["--max_steps", "1"])
    assert list(specification.rows) == [
        "text", "acoustic", "visual", "text+acoustic", "text+visual", "acoustic+visual", "text+acoustic+visual",
    ]  # fmt: skip
    specification = read_specification(path, ["--modalities", "text,timing", "--max_steps", "1"])
    assert specification.rows == {name: {"modalities": name.replace("+", ",")} for name in specification.rows}
    assert list(specification.rows) == ["text", "timing", "text+timing"]
    recipe = specification.recipe(PlannedRun("timing", 0, None), tmp_path / "out")
    assert (recipe.data.modality_names, recipe.training.max_steps) == (["timing"], 1)
    specification.save(tmp_path)
    assert read_specification(tmp_path / "specification.yaml") == specification


@pytest.mark.parametrize("path", SPECIFICATIONS, ids=lambda path: path.stem)
def test_each_row_of_the_projects_specifications_is_a_recipe(path, tmp_path):
    specification = read_specification(path)
    for row in specification.rows:
        recipe = specification.recipe(PlannedRun(row, specification.seeds[0], None), tmp_path / "out")
        if recipe.model.architecture != "cpsl":  # nobody is to take our figures for those of their authors' code
            assert row == ARCHITECTURES[recipe.model.architecture].title


@pytest.mark.parametrize(
    "path", sorted((SPECIFICATIONS[0].parent / "recipes").glob("*.yaml")), ids=lambda path: path.stem
)
def test_each_recipe_for_experiments_is_read_and_names_nothing_of_one_machine(path):
    recipe = read_recipe(path)
    for value in (recipe.data.data_dir, recipe.model.model_name_or_path, recipe.training.output_dir):
        assert not Path(value or "").is_absolute()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": {}}, "'row' is unknown; did you mean rows?"),
        ({"rows": {}}, "rows must be a mapping of names to options"),
        ({"rows": {"a/b": {}}}, "row 'a/b' names files"),
        ({"rows": {"ünï": {}}}, "row 'ünï' names files; use letters a to z, digits, spaces and _ . + - ( )"),
        ({"rows": {"a (b)": {}, "a b": {}}}, "rows 'a (b)' and 'a b' would have the same files"),
        ({"rows": {"a": 3}}, "row a: 3 is not a mapping of options"),
        ({"rows": {"a": {"seed": 3}}}, "row a: seed is not a row's"),
        ({"rows": {"a": {"ablaton": "A6"}}}, "row a: options: 'ablaton' is not an option; did you mean ablation?"),
        ({"rows": {"a": {"ablation": "A9"}}}, "row a: options: argument --ablation: invalid choice: 'A9'"),
        ({"base": "samples"}, "samples: there is no such recipe; did you mean sample?"),
        ({"seeds": []}, "seeds must be different whole numbers from 0"),
        ({"seeds": [1, 1]}, "seeds must be different whole numbers from 0"),
        ({"folds": 5}, "folds must be null or such as {k: 5, group: video_id, seed: 1}, not 5"),
        ({"folds": {"k": 5, "seed": "a"}}, "group: video_id, seed: 1}, not {'k': 5, 'seed': 'a'}"),
        ({"folds": {"k": 2}}, "folds: k=2 leaves nothing to train on; it must be at least 3"),
        ({"published": {"source": "a", "systems": {"b": 3}}}, "published must be such as {source: a paper, systems:"),
        ({"published": [1]}, "published must be such as"),
        ({"waterfall": ["txt", "A6"]}, "waterfall: 'txt' is not one of the rows; did you mean text?"),
        ({"waterfall": ["text"]}, "waterfall must be different rows in their order, such as [text, full], not"),
        ({"waterfall": ["A6", "A6"]}, "waterfall must be different rows"),
        ({"waterfall": {"text": "A6"}}, "waterfall must be different rows"),
        ({"options": {"max_steps": 3}}, 'options must be words as on a command line, such as ["--max_steps", "20"]'),
        ({"options": "--max_steps 3"}, "options must be words as on a command line"),
        ({"reference": "txt"}, "reference 'txt' is not one of the rows; did you mean text?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(changes, message, tmp_path):
    with pytest.raises(ValueError) as caught:
        read_specification(written(tmp_path, **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_missing_part_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.yaml: there is no such specification"):
        read_specification(tmp_path / "nowhere.yaml")
    (tmp_path / "empty.yaml").write_text("seeds: [0]")
    with pytest.raises(ValueError, match="it lacks base, rows"):
        read_specification(tmp_path / "empty.yaml")


def test_a_row_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text("base: sample\nrows:\n  text: {modalities: text}\n  A6: {}\n  text: {ablation: A6}\n")
    with pytest.raises(ValueError, match=r"table\.yaml: line 5: 'text' is there already, in line 3; remove"):
        read_specification(path)


def test_a_wrong_option_of_the_command_line_is_not_blamed_on_a_row(tmp_path):
    message = "^command line: unknown option --learning_rat; did you mean --learning_rate"
    with pytest.raises(ValueError, match=message):
        read_specification(written(tmp_path), ["--learning_rat", "1"])
    with pytest.raises(ValueError, match=r"table\.yaml: options: argument --max_steps.*: invalid int value: 'many'"):
        read_specification(written(tmp_path, options=["--max_steps", "many"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "3"], "--seed would be the same in every run; give --seeds of the experiment"),
        (["--fold=0/3"], "--fold would be the same in every run; give --folds of the experiment"),
        (["--fold-group", "speaker"], "--fold_group would be the same in every run; name the group in the spec"),
        (["--max_steps", "1", "--fold_seed", "1"], "--fold_seed would be the same in every run; name the seed"),
        (["--output_dir", "out"], "--output_dir would be the same in every run; give --output_dir of the experiment"),
        (["--resume_from_checkpoint", "last"], "--resume_from_checkpoint would be the same in every run; leave it"),
    ],
)
def test_what_is_decided_for_each_run_is_no_option_of_all_runs(options, message, tmp_path):
    with pytest.raises(ValueError) as caught:
        read_specification(written(tmp_path, folds={"k": 3}), options)
    assert str(caught.value).startswith(f"command line: {message}")
    path = written(tmp_path, folds={"k": 3}, options=options)
    with pytest.raises(ValueError) as caught:
        read_specification(path)
    assert str(caught.value).startswith(f"{path}: options: {message}")


@pytest.mark.parametrize("name", ["balance", "balance_two"])
def test_every_way_to_balance_has_a_row(name):
    (path,) = (each for each in SPECIFICATIONS if each.stem == name)
    rows = read_specification(path).rows.values()
    methods = {"balance": RULES, "modality_masking": POLICIES, "resample": RESAMPLING}
    # a column of weights is the data's
    methods["sample_weights"] = SAMPLE_WEIGHTS.keys() - {"column"}
    for option, names in methods.items():
        assert {*names} - {"none"} <= {row.get(option) for row in rows}, option
