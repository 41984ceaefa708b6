"""Models that earlier versions saved load, with the same tensors, and predict what they predicted.

`saved_models.json` holds what version 0.1.0 wrote for a tiny model of each kind: its `config.json`, the names and
shapes of its tensors, and the logits and loss of [`make_batch`] with the tensors filled as [`fill`] fills them.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification


SAVED_MODELS = json.loads(Path(__file__).with_name("saved_models.json").read_text())


def fill(name, shape):
    """Numbers that look random, of a name and a shape."""
    if name.endswith("num_updates"):
        return torch.tensor(3)
    if name.endswith((".minimum", ".maximum")):
        return torch.tensor(-2.0 if name.endswith(".minimum") else 2.5)
    numbers = torch.arange(max(torch.Size(shape).numel(), 1), dtype=torch.float64) + sum(map(ord, name))
    return ((torch.sin(numbers) * 43758.5453).frac().abs() * 2 - 1).float().reshape(shape)


def make_batch(modality_sizes):
    """Three utterances, of which one lacks the first modality."""
    attention_mask = (torch.arange(7) < torch.tensor([[7], [5], [3]])).long()
    batch = {"input_ids": torch.arange(21).reshape(3, 7) % 36 + 4, "attention_mask": attention_mask}
    features = {name: fill(name, (3, 7, size)) * 2 for name, size in modality_sizes.items()}
    extra_features = {name: features.pop(name) for name in sorted(features) if name not in ("acoustic", "visual")}
    missing = {name: torch.tensor([True, False, True]) for name in sorted(modality_sizes)[:1]}
    return batch | features | {"extra_features": extra_features, "modality_mask": missing}


@pytest.mark.parametrize("kind", SAVED_MODELS)
def test_it_loads_and_predicts_the_same(kind, tmp_path):
    saved = SAVED_MODELS[kind]
    (tmp_path / "config.json").write_text(json.dumps(saved["config"]))
    tensors = {name: fill(name, shape) for name, shape in saved["tensors"].items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == saved["tensors"]
    config = json.loads(model.config.to_json_string(use_diff=False))
    named = {"id2label": {"0": "sentiment"}, "label2id": {"sentiment": 0}}
    assert {name: config[name] for name in saved["config"]} == saved["config"] | named
    assert config["problem_type"] == "regression"
    with torch.no_grad():
        output = model(**make_batch(model.config.modality_sizes), labels=torch.tensor([-1.0, 0.5, 2.0]))
    assert output.logits.tolist() == pytest.approx(saved["logits"], rel=0, abs=1e-5)
    assert output.loss.item() == pytest.approx(saved["loss"], rel=1e-5)
