"""A learning rate for the text encoder and another for the rest: groups, log, and resumed runs."""

import pytest
import torch
from training_cases import check_resumes_bit_for_bit, make_trainer, relative_distance

from modeling_cpsl.training.arguments import CPSLTrainingArguments


RATES = {"encoder_learning_rate": 1e-3, "head_learning_rate": 1e-2}
SHORT = {"num_train_epochs": 2, "num_samples": 16}


def groups_by_part(trainer):
    """What of each parameter's group is of interest, by name."""
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    return {
        names[parameter]: (group["initial_lr"], group["weight_decay"])
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }


def test_each_parameter_has_the_rate_of_its_part_and_biases_and_norms_no_decay(tmp_path):
    trainer = make_trainer(tmp_path, **RATES, weight_decay=0.1, train_embeddings="all", **SHORT)
    trainer.train()
    groups = groups_by_part(trainer)
    assert groups.keys() == {name for name, _ in trainer.model.named_parameters()}
    for name, (rate, decay) in groups.items():
        assert rate == (1e-3 if name.startswith("deberta.") else 1e-2), name
        assert decay == (0.0 if "bias" in name or "norm" in name.lower() else 0.1), name
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 1e-3


def test_only_the_parts_with_a_rate_move(tmp_path):
    """With the optimizer of those embeddings that occur too."""
    trainer = make_trainer(tmp_path, encoder_learning_rate=0.0, **SHORT)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("multimodal.") for name in moved)


def test_the_gate_of_mag_has_the_rate_of_the_encoder_that_it_is_in(tmp_path):
    trainer = make_trainer(tmp_path, config_fields={"architecture": "mag"}, train_embeddings="all", **RATES, **SHORT)
    trainer.train()
    for name, (rate, _) in groups_by_part(trainer).items():
        assert rate == (1e-3 if name.startswith(("deberta.", "multimodal.gate.")) else 1e-2), name


LAYERS = {"config_fields": {"num_hidden_layers": 3}, "train_embeddings": "all", "layer_learning_rate_decay": 0.5}


def test_each_layer_has_a_fraction_of_the_rate_of_the_one_above_it(tmp_path):
    trainer = make_trainer(tmp_path, **LAYERS, **RATES, lr_scheduler_type="constant", warmup_steps=0, **SHORT)
    trainer.train()
    groups = groups_by_part(trainer)
    assert groups.keys() == {name for name, _ in trainer.model.named_parameters()}
    for name, (rate, _) in groups.items():
        expected = 1e-2
        if name.startswith("deberta."):
            number = name.removeprefix("deberta.encoder.layer.").split(".")[0]
            expected = 1e-3 * 0.5 ** (2 - int(number) if number.isdigit() else 3)
        assert rate == pytest.approx(expected, rel=1e-12), name
    [row, _] = [row for row in trainer.state.log_history if "learning_rate" in row]
    assert RATES.items() <= row.items() and row["learning_rate"] == 1e-3


def test_a_decay_by_layer_alone_leaves_the_rest_its_rate(tmp_path):
    trainer = make_trainer(tmp_path, **LAYERS, learning_rate=4e-3, **SHORT)
    trainer.train()
    rates = {name: rate for name, (rate, _) in groups_by_part(trainer).items()}
    assert {rates[name] for name in rates if name.startswith("multimodal.")} == {4e-3}
    assert {rates[name] for name in rates if name.startswith("deberta.")} == {4e-3, 2e-3, 1e-3, 5e-4}


@pytest.mark.parametrize("decay", [0.0, 1.5, float("nan")])
def test_a_decay_that_cannot_be(tmp_path, decay):
    with pytest.raises(ValueError, match=f"layer_learning_rate_decay={decay} must be above 0 and at most 1"):
        CPSLTrainingArguments(str(tmp_path), use_cpu=True, layer_learning_rate_decay=decay)


def test_the_same_rate_for_both_is_one_rate(tmp_path):
    weights = []
    for options in ({}, {"head_learning_rate": 1e-2}):
        trainer = make_trainer(tmp_path / str(len(weights)), learning_rate=1e-2, **options, **SHORT)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert relative_distance(*weights) < 1e-6


def test_the_log_names_the_rates(tmp_path):
    trainer = make_trainer(tmp_path, **RATES, lr_scheduler_type="constant", warmup_steps=0, **SHORT)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "learning_rate" in row]
    assert len(rows) == 2
    assert all(RATES.items() <= row.items() and row["learning_rate"] == 1e-3 for row in rows)


def test_a_model_without_text_has_one_part(tmp_path):
    fields = {"use_text": False}
    trainer = make_trainer(tmp_path, **RATES, config_fields=fields, num_train_epochs=1, num_samples=16)
    trainer.train()
    assert {rate for rate, _ in groups_by_part(trainer).values()} == {1e-2}


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, decay):
    check_resumes_bit_for_bit(tmp_path, **RATES, layer_learning_rate_decay=decay)


def test_an_optimizer_that_is_given_has_its_own_rates(tmp_path):
    trainer = make_trainer(tmp_path, **RATES, **SHORT)
    trainer.optimizer = torch.optim.AdamW(trainer.model.parameters())
    with pytest.raises(ValueError, match="have no effect on an optimizer that is given; leave them out"):
        trainer.train()


@pytest.mark.parametrize("rate", [-1e-5, float("inf"), float("nan")])
@pytest.mark.parametrize("name", RATES)
def test_rates_that_cannot_be(tmp_path, name, rate):
    with pytest.raises(ValueError, match=f"{name}={rate} must be a finite number, at least 0"):
        CPSLTrainingArguments(str(tmp_path), use_cpu=True, **{name: rate})
