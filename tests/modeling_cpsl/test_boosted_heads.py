"""Several heads a modality, whose predictions add up, and what they are trained with."""

import numpy as np
import pytest
import torch
from tiny_models import SIZES, make_batch, make_config, make_model
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification


LENGTHS = (8, 6, 3, 7)
NAMES = ["text", *SIZES]


def make_boosted(heads=3, **fields):
    return make_model(boosted_heads=heads, **fields)


def add_heads(model, **counts):
    for name, count in counts.items():
        for _ in range(count):
            model.add_head(name)
    return model


def parts_of(model, batch, name):
    """What each head of a modality adds, (K, B), in NumPy and head by head, idle ones included."""
    parts = model.multimodal
    pooled = {}
    with torch.no_grad():
        head = parts.unimodal_heads[name]
        handle = head.register_forward_pre_hook(lambda module, inputs: pooled.update(values=inputs[0]))
        output = model(**batch)
        handle.remove()
    values = pooled["values"].double().numpy()
    weights = {key: value.double().numpy() for key, value in head.state_dict().items()}
    last, bias = (p.detach().double().numpy() for p in (parts.boosted_out_proj.weight[0], parts.boosted_out_proj.bias))
    hidden = [
        np.maximum(values @ weights[f"hidden.{k}.1.weight"].T + weights[f"hidden.{k}.1.bias"], 0) for k in range(3)
    ]
    return np.stack([values @ last + bias for values in hidden]), output


def test_active_heads_add_up_and_idle_ones_are_silent():
    model = add_heads(make_boosted(), acoustic=1, visual=2)
    batch = make_batch(model.config, LENGTHS)
    assert model.head_counts == {"text": 1, "acoustic": 2, "visual": 3} and model.most_heads == 3
    for name, count in model.head_counts.items():
        parts, output = parts_of(model, batch, name)
        expected = parts[:count].sum(axis=0)
        assert_close(output.unimodal_logits[name].double().numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("missing", [None, "acoustic"])
def test_the_loss_is_that_of_the_sum_and_with_several_heads_of_the_newest_and_of_the_others(missing):
    """L_m = (sum - y)^2, and (p - (y - others))^2 + (others - y)^2 where there is more than one head."""
    model = add_heads(make_boosted(), acoustic=1, visual=2)
    batch = make_batch(model.config, LENGTHS)
    present = np.array([True, False, True, True])
    if missing:
        batch["modality_mask"] = {missing: torch.from_numpy(present)}
    labels, expected = batch["labels"].double().numpy(), 0.0
    for name, count in model.head_counts.items():
        parts, output = parts_of(model, batch, name)
        active = parts[:count]
        errors = (active.sum(axis=0) - labels) ** 2
        if count > 1:
            others = active[:-1].sum(axis=0)
            errors = errors + (active[-1] - (labels - others)) ** 2 + (others - labels) ** 2
        expected += np.where(present, errors, 0.0).mean() if name == missing else errors.mean()
    assert output.losses["unimodal"].item() == pytest.approx(expected, rel=1e-5)


def test_what_is_left_over_does_not_train_the_former_heads():
    """They have the gradient of (sum - y)^2 + (others - y)^2: the newest head's target has none."""
    model = add_heads(make_boosted(heads=2), text=1)
    batch = make_batch(model.config, LENGTHS)
    first = model.multimodal.unimodal_heads["text"].hidden[0][1].bias
    output = model(**batch)
    (gradient,) = torch.autograd.grad(output.losses["unimodal"], first)

    with torch.no_grad():
        model.multimodal.unimodal_heads["text"].num_active -= 1
    others = model(**batch)
    (of_others,) = torch.autograd.grad(others.losses["unimodal"], first)
    model.add_head("text")
    output = model(**batch)
    of_sum = torch.autograd.grad((output.unimodal_logits["text"] - batch["labels"]).square().mean(), first)[0]
    assert_close(gradient, of_sum + of_others)


def test_one_head_a_modality_is_the_model_as_it_was():
    """With the same seed, and with no parameter more."""
    plain, one = make_model(), make_boosted(heads=1)
    batch = make_batch(plain.config, LENGTHS)
    assert plain.state_dict().keys() == one.state_dict().keys() and one.head_counts == {}
    assert torch.equal(plain(**batch).loss, one(**batch).loss)


def test_every_active_head_learns_and_idle_ones_have_gradients_of_zero():
    model = add_heads(make_boosted(), acoustic=1, text=2, visual=1).train()
    model(**make_batch(model.config, LENGTHS)).loss.backward()
    for name, head in model.multimodal.unimodal_heads.items():
        for place, hidden in enumerate(head.hidden):
            largest = max(parameter.grad.abs().max() for parameter in hidden.parameters())
            assert (largest > 0) == (place < model.head_counts[name]), (name, place)
    assert model.multimodal.boosted_out_proj.weight.grad.abs().max() > 0


def test_a_saved_model_has_its_heads(tmp_path):
    model = add_heads(make_boosted(), acoustic=1, visual=2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.head_counts == {"text": 1, "acoustic": 2, "visual": 3}
    batch = make_batch(model.config, LENGTHS)
    with torch.no_grad():
        assert_close(loaded(**batch).loss, model(**batch).loss)


def test_a_new_model_over_a_plain_encoder_begins_with_one_head(tmp_path):
    make_model().base_model.save_pretrained(tmp_path)
    config = make_config(boosted_heads=2)
    model = type(make_model()).from_pretrained(tmp_path, config=config)
    assert model.head_counts == dict.fromkeys(NAMES, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boosted_heads": 0}, "boosted_heads=0 must be at least 1"),
        ({"boosted_heads": 2, "architecture": "late"}, "boosted_heads=2 has no effect with architecture='late'"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_config(**fields)
