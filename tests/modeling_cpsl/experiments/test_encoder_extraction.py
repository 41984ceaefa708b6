"""The text encoder of a model, written as a plain one."""

import json

import pytest
import torch
from tiny_models import CLASSES, make_batch, make_model, make_wordpiece_tokenizer
from transformers import AutoModel, AutoTokenizer

from cpsl import main
from modeling_cpsl import CPSLProcessor


def save_model(folder, backbone="deberta", **fields):
    tokenizer = make_wordpiece_tokenizer()
    model = make_model(backbone, vocab_size=len(tokenizer), **fields)
    model.save_pretrained(folder)
    CPSLProcessor(tokenizer, model.config.modality_sizes, use_text=model.config.use_text).save_pretrained(folder)
    return model


@pytest.mark.parametrize("backbone", CLASSES)
def test_auto_model_loads_the_weights_bit_for_bit_and_encodes_as_the_model_does(backbone, tmp_path, capsys):
    model = save_model(tmp_path / "model", backbone)
    assert main(["extract_encoder", str(tmp_path / "model"), str(tmp_path / "encoder")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'encoder'}: {type(model.base_model).__name__}, ")
    encoder, info = AutoModel.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert type(encoder) is type(model.base_model) and not info["unexpected_keys"]
    assert all(name.startswith("pooler.") for name in info["missing_keys"])
    weights, expected = encoder.state_dict(), model.base_model.state_dict()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []

    batch = make_batch(model.config)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        states, own_states = encoder.eval()(**text).last_hidden_state, model.base_model(**text).last_hidden_state
    attended = text["attention_mask"].bool()
    torch.testing.assert_close(states[attended], own_states[attended], atol=1e-6, rtol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    assert tokenizer("the movie was great").input_ids == make_wordpiece_tokenizer()("the movie was great").input_ids


def test_nothing_in_the_folder_is_of_cpsl(tmp_path):
    save_model(tmp_path / "model", interval_half_widths={"text": 1.0}, interval_coverage=0.9)
    assert main(["extract_encoder", str(tmp_path / "model"), str(tmp_path / "encoder")]) == 0
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert config["model_type"] == "deberta-v2" and config["architectures"] == ["DebertaV2Model"]
    assert not {"modality_sizes", "use_text", "interval_half_widths", "custom_pipelines", "auto_map"} & config.keys()
    assert [path.name for path in (tmp_path / "encoder").iterdir() if "cpsl" in path.name] == []


def test_a_model_without_text_and_a_folder_that_is_there_are_refused(tmp_path, capsys):
    save_model(tmp_path / "voice", use_text=False)
    assert main(["extract_encoder", str(tmp_path / "voice"), str(tmp_path / "encoder")]) == 1
    assert f"{tmp_path / 'voice'}: it reads no text, so it has no text encoder" in capsys.readouterr().err
    save_model(tmp_path / "model")
    (tmp_path / "encoder").mkdir()
    assert main(["extract_encoder", str(tmp_path / "model"), str(tmp_path / "encoder")]) == 1
    assert "exists already; remove it or name another folder" in capsys.readouterr().err
    assert [*(tmp_path / "encoder").iterdir()] == []
