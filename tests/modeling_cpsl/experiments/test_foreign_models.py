"""Models of others: what is wrong with their files is told on one line, and no code in them is run."""

import contextlib
import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from cpsl import main
from modeling_cpsl.experiments.assembly import load_backbone


def predict(model, folder):
    (folder / "data.jsonl").write_text(json.dumps({"id": "a", "words": ["great", "movie"]}) + "\n")
    return main(["predict", str(model), str(folder / "data.jsonl"), str(folder / "out" / "predictions.csv")])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("config.json", "null"),
        ("config.json", "[" * 20_000),
        ("config.json", {"quantization_config": [1]}),
        ("config.json", {"num_attention_heads": "2"}),
        ("config.json", {"interval_half_widths": {"text": "wide"}, "interval_coverage": []}),
        ("config.json", {"num_hidden_layers": 10_000}),
        ("config.json", {"intermediate_size": 2**33}),
        ("config.json", {"latent_size": 2**33}),
        ("processor_config.json", {"max_length": "50"}),
        ("processor_config.json", {"feature_statistics": {"acoustic": {"mean": "x", "std": [1]}}}),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_a_damaged_model_is_told_on_one_line(trained_folder, tmp_path, capsys, file, damage):
    folder = shutil.copytree(trained_folder, tmp_path / "model")
    whole = json.loads((folder / file).read_text())
    (folder / file).write_text(damage if isinstance(damage, str) else json.dumps(whole | damage))
    assert predict(folder, tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cpsl predict: error: {folder}: not a readable CPSL model (")


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("config.json", {"model_type": "new", "auto_map": {"AutoConfig": "code.New"}}),
        ("tokenizer_config.json", {"tokenizer_class": "New", "auto_map": {"AutoTokenizer": ["code.New", "code.New"]}}),
    ],
)
def test_code_in_a_folder_is_not_run_and_nobody_is_asked_to(trained_folder, tmp_path, monkeypatch, file, code):
    folder = shutil.copytree(trained_folder, tmp_path / "model")
    (folder / "code.py").write_text("raise SystemExit")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | code))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    predict(folder, tmp_path)
    with contextlib.suppress(ValueError):
        load_backbone(str(folder), max_length=20)  # to train it further
    assert asked == []


def test_a_model_without_all_its_weights_does_not_predict_from_random_numbers(trained_folder, tmp_path, capsys):
    folder = shutil.copytree(trained_folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["multimodal.out_proj.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert predict(folder, tmp_path) == 1
    assert "its weights lack 1 tensor, the first is multimodal.out_proj.bias" in capsys.readouterr().err
