"""The loss of the task, the objective (eq. 4), and the one list of its terms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_cpsl import CPSLConfig
from modeling_cpsl.losses_cpsl import concordance_loss, loss_names, loss_weights, prediction_loss, total_loss


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


@pytest.mark.parametrize(
    ("kind", "one"),
    [
        ("mse", lambda e: e * e),
        ("l1", abs),
        ("smooth_l1", lambda e: 0.5 * e * e if abs(e) < 1 else abs(e) - 0.5),
    ],
)
@given(errors=st.lists(st.tuples(st.floats(-4, 4), st.booleans()), min_size=1, max_size=6))
@settings(deadline=None)
def test_prediction_loss(kind, one, errors):
    labels = torch.linspace(-3, 3, len(errors), dtype=torch.double)
    predictions = labels + torch.tensor([error for error, _ in errors], dtype=torch.double)
    everyone = mean(one(error) for error, _ in errors)
    assert prediction_loss(predictions, labels, kind).item() == pytest.approx(everyone, abs=1e-12)
    presence = torch.tensor([present for _, present in errors])
    of_those_present = mean(one(error) if present else 0.0 for error, present in errors)
    assert prediction_loss(predictions, labels, kind, presence).item() == pytest.approx(of_those_present, abs=1e-12)


def test_prediction_loss_is_mse_by_default():
    assert prediction_loss(torch.tensor([3.0]), torch.tensor([1.0])) == 4.0


def concordance(x, y):
    """Lin's (1989) by way of the correlation: r times a bias correction of the two scales and means."""
    scale, shift = x.std() / y.std(), (x.mean() - y.mean()) / np.sqrt(x.std() * y.std())
    return np.corrcoef(x, y)[0, 1] * 2 / (scale + 1 / scale + shift**2)


class TestConcordanceLoss:
    @given(size=st.integers(4, 9), num_targets=st.integers(0, 3), seed=st.integers(0, 999))
    @settings(deadline=None, max_examples=50)
    def test_it_is_1_minus_lins_correlation_and_the_mean_over_targets(self, size, num_targets, seed):
        """With whole numbers as weights, of each sample repeated so many times."""
        generator = np.random.default_rng(seed)
        shape = (size, num_targets) if num_targets else (size,)
        x, y = generator.normal(size=shape) * generator.uniform(0.3, 3), generator.normal(1, 1.5, size=shape)
        given_x, given_y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
        columns = [*zip(x.reshape(size, -1).T, y.reshape(size, -1).T, strict=True)]
        expected = np.mean([1 - concordance(*column) for column in columns])
        loss = concordance_loss(given_x, given_y)
        assert loss.shape == () and loss.item() == pytest.approx(expected, abs=1e-5)
        counts = generator.integers(0, 4, size)
        counts[:4] += 1
        repeated = np.mean([1 - concordance(*(np.repeat(values, counts) for values in column)) for column in columns])
        weighted = concordance_loss(given_x, given_y, torch.tensor(counts, dtype=torch.float32))
        assert weighted.item() == pytest.approx(repeated, abs=1e-5)

    def test_constants_of_a_batch_give_a_finite_gradient(self):
        for labels in (torch.ones(5), torch.arange(5.0)):
            predictions = torch.ones(5, requires_grad=True)
            loss = concordance_loss(predictions, labels)
            loss.backward()
            assert loss == 1 and predictions.grad.isfinite().all()
        assert concordance_loss(torch.arange(5.0), torch.arange(5.0)).abs() < 1e-6

    def test_fewer_than_four_samples_have_none(self):
        x, y = torch.randn(4, 2, generator=torch.manual_seed(0)), torch.randn(4, 2)
        assert concordance_loss(x, y) > 0
        assert concordance_loss(x[:3], y[:3]) == 0
        assert concordance_loss(x, y, torch.tensor([1.0, 2.0, 0.0, 1.0])) == 0
        assert concordance_loss(x, y, torch.zeros(4)) == 0

    @pytest.mark.parametrize("labels", [{}, {"problem_type": "regression", "id2label": {0: "calm", 1: "glad"}}])
    def test_a_model_adds_it_to_its_objective(self, make_model, make_batch, labels):
        fields = {"modality_sizes": {}, **labels}
        plain, model = (make_model(**fields, concordance_weight=weight) for weight in (0.0, 0.5))
        assert (plain.smallest_batch_size, model.smallest_batch_size) == (1, 4)
        batch = make_batch(model.config, (8, 6, 3, 7, 5))
        if labels:
            batch["labels"] = torch.stack([batch["labels"], batch["labels"].flip(0)], dim=1)
        before, output = plain(**batch), model(**batch)
        x, y = output.logits.detach().numpy().reshape(5, -1).T, batch["labels"].numpy().reshape(5, -1).T
        expected = np.mean([1 - concordance(*column) for column in zip(x, y, strict=True)])
        assert output.losses["concordance"].item() == pytest.approx(expected, abs=1e-5)
        torch.testing.assert_close(output.loss, before.loss + 0.5 * output.losses["concordance"])
        assert torch.equal(output.losses["task"], before.losses["task"]) and "concordance" not in before.losses


