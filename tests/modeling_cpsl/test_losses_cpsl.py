"""The loss of the task, the objective (eq. 4), and the one list of its terms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_cpsl import CPSLConfig
from modeling_cpsl.losses_cpsl import loss_names, loss_weights, prediction_loss, total_loss


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
        ],
    )
    def test_names_are_those_that_a_model_returns(self, make_model, make_batch, fields, names):
        model = make_model(**fields)
        assert loss_names(model.config) == names == list(model(**make_batch(model.config)).losses)

    def test_each_weight_is_a_field_of_the_config(self):
        weights = {"unimodal": 0.5, "reconstruction": 1.0, "diversity": 0.1, "statistical": 0.1, "kl": 0.0}
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
