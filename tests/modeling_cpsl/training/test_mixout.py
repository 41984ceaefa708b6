"""Mixout: what the mixed weights are, what of a model has them, that evaluation has not, and resumed runs."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import CLASSES, make_batch, make_model
from torch import nn
from training_cases import check_resumes_bit_for_bit, make_trainer

from modeling_cpsl.packing_cpsl import encode_packed
from modeling_cpsl.training.arguments import CPSLTrainingArguments
from modeling_cpsl.training.mixout import Mixout


SHORT = {"num_train_epochs": 2, "num_samples": 16}


def mixed_layer(p, num_inputs=40, num_outputs=50):
    """A layer that has moved from the weights that it began with, and these."""
    layer = nn.Linear(num_inputs, num_outputs)
    first = layer.weight.detach().clone()
    mixout = Mixout(layer, layer.parameters(), p)
    with torch.no_grad():
        layer.weight.add_(torch.randn_like(layer.weight))
    return layer, first, mixout


def mixed(layer):
    """The weights that the layer computes with."""
    return (layer(torch.eye(layer.in_features)) - layer.bias).T


@pytest.mark.parametrize("p", [0.1, 0.7])
def test_each_weight_is_the_first_one_or_makes_up_for_it(p):
    """(m u + (1 - m) w - p u) / (1 - p), as the paper has it, m = 1 with probability p for all weights of an input."""
    torch.manual_seed(0)
    layer, first, _ = mixed_layer(p)
    weight = layer.weight.detach()
    draws = torch.stack([mixed(layer).detach() for _ in range(400)])
    chosen = (draws - first).abs().amax(dim=1, keepdim=True) < 1e-5
    expected = (chosen * first + ~chosen * weight - p * first) / (1 - p)
    torch.testing.assert_close(draws, expected, atol=1e-5, rtol=1e-5)
    # the deviation of a share of n draws is sqrt(p (1 - p) / n)
    shares, deviation = chosen.float().mean(dim=0), np.sqrt(p * (1 - p) / 400)
    assert shares.mean().item() == pytest.approx(p, abs=4 * deviation / np.sqrt(40))
    # of each input for itself, and anew in each pass
    assert shares.std().item() == pytest.approx(deviation, rel=0.4)
    assert chosen.float().mean(dim=-1).std().item() == pytest.approx(np.sqrt(p * (1 - p) / 40), rel=0.2)
    assert ((draws.mean(dim=0) - weight).abs() < 5 * (weight - first).abs() * deviation / (1 - p) + 1e-5).all()


def test_the_gradient_is_that_of_the_weights_that_stay():
    torch.manual_seed(1)
    layer, first, _ = mixed_layer(0.25)
    weights = mixed(layer)
    (weights * 3).sum().backward()
    stays = (weights - first).abs() > 1e-5
    torch.testing.assert_close(layer.weight.grad, stays * 3 / 0.75, atol=1e-5, rtol=1e-5)


def test_evaluation_has_the_weights_themselves_and_removal_leaves_no_trace():
    layer, first, mixout = mixed_layer(0.5)
    inputs, plain = torch.randn(3, 40), nn.Linear(40, 50)
    plain.load_state_dict(layer.state_dict())
    assert [*layer.state_dict()] == ["weight", "bias"]
    assert torch.equal(layer.eval()(inputs), plain(inputs))
    assert not torch.equal(layer.train()(inputs), plain(inputs))
    other = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.copy_(first)  # as long as the weights are the first ones, there is nothing to mix
    torch.testing.assert_close(mixed(layer), first, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(mixed(other), first, atol=1e-2)
    mixout.remove()
    assert layer.__dict__.keys() == plain.__dict__.keys()


@pytest.mark.parametrize("backbone", CLASSES)
def test_all_linear_layers_of_the_encoder_have_it_packed_and_recomputed_too(backbone):
    model = make_model(backbone)
    linear = {name for name, layer in model.base_model.named_modules() if isinstance(layer, nn.Linear)}
    mixout = Mixout(model, model.modality_parameters("text"), 0.5)
    assert {*mixout.layers} == {f"{model.base_model_prefix}.{name}" for name in linear}
    with torch.no_grad():
        for layer in mixout.layers.values():
            layer.weight.add_(torch.randn_like(layer.weight), alpha=0.2)
    encoder, batch = model.base_model.train(), make_batch(model.config, (12, 3))
    inputs, mask = {"input_ids": batch["input_ids"]}, batch["attention_mask"]

    def states_and_gradients(encode, seed=0):
        torch.manual_seed(seed)
        encoder.zero_grad()
        states = encode()[mask.bool()]
        states.square().mean().backward()
        return [states.detach(), *(layer.weight.grad for layer in mixout.layers.values())]

    def padded():
        return encoder(attention_mask=mask, **inputs).last_hidden_state

    expected = states_and_gradients(padded)
    assert not torch.allclose(states_and_gradients(padded, seed=1)[0], expected[0], atol=1e-3)
    packed = states_and_gradients(lambda: encode_packed(encoder, mask, **inputs))
    for value, other in zip(packed, expected, strict=True):
        torch.testing.assert_close(value, other, atol=1e-5, rtol=1e-4)
    if encoder.supports_gradient_checkpointing:
        encoder.activation_checkpointing_enable({"use_reentrant": False})
        for value, other in zip(states_and_gradients(padded), expected, strict=True):
            torch.testing.assert_close(value, other, atol=1e-6, rtol=1e-5)


def test_a_training_has_it_until_it_ends_and_saves_plain_weights(tmp_path):
    saving = {"save_strategy": "epoch", "save_total_limit": None}
    trainer = make_trainer(tmp_path, mixout=0.3, eval_strategy="epoch", **saving, **SHORT)
    plain = make_trainer(tmp_path / "plain", eval_strategy="epoch", **SHORT)
    names = [*trainer.model.state_dict()]
    seen = []
    forward = trainer.model.forward

    def counting(*args, **kwargs):
        seen.append((trainer.model.training, sum("forward" in vars(m) for m in trainer.model.deberta.modules())))
        return forward(*args, **kwargs)

    trainer.model.forward = counting
    for each in (trainer, plain):
        each.train()
    assert {count > 0 for _, count in seen} == {True} and {training for training, _ in seen} == {True, False}
    assert not any("forward" in vars(module) for module in trainer.model.deberta.modules())
    after, without = trainer.model.state_dict(), plain.model.state_dict()
    assert [*after] == names
    for name, value in load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors").items():
        assert torch.equal(value, after[name]), name
    assert any(not torch.equal(value, without[name]) for name, value in after.items())
    logged = [row["eval_mae"] for row in trainer.state.log_history if "eval_mae" in row]
    assert trainer.evaluate()["eval_mae"] == logged[-1]


@pytest.mark.parametrize("options", [{}, {"weight_averaging": "ema", "rdrop_weight": 1.0}], ids=str)
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, options):
    check_resumes_bit_for_bit(tmp_path, mixout=0.3, **options)


def test_a_resumed_run_mixes_with_the_weights_of_its_own_beginning(tmp_path):
    """Whatever the encoder that the model was built with has become meanwhile."""
    options = {"mixout": 0.5, "save_strategy": "epoch", "save_total_limit": None, **SHORT}
    whole, resumed = (make_trainer(tmp_path, **options) for _ in range(2))
    whole.train()
    with torch.no_grad():
        for weight in resumed.model.deberta.parameters():
            weight.add_(0.1)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    resumed.train(resume_from_checkpoint=str(checkpoint))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name
    first = torch.load(checkpoint / "first_weights.pt")
    torch.save({name: weight[1:] for name, weight in first.items()}, checkpoint / "first_weights.pt")
    with pytest.raises(ValueError, match="first weights are of other layers"):
        make_trainer(tmp_path, **options).train(resume_from_checkpoint=str(checkpoint))


def test_a_model_without_text_has_nothing_to_mix(tmp_path):
    make_trainer(tmp_path, mixout=0.3, config_fields={"use_text": False}, **SHORT).train()


def test_what_it_cannot_work_with_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, mixout=0.3, **SHORT)
    trainer.model.deberta.requires_grad_(False)
    with pytest.raises(ValueError, match=r"mixout=0.3 needs linear layers of the text encoder that are trained"):
        trainer.train()
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match=r"mixout=0.3 needs whole weights, and FSDP and DeepSpeed shard them"):
        trainer._add_mixout(None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mixout": 1.0}, "mixout=1.0 must be at least 0 and below 1"),
        ({"mixout": -0.1}, "mixout=-0.1 must be at least 0 and below 1"),
        ({"mixout": float("nan")}, "mixout=nan must be at least 0 and below 1"),
        ({"mixout": 0.1, "lora_rank": 4}, "mixout has no effect with lora_rank"),
    ],
)
def test_what_cannot_be(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        CPSLTrainingArguments(str(tmp_path), use_cpu=True, **options)
