"""`cpsl train`: what a run leaves, what it refuses, and that every row of table 2 trains."""

import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from fake_hub import running_hub
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from run_cases import pictures_not_rendered, sample_run
from shared_run import built_once
from transformers import AutoModelForSequenceClassification, AutoProcessor
from warm_python import warm_python

from cpsl import main
from data_builders import load_aligned_dataset
from modeling_cpsl import compute_sentiment_metrics
from modeling_cpsl.experiments import recipe, records, run
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
    command = [warm_python(), "run_train.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def finished_run():
    """The folder of a run of two epochs, and what it printed."""

    def build(folder):
        options = ["--num_train_epochs", "2", "--per_device_train_batch_size", "64", "--disable_tqdm", "true", *TINY]
        with (folder / "printed.txt").open("w") as stream, redirect_stdout(stream):
            assert main(["train", "sample", "--output_dir", str(folder / "run"), *options]) == 0

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
    # model, modalities and method; two lines of header; two epochs; the table; what was kept, and where it is
    assert len(printed.splitlines()) == 3 + 2 + 2 + (1 + len(METRICS)) + 2


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
    weights = [path for path in output_dir.glob("**/model.safetensors") if path.samefile(output_dir / path.name)]
    assert len(weights) == 2  # the model's and its checkpoint's: one file on the disk


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
    assert "The epoch was chosen on the validation split (by `mae`)" in card.text


def test_the_model_has_an_interval_from_the_validation_split(finished_run):
    output_dir, _ = finished_run
    config = AutoModelForSequenceClassification.from_pretrained(output_dir).config
    validation = pd.read_parquet(output_dir / "predictions_validation.parquet")
    residuals = (validation["prediction"].clip(-3, 3) - validation["label"]).abs().sort_values()
    assert config.interval_coverage == 0.9
    half_width = residuals.iloc[int(np.ceil(0.9 * (len(residuals) + 1))) - 1]
    assert config.interval_half_widths == {"acoustic+text+visual": pytest.approx(half_width)}
    assert "AutoModelForSequenceClassification" in json.loads((output_dir / "config.json").read_text())["auto_map"]


@pytest.mark.slow
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


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("modalities", ["text", "text,acoustic", "acoustic,visual", "text,visual,timing"])
def test_any_choice_of_modalities_trains(modalities, small_tables, tmp_path):
    data = ["--dataset", str(small_tables), "--modalities", modalities]
    options = [*data, "--output_dir", str(tmp_path), *QUICK, *TINY]
    assert main(["train", "sample", *options]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    names = set(modalities.split(","))
    assert config["modality_sizes"].keys() == names - {"text"}
    assert config["use_text"] == ("text" in names)
    assert (tmp_path / "modulation.png").exists() == (names != {"text"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml: there is no such recipe; name a YAML file (packaged recipes: emodb, meld, "),
        (["samples"], "samples: there is no such recipe; did you mean sample?"),
        (["elsewhere/sample.yaml"], "elsewhere/sample.yaml: there is no such recipe; did you mean sample?"),
        (["sample", "--dataset", "nowhere.pkl"], "nowhere.pkl"),
        (["sample", "--modalities", "text,smell"], "smell"),
        (["sample", "--no_gm"], "GM"),
        (["sample", "--alpha", "-1"], "alpha"),
        (["sample", "--model_name_or_path", "tests"], "model_name_or_path tests: "),
        (["sample", "--model_name_or_path", "./nowhere"], "./nowhere: no such file or folder; check the path"),
    ],
)
def test_what_a_user_did_wrong_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["train", *arguments, "--output_dir", str(tmp_path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("cpsl train: error: ") and message in line


@pytest.mark.usefixtures("without_pictures")
def test_no_token_is_written_and_what_is_pushed_names_nothing_of_the_machine(small_tables, tmp_path, monkeypatch):
    token, output_dir = "hf_" + "secret" * 5, tmp_path / "run"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    options = ["--dataset", str(small_tables), "--output_dir", str(output_dir), *TINY, "--num_train_epochs", "1"]
    options += ["--push_to_hub", "true", "--hub_token", token, "--disable_tqdm", "true"]
    with running_hub() as hub:
        for module in ("transformers.trainer", "modeling_cpsl.experiments.run"):
            monkeypatch.setattr(f"{module}.hf_api", lambda: HfApi(endpoint=hub.endpoint))
        assert main(["train", "sample", *options]) == 0
        pushed = hub.repositories["user/run"]
    written = {path.relative_to(output_dir).as_posix(): path.read_bytes() for path in files_below(output_dir)}
    assert any(name.startswith("checkpoint-1/") for name in written)
    assert [name for name, content in written.items() if token.encode() in content] == []
    stay = {name for name in written if "/" in name or name.startswith("predictions_")}
    assert pushed.keys() == written.keys() - stay
    assert {"training_dynamics.png", "modulation.png", "model.safetensors"} <= pushed.keys()
    assert pushed["README.md"] == written["README.md"] and b"## Limits" in pushed["README.md"]
    assert [name for name, content in pushed.items() if str(tmp_path).encode() in content] == []
    assert [name for name, content in pushed.items() if str(small_tables).encode() in content] == []
    shared = yaml.safe_load(pushed["resolved_config.yaml"])
    kept = yaml.safe_load(written["resolved_config.yaml"])
    assert (kept["dataset"], shared["dataset"]) == (str(small_tables), small_tables.name)


@pytest.mark.slow
def test_a_push_that_failed_is_repeated_with_the_command_that_the_error_names(finished_run, monkeypatch, tmp_path):
    output_dir, _ = finished_run
    arguments = SimpleNamespace(output_dir=str(output_dir), hub_token=None, hub_revision=None)
    monkeypatch.setattr(run, "hf_api", lambda: HfApi(endpoint="http://127.0.0.1:1"))
    with pytest.raises(ValueError, match="the run itself is complete, push it with `hf upload user/run ") as caught:
        run.push(SimpleNamespace(args=arguments, hub_model_id="user/run"))
    command = f"{Path(sys.executable).parent}/{str(caught.value).split('push it with `')[1].rstrip('`')}"
    with running_hub() as hub:
        hub.repositories["user/run"] = {}
        variables = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_none",
            "HF_HOME": str(tmp_path),
        }
        subprocess.run(command, shell=True, env=os.environ | variables, check=True, capture_output=True)
    assert hub.repositories["user/run"].keys() == records.shared_files(output_dir).keys() - {"resolved_config.yaml"}


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


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
    options = ["--model_name_or_path", "sample", "--num_train_epochs", "3", "--learning_rate", "1e-3"]
    options += [
        "--warmup_steps",
        "0",
        "--disable_tqdm",
        "true",
        "--data_dir",
        str(MOSI),
        "--output_dir",
        str(tmp_path),
    ]
    assert main(["train", "mosi_csd", "--output_dir", str(tmp_path), *options]) == 0
    assert json.loads((tmp_path / "all_results.json").read_text())["validation_corr"] > 0.2
    assert_interval_holds_what_it_says(tmp_path)


@pytest.mark.slow
def test_the_sample_recipe_learns_from_voice_and_face(tmp_path):
    with pictures_not_rendered():
        options = ["--output_dir", str(tmp_path), "--disable_tqdm", "true", "--modalities", "text"]
        assert main(["train", "sample", *options]) == 0
    correlations = {}
    for name, folder in {"all": sample_run(), "text": tmp_path}.items():
        correlations[name] = json.loads((folder / "all_results.json").read_text())["test_corr"]
        assert_interval_holds_what_it_says(folder)
    assert correlations["all"] >= 0.80
    assert correlations["text"] <= correlations["all"] - 0.10
