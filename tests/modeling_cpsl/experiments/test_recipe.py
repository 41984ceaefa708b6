"""Recipes: from YAML files and command lines to options, and the ablations of the paper."""

import pytest
import yaml

from cpsl import main
from modeling_cpsl.architectures_cpsl import ARCHITECTURES
from modeling_cpsl.experiments import recipe


def test_what_follows_from_other_options_follows_them_in_a_repetition(tmp_path):
    def repeat(*options):
        parsed = recipe.parse_arguments([*options, "--output_dir", str(tmp_path)])
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(parsed.resolved()))
        return parsed.training

    first = repeat("--num_train_epochs", "2")
    assert (first.greater_is_better, first.last_modulated_epoch) == (False, 1)
    second = repeat(str(tmp_path / "recipe.yaml"), "--num_train_epochs", "30", "--metric_for_best_model", "corr")
    assert (second.greater_is_better, second.last_modulated_epoch) == (True, 25)
    repeat(str(tmp_path / "recipe.yaml"), "--greater_is_better", "false", "--modulation_end_epoch", "3")
    third = repeat(str(tmp_path / "recipe.yaml"), "--num_train_epochs", "60")
    assert (third.greater_is_better, third.last_modulated_epoch) == (False, 3)


@pytest.mark.parametrize(
    ("entries", "options", "switched_on"),
    [
        ("", "--ablation A6", "ame gm ge cp sl"),
        ("", "--ablation A6 --no_ge", "ame gm cp sl"),
        ("", "--gm true --ablation A0", "gm"),
        ("ge: false\nablation: A6", "", "ame gm cp sl"),
        ("ablation: A6\nge: false", "--ablation=A0", ""),
        ("ablation: A6", "--no_sl", "ame gm ge cp"),
    ],
)
def test_a_switch_beside_an_ablation_wins_and_the_command_line_over_the_recipe(
    tmp_path, entries, options, switched_on
):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"output_dir: {tmp_path}\n{entries}\n")
    _, model, training = recipe.parse_arguments([str(path), *options.split()])
    switches = {"ame": model.ame, "sl": model.sl, "gm": training.gm, "ge": training.ge, "cp": training.cp}
    assert {name for name, is_on in switches.items() if is_on} == set(switched_on.split())


