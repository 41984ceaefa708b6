"""`cpsl train`: what a run leaves, what it refuses, and that every row of table 2 trains."""

import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import Array2D, DatasetDict
from huggingface_hub import ModelCard
from PIL import Image
from shared_run import built_once
from transformers import AutoModelForSequenceClassification, AutoProcessor

from cpsl import main
from data_builders import load_aligned_dataset
from modeling_cpsl import compute_sentiment_metrics
from modeling_cpsl.experiments import assembly, recipe
from modeling_cpsl.experiments.comparison import compare_runs
from modeling_cpsl.experiments.sample_backbone import make_sample_backbone
from modeling_cpsl.training.metrics import METRICS
from modeling_cpsl.uncertainty_cpsl import conformal_half_width, interval_coverage


ROOT = Path(__file__).parents[3]
MOSI = ROOT.parent / "shared" / "data" / "mosi"


QUICK = [
    *("--max_steps", "2", "--disable_tqdm", "true"),
    *("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"),
]
TINY = ["--latent_size", "16", "--modality_hidden_size", "16", "--fusion_size", "16", "--max_length", "24"]


def start(*arguments, timeout=600):
    """Runs the script in a process of its own, from the repository's root."""
    command = [sys.executable, "run_train.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def finished_run():
    """The folder of a run of two epochs, and what it printed."""

    def build(folder):
        options = ["--num_train_epochs", "2", "--output_dir", str(folder / "run"), "--disable_tqdm", "true", *TINY]
        with (folder / "printed.txt").open("w") as stream, redirect_stdout(stream):
            assert main(["train", "sample", *options]) == 0

    folder = built_once("finished_run", build)
    return folder / "run", (folder / "printed.txt").read_text()


def test_results_hold_every_metric_of_every_split(finished_run):
    output_dir, printed = finished_run
    results = json.loads((output_dir / "all_results.json").read_text())
    for split in ("validation", "test"):
        predictions = pd.read_parquet(output_dir / f"predictions_{split}.parquet")
        metrics = compute_sentiment_metrics(predictions["prediction"].to_numpy(), predictions["label"].to_numpy())
        for name in METRICS:
            assert results[f"{split}_{name}"] == pytest.approx(metrics[name], abs=1e-6)
    assert f"{results['test_mae']:.4f}" in printed
    assert str(output_dir) in printed


def test_predictions_are_of_the_saved_model_and_of_the_right_samples(finished_run):
    output_dir, _ = finished_run
    predictions = pd.read_parquet(output_dir / "predictions_test.parquet")
    test = load_aligned_dataset("sample")["test"].with_format("numpy")
    assert predictions["id"].tolist() == list(test["id"])
    np.testing.assert_array_equal(predictions["label"], test["label"])
    model = AutoModelForSequenceClassification.from_pretrained(output_dir).eval()
    processor = AutoProcessor.from_pretrained(output_dir)
    rows = test[:20]
    inputs = processor(
        words=[list(words) for words in rows["words"]], acoustic=list(rows["acoustic"]), visual=list(rows["visual"])
    )
    with torch.no_grad():
        output = model(**inputs)
    np.testing.assert_allclose(output.logits, predictions["prediction"][:20], atol=1e-5)
    for name in ("text", "acoustic", "visual"):
        np.testing.assert_allclose(output.unimodal_logits[name], predictions[f"prediction_{name}"][:20], atol=1e-5)


def test_best_epoch_by_validation_mae_is_kept(finished_run):
    output_dir, _ = finished_run
    log = [json.loads(line) for line in (output_dir / "training_log.jsonl").read_text().splitlines()]
    best = min(row["eval_mae"] for row in log if "eval_mae" in row)
    assert json.loads((output_dir / "all_results.json").read_text())["validation_mae"] == pytest.approx(best, abs=1e-6)


def test_log_and_plots_are_there(finished_run):
    output_dir, _ = finished_run
    log = [json.loads(line) for line in (output_dir / "training_log.jsonl").read_text().splitlines()]
    assert sum("train_statistical_loss" in row for row in log) == 2
    assert sum("eval_statistical_loss" in row for row in log) == 2
    for name in ("training_dynamics.png", "modulation.png"):
        with Image.open(output_dir / name) as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 300
        assert pixels.std() > 5
    assert not [path for path in output_dir.iterdir() if path.name.startswith(".")]


def test_model_card_has_the_figures_and_the_curves(finished_run):
    output_dir, _ = finished_run
    card = ModelCard.load(output_dir / "README.md")
    results = json.loads((output_dir / "all_results.json").read_text())
    assert len(card.data.eval_results) == 2 * len(METRICS)
    for result in card.data.eval_results:
        assert result.metric_value == pytest.approx(results[f"{result.dataset_split}_{result.metric_name}"], abs=6e-5)
    assert "(training_dynamics.png)" in card.text
    assert "(modulation.png)" in card.text
    assert "The validation split also chose the epoch (by `mae`)" in card.text


def test_the_model_has_an_interval_from_the_validation_split(finished_run):
    output_dir, _ = finished_run
    config = AutoModelForSequenceClassification.from_pretrained(output_dir).config
    validation = pd.read_parquet(output_dir / "predictions_validation.parquet")
    residuals = (validation["prediction"].clip(-3, 3) - validation["label"]).abs().sort_values()
    assert config.interval_coverage == 0.9
    half_width = residuals.iloc[int(np.ceil(0.9 * (len(residuals) + 1))) - 1]
    assert config.interval_half_widths == {"acoustic+text+visual": pytest.approx(half_width)}
    assert "AutoModelForSequenceClassification" in json.loads((output_dir / "config.json").read_text())["auto_map"]


def test_resolved_config_is_a_recipe_that_repeats_the_run(finished_run, tmp_path):
    output_dir, _ = finished_run
    config = yaml.safe_load((output_dir / "resolved_config.yaml").read_text())
    assert config["seed"] == 0
    assert {"torch", "transformers", "datasets", "python", "cpsl"} <= config["versions"].keys()
    assert not {"hub_token", "resume_from_checkpoint"} & config.keys()
    process = start(output_dir / "resolved_config.yaml", "--output_dir", tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    first, second = (json.loads((folder / "all_results.json").read_text()) for folder in (output_dir, tmp_path))
    assert all(
        first[name] == second[name]
        for name in first
        if name.startswith("test_") and "second" not in name and "runtime" not in name
    )


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


def test_runs_that_differ_in_their_seed_alone_are_one_row(finished_run, tmp_path):
    output_dir, _ = finished_run
    results = json.loads((output_dir / "all_results.json").read_text())
    for seed, mae in enumerate((0.5, 0.7)):
        folder = tmp_path / "full" / f"seed{seed}"
        folder.mkdir(parents=True)
        config = yaml.safe_load((output_dir / "resolved_config.yaml").read_text())
        (folder / "resolved_config.yaml").write_text(
            yaml.safe_dump(config | {"seed": seed, "output_dir": str(folder)})
        )
        (folder / "all_results.json").write_text(json.dumps(results | {"test_mae": mae}))
    table = compare_runs([tmp_path / "full" / "seed0", tmp_path / "full" / "seed1"], "test")
    assert table.index.tolist() == [str(tmp_path / "full")]
    assert table.iloc[0]["seeds"] == 2
    assert table.iloc[0]["mae"] == "0.6000 +- 0.1414"
    with pytest.raises(ValueError, match="not a finished run"):
        compare_runs([tmp_path], "test")


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("row", recipe.ABLATIONS)
def test_every_row_of_table_2_trains(row, small_tables, tmp_path):
    options = ["--ablation", row, "--dataset", str(small_tables), "--output_dir", str(tmp_path), *QUICK, *TINY]
    assert main(["train", "sample", *options]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    resolved = yaml.safe_load((tmp_path / "resolved_config.yaml").read_text())
    on = {name for name in ("ame", "sl") if config[name]} | {name for name in ("gm", "ge", "cp") if resolved[name]}
    assert on == set(recipe.ABLATIONS[row].split())
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert np.isfinite([results[f"test_{name}"] for name in METRICS]).all()


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


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("modalities", ["text", "text,acoustic", "acoustic,visual", "text,visual,timing"])
def test_any_choice_of_modalities_trains(modalities, tmp_path):
    options = ["--modalities", modalities, "--output_dir", str(tmp_path), *QUICK, *TINY]
    assert main(["train", "sample", *options]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    names = set(modalities.split(","))
    assert config["modality_sizes"].keys() == names - {"text"}
    assert config["use_text"] == ("text" in names)
    assert (tmp_path / "modulation.png").exists() == (names != {"text"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml: there is no such recipe; name a YAML file (packaged recipes: mosei, "),
        (["samples"], "samples: there is no such recipe; did you mean sample?"),
        (["elsewhere/sample.yaml"], "elsewhere/sample.yaml: there is no such recipe; did you mean sample?"),
        (["sample", "--dataset", "nowhere.pkl"], "nowhere.pkl"),
        (["sample", "--modalities", "text,smell"], "smell"),
        (["sample", "--no_gm"], "GM"),
        (["sample", "--alpha", "-1"], "alpha"),
        (["sample", "--model_name_or_path", "tests"], "model_name_or_path tests: "),
    ],
)
def test_what_a_user_did_wrong_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["train", *arguments, "--output_dir", str(tmp_path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("cpsl train: error: ") and message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a recipe: a YAML file, or one of mosei, mosi, mosi_csd, sample"),
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
        ("a: [", "not a readable"),
        ("save_total_limit: null", "save_total_limit cannot be null; leave it out for 1, or give a value"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        recipe.read_recipe(path)


def test_a_number_without_a_point_is_still_a_number(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"learning_rate: 1e-5\noutput_dir: {tmp_path}\ngm: false\nge: false\nlr_scheduler_type: cosine\n")
    _, _, arguments = recipe.parse_arguments([str(path)])
    assert arguments.learning_rate == 1e-5
    assert (arguments.gm, arguments.ge, arguments.cp) == (False, False, True)


def test_the_processor_knows_what_made_the_features(tmp_path):
    train = load_aligned_dataset("sample")["train"].select(range(3))
    train = train.cast_column("visual", Array2D((None, 47), "float32", id="FACET 4.2"))
    backbone = make_sample_backbone(["great"], tmp_path / "backbone", hidden_size=8)
    _, tokenizer = assembly.load_backbone(backbone, 50)
    arguments = recipe.DataArguments(dataset="sample")
    processor = assembly.build_processor(arguments, DatasetDict(train=train), tokenizer)
    assert processor.feature_extractors == {"visual": "FACET 4.2"}


def test_help_shows_every_group():
    process = start("--help")
    assert process.returncode == 0
    for text in ("data:", "model:", "training:", "--modalities", "--residual_weight", "--alpha", "--ablation"):
        assert text in process.stdout


def assert_interval_holds_what_it_says(run):
    """Over random halves by video of held-out predictions, one of them calibrated on, mean coverage is 90 +- 3 %."""
    held_out = pd.concat([pd.read_parquet(path) for path in sorted(run.glob("predictions_*.parquet"))])
    videos = held_out["id"].str.rpartition("_")[0].to_numpy()
    residuals, nothing = (held_out["prediction"].clip(-3, 3) - held_out["label"]).to_numpy(), np.zeros(len(held_out))
    generator, names, coverages = np.random.default_rng(0), np.unique(videos), []
    for _ in range(200):
        fitted = np.isin(videos, generator.permutation(names)[: len(names) // 2])
        half_width = conformal_half_width(nothing[fitted], residuals[fitted])
        coverages.append(interval_coverage(nothing[~fitted], residuals[~fitted], half_width))
    assert abs(np.mean(coverages) - 0.9) <= 0.03


@pytest.mark.slow
@pytest.mark.skipif(not MOSI.exists(), reason="no CMU-MOSI data")
def test_interval_on_real_mosi(tmp_path):
    options = [
        "--model_name_or_path",
        "sample",
        "--num_train_epochs",
        "3",
        "--learning_rate",
        "1e-3",
        "--warmup_steps",
        "0",
    ]
    process = start("recipes/mosi_csd.yaml", "--data_dir", MOSI, "--output_dir", tmp_path, *options)
    assert process.returncode == 0, process.stderr[-3000:]
    assert json.loads((tmp_path / "all_results.json").read_text())["validation_corr"] > 0.2
    assert_interval_holds_what_it_says(tmp_path)


@pytest.mark.slow
def test_the_sample_recipe_learns_from_voice_and_face(tmp_path):
    correlations = {}
    for name, options in {"all": [], "text": ["--modalities", "text"]}.items():
        process = start("recipes/sample.yaml", "--output_dir", tmp_path / name, "--disable_tqdm", "true", *options)
        assert process.returncode == 0, process.stderr[-3000:]
        correlations[name] = json.loads((tmp_path / name / "all_results.json").read_text())["test_corr"]
        assert_interval_holds_what_it_says(tmp_path / name)
    assert correlations["all"] >= 0.80
    assert correlations["text"] <= correlations["all"] - 0.10
