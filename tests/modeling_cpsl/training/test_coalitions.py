"""Predictions from some of the modalities, and the contributions that follow from them."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_cases import make_trainer

from modeling_cpsl.modulation import GradientModulator, shapley_values
from modeling_cpsl.modulation.contributions import coalitions
from modeling_cpsl.modulation.rules import RULES
from modeling_cpsl.training.coalitions import coalition_logits, squared_coalition_errors


def by_orders(values, names):
    """Shapley values from their definition: the mean gain over all orders."""
    orders = list(itertools.permutations(names))
    shares = dict.fromkeys(names, 0.0)
    for order in orders:
        worth = 0.0
        for number in range(1, len(order) + 1):
            members = tuple(name for name in names if name in order[:number])
            shares[order[number - 1]] += (values[members] - worth) / len(orders)
            worth = values[members]
    return list(shares.values())


class TestShapleyValues:
    @given(st.integers(1, 4), st.data())
    def test_are_the_mean_gain_over_all_orders_and_add_up(self, number, data):
        names = list("tavx"[:number])
        values = {members: data.draw(st.floats(-2, 2)) for members in coalitions(names)}
        tensors = {members: torch.tensor(value, dtype=torch.float64) for members, value in values.items()}
        shares = shapley_values(tensors, names).tolist()
        assert shares == pytest.approx(by_orders(values, names), abs=1e-9)
        assert sum(shares) == pytest.approx(values[tuple(names)], abs=1e-9)

    def test_are_equal_for_modalities_that_do_the_same(self):
        values = {("a",): 0.2, ("b",): 0.2, ("a", "b"): 0.7}
        shares = shapley_values({members: torch.tensor(value) for members, value in values.items()}, ["a", "b"])
        assert shares.tolist() == pytest.approx([0.35, 0.35])


def test_a_modulator_pools_the_errors_of_micro_batches_ranks_and_coalitions():
    layers = {name: torch.nn.Linear(2, 1) for name in ("acoustic", "visual")}
    sum(layer(torch.ones(1, 2)).sum() for layer in layers.values()).backward()
    modulator = GradientModulator(layers, rule=RULES["shapley"]())
    assert modulator.wants_coalitions(0)
    sums = {(): 8.0, ("text",): 4.0, ("acoustic",): 6.0, ("visual",): 8.0, ("text", "acoustic"): 3.0}
    sums |= {("text", "visual"): 4.0, ("acoustic", "visual"): 6.0, ("text", "acoustic", "visual"): 2.0}
    modulator.observe_coalitions({members: torch.tensor(value) for members, value in sums.items()})
    assert not modulator.wants_coalitions(0)
    modulator.observe_samples({name: torch.ones(1) for name in layers})
    modulator.step(0)
    worth = {members: 1 - value / 8.0 for members, value in sums.items() if members}
    names = ["text", "acoustic", "visual"]
    expected = dict(zip(names, by_orders(worth, names), strict=True))
    actual = modulator.rule.contributions.tolist()
    assert actual == pytest.approx([expected["acoustic"], expected["visual"]])
    assert not modulator.wants_coalitions(0)  # again in eight steps
    assert not GradientModulator(layers, rule=RULES["shapley"](), end_epoch=3).wants_coalitions(4.0)


@pytest.fixture
def model_and_batch(make_model, make_batch):
    model = make_model("deberta").train()
    return model, make_batch(model.config)


def test_logits_are_those_of_the_masked_model(model_and_batch):
    model, batch = model_and_batch
    batch["modality_mask"] = {"acoustic": torch.tensor([True] * (len(batch["labels"]) - 1) + [False])}
    logits = coalition_logits(model, batch)
    assert model.training and model.multimodal.training
    assert [*logits] == coalitions(model.modality_names)
    model.eval()
    everywhere = torch.ones(len(batch["labels"]), dtype=torch.bool)
    for members, values in logits.items():
        mask = {
            name: batch["modality_mask"].get(name, everywhere) & (name in members) for name in model.modality_names
        }
        with torch.no_grad():
            expected = model(**batch | {"modality_mask": mask}).logits
        assert torch.equal(values, expected)


def test_errors_of_the_mean_label_where_nothing_is_known(model_and_batch):
    model, batch = model_and_batch
    size = len(batch["labels"])
    lacks_voice, lacks_all = torch.ones(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool)
    lacks_voice[0] = lacks_all[1] = False
    batch["modality_mask"] = {"text": lacks_all, "acoustic": lacks_voice & lacks_all, "visual": lacks_all}
    errors = squared_coalition_errors(model, batch, constant=0.5)
    without = (batch["labels"] - 0.5).square()
    torch.testing.assert_close(errors[()], torch.where(lacks_all, without, 0))
    assert errors[("acoustic",)][0] == without[0]
    assert all(error[1] == 0 for error in errors.values())
    full = tuple(model.modality_names)
    torch.testing.assert_close(errors[full][2:], (coalition_logits(model, batch)[full] - batch["labels"])[2:].square())


@pytest.mark.parametrize("balance", ["shapley", "alternate"])
def test_a_training_reads_contributions(tmp_path, balance):
    target = "update" if RULES[balance].needs_update_target else "gradient"
    trainer = make_trainer(tmp_path, balance=balance, modulation_target=target, max_steps=2)
    trainer.train()
    contributions = trainer.modulator.rule.contributions
    assert contributions.shape == (2,) and all(map(math.isfinite, contributions.tolist()))


def test_contributions_need_no_unimodal_heads(tmp_path):
    fields = {"architecture": "mag"}
    trainer = make_trainer(tmp_path, balance="shapley", max_steps=1, config_fields=fields)
    trainer.train()
    assert trainer.modulator.rule.contributions.shape == (2,)
