"""The re-weighted decision: never worse where it was fitted, kept only where it helps elsewhere, applied exactly."""

import itertools

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from modeling_cpsl.decision_cpsl import (
    FEWEST_SAMPLES,
    check_decision_weights,
    combine,
    fit_candidates,
    fit_decision_weights,
    half_of_groups,
    is_gain,
    simplex_weights,
)
from modeling_cpsl.uncertainty_cpsl import conformal_half_width


WEIGHTS = {"acoustic+text+visual": {"fused": [0.5, 0.0, 1.0], "text": [0.3, 0.5, 2.0], "visual": [0.2, -1.0, 0.5]}}


def combined(table, candidates):
    weights, offsets, slopes = candidates.T
    return (offsets + slopes * table) @ weights


def draw(seed, size=100, heads=3, num_groups=20, useful=False):
    """A calibrated fused prediction and heads of pure noise, or one that knows what the fused prediction does not."""
    generator = np.random.default_rng(seed)
    fused, other = generator.normal(size=(2, size))
    labels = fused + other + 0.5 * generator.normal(size=size)
    table = np.stack([fused, *generator.normal(size=(heads, size))], axis=1)
    if useful:
        table[:, 1] = 2 * other - 1
    return table, labels, [f"video {number}" for number in generator.integers(0, num_groups, size)]


class TestFit:
    def test_is_never_worse_where_it_was_fitted(self):
        generator = np.random.default_rng(0)
        for _ in range(1000):
            size, heads = generator.integers(2, 40), generator.integers(1, 4)
            table = generator.normal(size=(size, heads + 1)) * generator.uniform(0, 3, heads + 1)
            labels = generator.normal(size=size) + generator.uniform(-1, 1) * table[:, 0]
            candidates = fit_candidates(table, labels)
            error = np.mean((combined(table, candidates) - labels) ** 2)
            assert error <= np.mean((table[:, 0] - labels) ** 2) + 1e-9
            assert (candidates[:, 0] >= 0).all() and candidates[:, 0].sum() == pytest.approx(1)
            assert candidates[0, 1:].tolist() == [0, 1]

    def test_no_point_of_a_grid_is_better(self):
        table, labels, _ = draw(3, size=30)
        pull = 0.05
        found = simplex_weights(table, labels, pull)

        def objective(weights):
            return np.mean((labels - table @ weights) ** 2) + pull * ((weights - np.eye(4)[0]) ** 2).sum()

        grid = [np.array(point) / 20 for point in itertools.product(range(21), repeat=4) if sum(point) == 20]
        assert objective(found) <= min(map(objective, grid)) + 1e-12

    @pytest.mark.parametrize("labels", [np.zeros(5), np.ones(5)])
    def test_constant_values_are_no_trouble(self, labels):
        candidates = fit_candidates(np.zeros((5, 3)), labels)
        assert np.isfinite(candidates).all()
        assert combined(np.zeros((5, 3)), candidates) == pytest.approx(labels, abs=0.02)


class TestGate:
    def test_noise_does_not_pass(self):
        passed = sum(is_gain(*draw(seed)) for seed in range(100))
        assert passed <= 5  # 1 in 200 does

    def test_a_head_that_knows_more_passes(self):
        assert all(is_gain(*draw(seed, useful=True)) for seed in range(20))

    def test_needs_two_groups(self):
        table, labels, groups = draw(0, useful=True)
        assert not is_gain(table, labels, ["one"] * len(groups))

    def test_sets_are_fitted_by_themselves_and_small_ones_not(self):
        table, labels, groups = draw(1, size=120, heads=2, useful=True)
        sets = ["acoustic+text"] * 60 + ["text"] * 49 + ["acoustic"] * 11
        unimodal = {"acoustic": table[:, 1], "text": table[:, 2]}
        found = fit_decision_weights(table[:, 0], unimodal, labels, sets, groups)
        assert found.keys() == {"acoustic+text"} and FEWEST_SAMPLES == 50
        assert found["acoustic+text"].keys() == {"fused", "acoustic", "text"}
        assert found["acoustic+text"]["acoustic"][0] > 0.2
        check_decision_weights(found)
        noise = dict.fromkeys(("acoustic", "text"), np.random.default_rng(2).normal(size=120))
        assert fit_decision_weights(table[:, 0], noise, labels, sets, groups) == {}


