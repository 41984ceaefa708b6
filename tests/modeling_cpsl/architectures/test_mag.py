"""MAG: its gate against a NumPy reference, and how its shift reaches the text encoder."""

import numpy as np
import pytest
import torch
from tiny_models import CLASSES, make_batch, make_config, make_model
from torch.testing import assert_close

from modeling_cpsl.mag_cpsl import AdaptationGate, MAGOptions
from modeling_cpsl.modeling_cpsl import default_feature_mask


SIZES = {"acoustic": 4, "visual": 3}
WIDTH = 6


def reference(gate, embedding, features, beta):
    """One token's shifted embedding, as in section 2 of the paper and the guards of its code."""
    shift = np.zeros(WIDTH)
    for name, values in features.items():
        opening, change = gate.gates[name], gate.shifts[name]
        weights, bias = (parameter.detach().double().numpy() for parameter in (opening.weight, opening.bias))
        opened = np.maximum(weights @ np.concatenate([values, embedding]) + bias, 0.0)
        weights, bias = (parameter.detach().double().numpy() for parameter in (change.weight, change.bias))
        shift += opened * (weights @ values + bias)
    length = np.linalg.norm(shift) or 1.0
    shifted = embedding + min(beta * np.linalg.norm(embedding) / (length + 1e-6), 1.0) * shift
    return (shifted - shifted.mean()) / np.sqrt(shifted.var() + 1e-5)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_gate_is_the_paper_s(scale, beta):
    torch.manual_seed(0)
    gate = AdaptationGate(SIZES, WIDTH, MAGOptions(beta=beta, dropout=0.0))
    embeddings = torch.randn(2, 3, WIDTH)
    features = {name: scale * torch.randn(2, 3, size) for name, size in SIZES.items()}
    present = {"acoustic": torch.tensor([[1, 1, 0], [1, 0, 0]]).bool(), "visual": torch.ones(2, 3).bool()}
    shifted = gate(embeddings, features, present)
    for index in np.ndindex(2, 3):
        given = {name: features[name][index].double().numpy() for name in SIZES if present[name][index]}
        expected = reference(gate, embeddings[index].double().numpy(), given, beta)
        assert_close(shifted[index].double(), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_nothing_present_leaves_the_embeddings_and_finite_gradients():
    gate = AdaptationGate(SIZES, WIDTH, MAGOptions(dropout=0.0))
    embeddings = torch.randn(2, 3, WIDTH, requires_grad=True)
    features = {name: torch.zeros(2, 3, size) for name, size in SIZES.items()}
    shifted = gate(embeddings, features, dict.fromkeys(SIZES, torch.zeros(2, 3).bool()))
    assert_close(shifted, torch.nn.functional.layer_norm(embeddings, (WIDTH,)))
    shifted.square().sum().backward()
    assert embeddings.grad.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in gate.parameters())


@pytest.mark.parametrize("backbone", CLASSES)
def test_voice_reaches_every_state(backbone):
    """Through attention also those of special tokens, so that the prediction from the first token depends on it."""
    model = make_model(backbone, architecture="mag", pooling="cls")
    batch = make_batch(model.config, labels=False)
    louder = batch | {"acoustic": batch["acoustic"] + 1.0}
    with torch.no_grad():
        one, other = (model(**inputs, output_hidden_states=True) for inputs in (batch, louder))
        assert (one.logits != other.logits).all()
        mask = default_feature_mask(batch["attention_mask"])
        shifted = (one.hidden_states[0] != other.hidden_states[0]).any(dim=-1)
        assert torch.equal(shifted, mask)
        assert not model.base_model.embeddings._forward_hooks


@pytest.mark.parametrize("backbone", CLASSES)
def test_special_tokens_are_shifted_on_request(backbone):
    states = []
    for asked in (False, True):
        options = {"dropout": 0.0, "shift_special_tokens": asked}
        model = make_model(backbone, architecture="mag", architecture_options=options)
        with torch.no_grad():
            batch = make_batch(model.config, lengths=(6,), labels=False)
            states.append(model(**batch, output_hidden_states=True).hidden_states[0][0])
    differs = (states[0] != states[1]).any(dim=-1)
    assert differs.tolist() == [True, False, False, False, False, True]


def test_is_plain_text_where_voice_and_face_are_missing():
    model = make_model(architecture="mag")
    batch = make_batch(model.config, labels=False)
    absent = {name: torch.zeros(3, dtype=torch.bool) for name in ("acoustic", "visual")}
    with torch.no_grad():
        masked = model(**batch, modality_mask=absent).logits
        assert_close(masked, model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"architecture_options: dropout=1.0 must be in \[0, 1\)"),
        ({"beta": -1.0}, "architecture_options: beta=-1.0 must be finite and at least 0"),
        ({"gate": 1}, "architecture_options: 'gate' is not an option of 'mag'; its options are beta, dropout, shift_"),
        ({"beta": "much"}, "architecture_options: .*beta"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        make_config(architecture="mag", architecture_options=options)


def test_needs_text_and_another_modality():
    with pytest.raises(ValueError, match="'mag' needs text"):
        make_config(architecture="mag", use_text=False)
    with pytest.raises(ValueError, match="'mag' combines at least 2 modalities; these are text"):
        make_config(architecture="mag", modality_sizes={})