def test_total_loss_is_equation_4():
    parts = {"task": 2.0, "reconstruction": 3.0, "unimodal": 5.0, "diversity": -7.0, "statistical": 11.0}
    weights = {"reconstruction": 1.0, "unimodal": 0.5, "diversity": 0.1, "statistical": 0.1}
    total = total_loss({name: torch.tensor(value) for name, value in parts.items()}, weights)
    assert total.shape == () and total.item() == pytest.approx(2.0 + 3.0 + 0.5 * 5.0 - 0.1 * 7.0 + 0.1 * 11.0)
    assert total_loss({"task": torch.tensor(2.0), "unimodal": torch.tensor(4.0)}, weights).item() == 4.0


class TestTheListOfLosses:
    @pytest.mark.parametrize(
        ("fields", "names"),
        [
            ({}, ["task", "unimodal", "reconstruction", "diversity", "statistical"]),
            ({"sl": False}, ["task", "unimodal", "reconstruction", "diversity"]),
            ({"ame": False}, ["task", "unimodal", "reconstruction", "diversity", "statistical"]),
            ({"modality_sizes": {}}, ["task", "unimodal"]),
            ({"kl_weight": 0.5}, ["task", "unimodal", "reconstruction", "diversity", "statistical", "kl"]),
            ({"kl_weight": 0.5, "ame": False, "sl": False}, ["task", "unimodal", "reconstruction", "diversity"]),
            ({"kl_weight": 0.5, "modality_sizes": {}}, ["task", "unimodal"]),
            ({"concordance_weight": 0.5, "modality_sizes": {}}, ["task", "unimodal", "concordance"]),
        ],
    )
    def test_names_are_those_that_a_model_returns(self, make_model, make_batch, fields, names):
        model = make_model(**fields)
        assert loss_names(model.config) == names == list(model(**make_batch(model.config)).losses)

    def test_each_weight_is_a_field_of_the_config(self):
        weights = {"unimodal": 0.5, "reconstruction": 1.0, "diversity": 0.1, "statistical": 0.1, "kl": 0.0}
        weights["concordance"] = 0.0
        assert loss_weights(CPSLConfig()) == weights
        assert loss_weights(CPSLConfig(statistical_weight=0.7)) == weights | {"statistical": 0.7}

    def test_a_new_loss_is_a_function_and_a_line(self, edited_model_class, plain_config, make_batch):
        """Sparse latents, as somebody would add them to `losses_cpsl.py`."""
        function = """
def sparsity_loss(latents):
    return sample_mean(latents.abs().mean(dim=(1, 2)))


"""
        line = """
    "sparsity": Loss(
        _mean_over_modalities(lambda m, _: sparsity_loss(m.latents)), title="sparsity", unit="", weight=0.25
    ),
"""
        model_class = edited_model_class(
            "losses_cpsl.py",
            ("class Loss(NamedTuple)", function + "class Loss(NamedTuple)"),
            ("\n}\n\n\ndef loss_names", line + "}\n\n\ndef loss_names"),
        )
        config_class = model_class.config_class
        assert config_class().sparsity_weight == 0.25
        with pytest.raises(ValueError, match="sparsity_weight=-1"):
            config_class(sparsity_weight=-1)
        fields = {"modality_sizes": {"acoustic": 5, "visual": 3}, "sparsity_weight": 2.0}
        model = model_class(config_class.from_backbone(plain_config("deberta"), **fields)).eval()
        assert model.loss_names[-1] == "sparsity"
        output = model(**make_batch(model.config))
        assert output.losses["sparsity"] > 0
        others = {name: value for name, value in output.losses.items() if name != "sparsity"}
        expected = total_loss(others, loss_weights(model.config)) + 2.0 * output.losses["sparsity"]
        torch.testing.assert_close(output.loss, expected)
