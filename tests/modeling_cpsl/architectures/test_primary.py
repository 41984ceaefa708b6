"""The choice of a primary modality and the attention around it, sample by sample in NumPy."""

import numpy as np
import pytest
import torch
from tiny_models import SIZES, make_batch, make_config, make_model
from torch.testing import assert_close


OPTIONS = {"size": 6, "num_heads": 2, "dropout": 0.0}
LENGTHS = (8, 6, 3, 7)


def make_primary(**fields):
    return make_model(architecture="primary", architecture_options=OPTIONS, classifier_dropout=0.0, **fields)


def linear(weights, name, values):
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def normed(weights, name, values):
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def layer(weights, name, target, source):
    """Attention of one sample's (n, d) to (k, d), head by head, and the feed-forward part."""
    query, key = (normed(weights, f"{name}.attention_norm", values) for values in (target, source))
    matrices, biases = (np.split(weights[f"{name}.attention.in_proj_{part}"], 3) for part in ("weight", "bias"))
    queries, keys, values = (
        x @ matrix.T + bias for x, matrix, bias in zip((query, key, key), matrices, biases, strict=True)
    )
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        powers = np.exp(queries[:, part] @ keys[:, part].T / np.sqrt(3))
        heads.append(powers / powers.sum(axis=1, keepdims=True) @ values[:, part])
    target = target + linear(weights, f"{name}.attention.out_proj", np.concatenate(heads, axis=1))
    hidden = np.maximum(
        linear(weights, f"{name}.feedforward.0", normed(weights, f"{name}.feedforward_norm", target)), 0
    )
    return target + linear(weights, f"{name}.feedforward.3", hidden)


def reference(weights, tokens):
    """Prediction and weights of one sample from its modalities' values (n, d_m), in the order of the model."""
    tokens = {name: linear(weights, f"projections.{name}", values) for name, values in tokens.items()}
    pooled = np.concatenate([values.mean(axis=0) for values in tokens.values()])
    powers = np.exp(linear(weights, "selector.2", np.maximum(linear(weights, "selector.0", pooled), 0)))
    chosen = powers / powers.sum()
    scaled = [len(tokens) * weight * values for weight, values in zip(chosen, tokens.values(), strict=True)]
    primary = scaled.pop(chosen.argmax())
    others = np.concatenate(scaled)
    primary = layer(weights, "from_others", primary, others)
    others = layer(weights, "from_primary", others, primary)
    hidden = np.maximum(linear(weights, "head.0", np.concatenate([primary.mean(axis=0), others.mean(axis=0)])), 0)
    return linear(weights, "head.3", hidden).item(), dict(zip(tokens, chosen, strict=True))


def favour(model, place):
    """Has the selector choose one place, whatever the sample."""
    with torch.no_grad():
        model.multimodal.selector[2].bias.copy_(3.0 * torch.nn.functional.one_hot(torch.tensor(place), 3))
    return model


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_prediction_is_that_of_the_equations(place):
    """Whichever modality is the primary one, text included."""
    model = favour(make_primary(), place)
    batch = make_batch(model.config, LENGTHS, labels=False)
    with torch.no_grad():
        output = model(**batch)
        states = model.base_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    weights = {name: value.double().numpy() for name, value in model.multimodal.state_dict().items()}
    for sample, length in enumerate(LENGTHS):
        values = {"text": states, **{name: batch[name] for name in SIZES}}
        tokens = {name: value[sample, 1 : length - 1].double().numpy() for name, value in values.items()}
        prediction, chosen = reference(weights, tokens)
        assert output.logits[sample].item() == pytest.approx(prediction, abs=1e-4)
        assert [*chosen.values()].index(max(chosen.values())) == place
        for name in SIZES:
            assert output.fusion_weights[name][sample].item() == pytest.approx(chosen[name], abs=1e-5)


def test_samples_of_a_batch_have_primary_modalities_of_their_own():
    """A modality that a sample lacks is not chosen, however much it is favoured."""
    model = favour(make_primary(), 0)
    batch = make_batch(model.config, LENGTHS)
    batch["modality_mask"] = {
        "text": torch.tensor([True, False, True, False]),
        "acoustic": torch.tensor([True, True, False, False]),
        "visual": torch.tensor([True, True, False, False]),
    }
    output = model.train()(**batch)
    assert output.logits.isfinite().all()
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.multimodal.parameters())
    weights = torch.stack([output.fusion_weights[name] for name in SIZES], dim=1).sum(dim=1)
    assert 0 < weights[0] < 0.5 and weights[2] == weights[3] == 0
    assert_close(weights[1], torch.tensor(1.0))


def test_the_choice_is_trained():
    model = make_primary().train()
    output = model(**make_batch(model.config, LENGTHS))
    output.losses["task"].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.multimodal.selector.parameters())


@pytest.mark.parametrize("fields", [{"modality_sizes": SIZES | {"gaze": 2}}, {"use_text": False}])
def test_any_number_of_modalities_with_and_without_text(fields):
    model = make_primary(**fields)
    assert model(**make_batch(model.config, LENGTHS)).loss.isfinite()


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({"size": 30, "num_heads": 4}, {}, "architecture_options: size=30 must be a multiple of num_heads=4"),
        ({"dropout": 1.5}, {}, r"dropout=1.5 must be in \[0, 1\)"),
        ({}, {"modality_sizes": {}}, "combines at least 2 modalities; these are text"),
    ],
)
def test_what_does_not_fit_is_refused(options, fields, message):
    with pytest.raises(ValueError, match=message):
        make_config(architecture="primary", architecture_options=options, **fields)