def test_halves_are_whole_groups():
    groups = [f"video {number % 13}" for number in range(200)]
    half = half_of_groups(groups)
    assert not {*np.array(groups)[half]} & {*np.array(groups)[~half]}
    assert 85 <= half.sum() <= 115
    assert (half_of_groups(groups[::-1]) == half[::-1]).all()


def test_intervals_of_other_videos_hold_what_they_claim():
    """Weights of one half and intervals of the other cover new samples as often as claimed; in sample they do not."""
    covered = {"other half": [], "same samples": []}
    for seed in range(150):
        table, labels, groups = draw(seed, size=400, num_groups=60, useful=True)
        known, new = slice(0, 80), slice(80, 400)
        half = half_of_groups(groups[known])
        for name, fitted, calibrated in (
            ("other half", half, ~half),
            ("same samples", half, half),
        ):
            predictions = combined(table, fit_candidates(table[known][fitted], labels[known][fitted]))
            width = conformal_half_width(predictions[known][calibrated], labels[known][calibrated], 0.9)
            covered[name].append(np.mean(np.abs(predictions[new] - labels[new]) <= width))
    # split-conformal intervals cover between 0.9 and 0.9 + 1 / (n + 1) on average
    assert 0.89 <= np.mean(covered["other half"]) <= 0.94
    assert np.mean(covered["same samples"]) < np.mean(covered["other half"])


class TestModel:
    def test_combines_what_it_predicts(self, make_model, make_batch):
        model, plain = make_model(decision_weights=WEIGHTS), make_model()
        batch = make_batch(model.config)
        batch["modality_mask"] = {"acoustic": torch.tensor([True, True, False])}
        with torch.no_grad():
            output, before = model(**batch), plain(**batch)
        unimodal = before.unimodal_logits
        expected = 0.5 * before.logits + 0.3 * (0.5 + 2 * unimodal.text) + 0.2 * (0.5 * unimodal.visual - 1)
        torch.testing.assert_close(
            output.logits, torch.where(batch["modality_mask"]["acoustic"], expected, before.logits)
        )

    def test_trains_without_them(self, make_model, make_batch):
        model, plain = make_model(decision_weights=WEIGHTS).train(), make_model().train()
        batch = make_batch(model.config)
        outputs = []
        for each in (model, plain):
            torch.manual_seed(0)
            outputs.append(each(**batch).logits)
        assert torch.equal(*outputs)

    def test_scales_the_deviation_of_latent_draws(self, make_model, make_batch):
        deviations = []
        for weights in (WEIGHTS, None):
            model = make_model(decision_weights=weights)
            torch.manual_seed(0)
            deviations.append(model(**make_batch(model.config), num_samples=5).logits_std)
        torch.testing.assert_close(deviations[0], 0.5 * deviations[1])

    def test_they_come_with_their_weights_alone(self, make_model, tmp_path):
        make_model(decision_weights=WEIGHTS).save_pretrained(tmp_path)
        load = AutoModelForSequenceClassification.from_pretrained
        assert load(tmp_path).config.decision_weights == WEIGHTS
        assert load(tmp_path, fusion="sum").config.decision_weights is None
        model = load(tmp_path)
        model.prepare_for_training()
        assert model.config.decision_weights is None

    @pytest.mark.parametrize(
        "weights",
        [
            {},
            {"fused": [1.0]},
            {"fused": [1.0, 0.0, float("nan")]},
            {"text": [1.0, 0.0, 1.0]},
            {"fused": [0.5, 0.0, 1.0], "visual": [0.5, 0.0, 1.0]},
        ],
    )
    def test_damaged_ones_are_refused(self, make_config, weights):
        with pytest.raises(ValueError, match="decision_weights: "):
            make_config(decision_weights={"text": weights})

    def test_of_other_modalities_have_no_effect(self):
        fused = torch.tensor([1.0])
        presence = {"text": torch.tensor([True])}
        assert combine(fused, {"text": fused}, presence, WEIGHTS) is fused
