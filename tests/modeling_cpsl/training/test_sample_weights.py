"""What samples count by: the ways to decide it, against numpy."""

import numpy as np
import pytest
import torch

from modeling_cpsl.training.sample_weights import SAMPLE_WEIGHTS, Curriculum, GapWeights, share_of_upper_component


def observations(count=200, num_modalities=3, seed=0):
    """What was predicted for samples of which the last was not seen yet, and one has a single modality."""
    generator = np.random.default_rng(seed)
    label = generator.uniform(-3, 3, count)
    unimodal = label[:, None] + generator.normal(size=(count, num_modalities)) * [0.3, 1.0, 2.0, 1.5][:num_modalities]
    prediction, earlier = label + generator.normal(size=count), label + generator.normal(size=count)
    unimodal[3, 1:] = np.nan
    values = {
        "label": label,
        "prediction": prediction,
        "earlier_prediction": earlier,
        "unimodal_predictions": unimodal,
    }
    for column in values.values():
        column[-1] = np.nan
    return values


def updated(weighting, values, progress=0.0):
    return weighting.updated({name: torch.tensor(value) for name, value in values.items()}, progress).numpy()


def z_scores(values):
    return (values - np.nanmean(values)) / np.nanstd(values)


@pytest.mark.parametrize(("progress", "kappa"), [(0.0, 1.0), (0.5, 0.25), (1.0, -0.5)])
def test_a_curriculum_goes_from_easy_to_hard(progress, kappa):
    values = observations()
    label, prediction, unimodal = (values[name] for name in ("label", "prediction", "unimodal_predictions"))
    spread = np.array([np.nan if np.isfinite(row).sum() < 2 else np.nanstd(row) for row in unimodal])
    parts = [np.abs(prediction - label), spread, np.abs(prediction - values["earlier_prediction"])]
    scores = np.array(list(map(z_scores, parts)))[:, :-1]
    expected = np.exp(-kappa * np.nanmean(scores, axis=0))
    expected = np.clip(expected / expected.mean(), 0.25, 4.0)
    weights = updated(Curriculum(), values, progress)
    np.testing.assert_allclose(weights[:-1], expected, rtol=1e-9)
    assert weights[-1] == 1.0
    assert np.sign(np.corrcoef(parts[0][:-1], weights[:-1])[0, 1]) == -np.sign(kappa)


def test_a_curriculum_after_the_first_epoch_and_without_heads_goes_by_what_is_known():
    values = observations() | {"earlier_prediction": np.full(200, np.nan), "unimodal_predictions": np.zeros((200, 0))}
    expected = np.exp(-z_scores(np.abs(values["prediction"] - values["label"]))[:-1])
    expected = np.clip(expected / expected.mean(), 0.25, 4.0)
    np.testing.assert_allclose(updated(Curriculum(), values)[:-1], expected, rtol=1e-9)


@pytest.mark.parametrize("num_modalities", [2, 4])
def test_gap_weighs_by_the_probability_of_the_upper_component(num_modalities):
    values = observations(num_modalities=num_modalities)
    label, unimodal = values["label"][:-1], values["unimodal_predictions"][:-1]
    scale = np.abs(label - np.median(label)).mean()
    gaps = np.ptp(np.exp(-np.abs(unimodal - label[:, None]) / scale), axis=1)
    weights = updated(GapWeights(strength=2.0), values)
    assert weights[-1] == weights[3] == 1.0
    known = np.isfinite(gaps)
    in_order = weights[:-1][known][np.argsort(gaps[known])]
    assert (np.diff(in_order) >= -1e-12).all() and in_order[-1] > 2 * in_order[0], "a larger gap counts more"
    assert in_order.mean() == pytest.approx(1.0) and in_order[-1] <= 3 * in_order[0]
    assert (updated(GapWeights(), observations(num_modalities=1)) == 1.0).all()


def test_two_groups_are_told_apart():
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(0.1, 0.05, 300), generator.normal(0.7, 0.05, 100), [np.nan]])
    share = share_of_upper_component(torch.tensor(values)).numpy()
    assert (share[:300] < 0.01).all() and (share[300:400] > 0.99).all() and np.isnan(share[-1])
    assert (share_of_upper_component(torch.full((5,), 0.3)) == 0).all()
    assert share_of_upper_component(torch.full((5,), torch.nan)).isnan().all()


@pytest.mark.parametrize("name", ["curriculum", "gap"])
def test_weights_are_finite_whatever_was_observed(name):
    for value in (0.0, np.nan):
        values = dict.fromkeys(("label", "prediction", "earlier_prediction"), np.full(6, value))
        weights = updated(SAMPLE_WEIGHTS[name](), values | {"unimodal_predictions": np.full((6, 3), value)})
        assert (weights == 1.0).all()