def test_what_yaml_makes_of_words(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"output_dir: {tmp_path}\neval_strategy: no\nsave_strategy: no\nmodalities: [text, acoustic]\n")
    data, _, training = recipe.parse_arguments([str(path), "--load_best_model_at_end", "false"])
    assert data.modalities == "text,acoustic" and (training.eval_strategy, training.save_strategy) == ("no", "no")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a recipe: a YAML file, or one of emodb, meld, mosei, mosi, mosi_csd, mosi_words_timing, sample"),
        (["sample", "--fusion", "magic"], "magic"),
        (["sample", "--learning_rate", "fast"], "fast"),
        (["sample", "--lerning_rate", "1"], "unknown option --lerning_rate; did you mean --learning_rate?"),
        (["sample", "--learning-rat=1"], "unknown option --learning-rat; did you mean --learning_rate?"),
        (["--seed", "1", "sample"], "unexpected argument 'sample'"),
    ],
)
def test_wrong_usage_is_told_in_two_lines(arguments, message, capsys):
    assert main(["train", *arguments]) == 2
    usage, line = capsys.readouterr().err.splitlines()
    assert usage == "usage: cpsl train RECIPE [--option value ...]"
    assert line.startswith("cpsl train: error: ") and message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rates: 1.0e-3", "'learning_rates' is not an option; did you mean learning_rate?"),
        ("fusion: magic", "recipe.yaml: argument --fusion: invalid choice: 'magic'"),
        ("- 1", "YAML mapping"),
        ("a: [", "not a readable YAML recipe .*line 1, column 5"),
        ("accelerator_config: {speed: 1}", "an option has a value that cannot be used .*'speed'.*cpsl train --help"),
        ("seed: &one 1\ndata_seed: *one\n", r"alias \*one .*line 2, column 12.*aliases \(\*name\) are not read"),
        ("seed: 1\nfusion: sum\nseed: 2\n", "line 3: 'seed' is there already, in line 1; remove one of them$"),
        ("lora_options: {rank: 1, rank: 2}", "line 1: 'rank' is there already, in line 1"),
        ("seed: !!python/object/apply:os.getpid []", "not a readable YAML recipe .*python/object/apply:os.getpid"),
        ("seed: " + "[" * 5000, "not a readable YAML recipe .*recursion"),
        ("save_total_limit: null", "save_total_limit cannot be null; leave it out for 1, or give a value"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        recipe.read_recipe(path)


def test_keys_can_be_merged(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 1\n<<: {seed: 2, fusion: sum}\n")
    assert recipe.read_yaml(path) == {"seed": 1, "fusion": "sum"}


def test_what_has_another_name_now_is_read_where_it_was_off_and_refused_where_it_was_on(tmp_path):
    """Runs of before have saved every option in their recipe."""
    path = tmp_path / "resolved_config.yaml"
    path.write_text(f"output_dir: {tmp_path / 'run'}\nmodality_dropout: 0.0\n")
    assert recipe.parse_arguments([str(path)]).training.modality_masking == "none"
    path.write_text(path.read_text().replace("0.0", "0.3"))
    with pytest.raises(ValueError, match=f"{path}: modality_dropout is now modality_masking=uniform with"):
        recipe.parse_arguments([str(path)])


def test_a_number_without_a_point_is_still_a_number(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"learning_rate: 1e-5\noutput_dir: {tmp_path}\ngm: false\nge: false\nlr_scheduler_type: cosine\n")
    _, _, arguments = recipe.parse_arguments([str(path)])
    assert arguments.learning_rate == 1e-5
    assert (arguments.gm, arguments.ge, arguments.cp) == (False, False, True)


def test_help_shows_every_group_in_one_spelling(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for part in ("data:", "model:", "training:", "--modalities", "--residual_weight", "--alpha", "--ablation"):
        assert part in text
    assert "--residual-weight" not in text and "(default: None)" not in text


def test_options_take_dashes_and_values_of_their_own(tmp_path):
    parsed = recipe.parse_arguments(["--output-dir", str(tmp_path), "--num-train_epochs=3", "--run_name", "a-b_c"])
    training = parsed.training
    assert (training.output_dir, training.num_train_epochs, training.run_name) == (str(tmp_path), 3, "a-b_c")


@pytest.mark.parametrize("name", ["sample", "baselines/mag"])
@pytest.mark.parametrize("form", ["{}", "{}.yaml", "recipes/{}.yaml", "recipes/{}"])
def test_a_packaged_recipe_is_found_and_a_file_of_that_name_wins(name, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe.find_recipe(form.format(name)) == recipe.RECIPES / f"{name}.yaml"
    name = form.format(name)
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_text("seed: 7\n")
    assert recipe.read_recipe(name).training.seed == 7


@pytest.mark.parametrize("name", recipe.packaged_recipes())
def test_a_packaged_recipe_is_read_and_names_nothing_of_one_machine(name):
    options = recipe.read_recipe(name).resolved()
    for option in ("dataset", "data_dir", "model_name_or_path", "output_dir"):
        value = options[option] or ""
        assert not value.startswith(("/", "~")) and ".." not in value
    assert options["model_name_or_path"] == "sample" or options["model_name_or_path"].count("/") == 1


def test_each_peer_has_a_recipe_under_its_name():
    peers = [name for name in recipe.packaged_recipes() if name.startswith("baselines/")]
    assert {name.split("/")[1] for name in peers} == ARCHITECTURES.keys() - {"cpsl"}
    assert all(recipe.read_recipe(name).model.architecture == name.split("/")[1] for name in peers)


def test_without_unimodal_heads_nothing_is_balanced_and_balancing_is_not_to_be_asked_for():
    peer = {"architecture": "mag"}
    read = recipe.read_recipe("sample", **peer)
    assert read.training.balance == "none"
    again = {name: value for name, value in read.resolved().items() if value is not None}
    assert recipe.read_recipe("sample", **again).training.balance == "none"
    assert recipe.read_recipe("sample", **peer, gm=False, ge=False, cp=False).model.architecture == "mag"
    balance = [{"cp": True}, {"gm": True}, {"ablation": "A6"}, {"balance": "ogm"}]
    for option in (*balance, {"modulated_modalities": ["acoustic"]}):
        with pytest.raises(ValueError, match="architecture='mag' has none; leave it out, or set --balance none"):
            recipe.read_recipe("sample", **peer, **option)
    with pytest.raises(ValueError, match=r"^decision_weights: .*architecture='mag' has none; leave it out$"):
        recipe.read_recipe("sample", **peer, decision_weights=True)
    assert recipe.read_recipe("sample", **peer, balance="shapley").training.balance == "shapley"
    assert recipe.read_recipe("sample", architecture="late", cp=True).training.cp


def test_options_from_python_are_those_of_the_command_line(tmp_path):
    given = {"seed": 3, "gm": False, "ge": False, "modalities": ["text", "acoustic"], "data_dir": None}
    from_python = recipe.read_recipe("sample", output_dir=tmp_path, **given)
    options = ["--seed", "3", "--no_gm", "--no-ge", "--modalities", "text,acoustic"]
    typed = recipe.parse_arguments(["sample", "--output_dir", str(tmp_path), *options])
    assert from_python.resolved() == typed.resolved()
    assert from_python.data.modality_names == ["text", "acoustic"] and from_python.data.use_text
    with pytest.raises(ValueError, match="options: 'sed' is not an option; did you mean seed"):
        recipe.read_recipe("sample", sed=3)


@pytest.mark.parametrize(
    ("options", "num_modalities", "expected"),
    [
        ({}, 2, ["ame", "gm", "ge", "cp", "sl"]),
        ({"ge": False, "sl": False}, 2, ["ame", "gm", "cp"]),
        ({}, 1, ["ame", "sl"]),
        ({}, 0, []),
        ({"modulated_modalities": ["acoustic"]}, 2, ["ame", "sl"]),
        ({"modulated_modalities": ["text", "acoustic"]}, 1, ["ame", "gm", "ge", "cp", "sl"]),
        ({"balance": "ogm"}, 2, ["ame", "ge", "sl"]),
        ({"balance": "shapley"}, 2, ["ame", "sl"]),
    ],
)
def test_what_is_on_takes_the_modalities_that_it_needs(options, num_modalities, expected):
    defaults = {"modulated_modalities": None, "architecture": "cpsl", "balance": "cpsl"}
    options = dict.fromkeys(recipe.SWITCHES, True) | defaults | options
    assert recipe.switched_on(options, num_modalities) == expected


def test_a_rule_of_ones_own_that_modulates_as_cpsl_does_has_its_parts(monkeypatch):
    monkeypatch.setitem(recipe.RULES, "floored", type("Floored", (recipe.ConflictAware,), {}))
    options = dict.fromkeys(recipe.SWITCHES, True) | {"modulated_modalities": None, "architecture": "cpsl"}
    assert recipe.switched_on(options | {"balance": "floored"}, 2) == ["ame", "gm", "ge", "cp", "sl"]


def test_an_empty_text_takes_back_what_a_recipe_has_set(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"output_dir: {tmp_path}\ndata_dir: somewhere\nfeature_sequences: [acoustic=A]\n")
    data = recipe.parse_arguments([str(path), "--data_dir", "", "--feature_sequences", ""]).data
    assert data.data_dir is None and data.feature_sequences is None


def test_none_takes_back_what_a_recipe_has_set(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"output_dir: {tmp_path}\nencoder_learning_rate: 1.0e-5\n")
    training = recipe.read_recipe(path, freeze_encoder=True, encoder_learning_rate=None).training
    assert training.freeze_encoder and training.encoder_learning_rate is None
    with pytest.raises(ValueError, match="encoder_learning_rate has no effect with freeze_encoder"):
        recipe.read_recipe(path, freeze_encoder=True)


def test_options_without_effect_are_accepted_and_not_shown(capsys):
    assert recipe.parse_arguments(["sample", "--do_train", "--do_eval"]).training.do_train
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--do_train" not in capsys.readouterr().out
