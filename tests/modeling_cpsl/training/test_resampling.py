"""Which samples an epoch draws: the weights of each way, and the draws that follow from weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_cpsl.training.arguments import CPSLTrainingArguments
from modeling_cpsl.training.resampling import (
    RESAMPLING,
    EpochSampler,
    contribution_copies,
    effective_size,
    preferred_modality,
)


NAN = float("nan")


@pytest.mark.parametrize(
    ("contributions", "copies"),
    [
        ([1.0, 1.2], 0),
        ([0.99, 3.0], 1),
        ([0.25, 0.5], 1),
        ([0.5, 0.24], 2),
        ([0.0, 0.0], 2),
        ([2.0, -0.01], 3),
        ([0.3, 2.0, -1.0], 3),
        ([2.0, NAN, 0.1], 2),
        ([-1.0, NAN], 0),  # nothing to be weaker than
        ([NAN, NAN], 0),
    ],
)
def test_the_weakest_modality_asks_for_copies(contributions, copies):
    values = np.array([contributions])
    assert contribution_copies(torch.from_numpy(values))[0].tolist() == [copies]
    assert RESAMPLING["contribution"]().weights(values).tolist() == [1 + copies]


def test_contributions_are_due_every_few_epochs():
    rule = RESAMPLING["contribution"](start_epoch=2, every=3)
    assert [epoch for epoch in range(10) if rule.is_due(epoch)] == [2, 5, 8]


def test_preferred_modality():
    errors = np.array([[0.5, 0.2, 1.0], [NAN, 0.7, NAN], [NAN, NAN, NAN], [0.3, NAN, 0.1]])
    preferred, discrepancy = preferred_modality(errors)
    assert preferred.tolist() == [1, 1, -1, 2]
    np.testing.assert_allclose(discrepancy, [0.3, NAN, NAN, 0.2])
    assert np.isnan(preferred_modality(np.ones((3, 1)))[1]).all()


class TestDiscrepancy:
    def test_of_two_modalities_by_hand(self):
        # signed differences -1, .1, .2, .3, 3 in bins of width 4 / 4 from 0: four samples prefer the first
        errors = np.array([[1.0, 2.0], [0.1, 0.0], [0.2, 0.0], [0.3, 0.0], [3.0, 0.0]])
        rule = RESAMPLING["discrepancy"](bins=4, gamma=1)
        np.testing.assert_allclose(rule.weights(errors), [3, 1, 1, 1, 3])
        np.testing.assert_allclose(RESAMPLING["discrepancy"](bins=4).weights(errors), np.sqrt([3, 1, 1, 1, 3]))
        np.testing.assert_allclose(RESAMPLING["discrepancy"](bins=4, gamma=1, cap=2).weights(errors), [2, 1, 1, 1, 2])

    def test_samples_that_cannot_be_compared_have_the_mean_weight(self):
        errors = np.array([[0.0, 0.95], [0.0, 0.9], [1.0, 0.0], [NAN, 1.0]])
        weights = RESAMPLING["discrepancy"](gamma=1, bins=2).weights(errors)
        np.testing.assert_allclose(weights, [1, 1, 2, 4 / 3])
        assert RESAMPLING["discrepancy"]().weights(np.full((3, 2), NAN)).tolist() == [1, 1, 1]
        assert RESAMPLING["discrepancy"]().weights(np.ones((3, 2))).tolist() == [1, 1, 1]

    @given(st.integers(1, 5), st.integers(1, 60), st.integers(0, 10**6))
    def test_weights_are_finite_and_bounded(self, num_modalities, number, seed):
        generator = np.random.default_rng(seed)
        errors = np.abs(generator.normal(size=(number, num_modalities)))
        errors[generator.random(errors.shape) < 0.2] = NAN
        weights = RESAMPLING["discrepancy"]().weights(errors)
        assert ((weights >= 1) & (weights <= 5)).all()

    @pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
    def test_as_many_times_the_data_has_the_same_weights(self, gamma):
        errors = np.abs(np.random.default_rng(0).normal(size=(40, 3)))
        rule = RESAMPLING["discrepancy"](gamma=gamma)
        np.testing.assert_allclose(rule.weights(np.tile(errors, (3, 1))), np.tile(rule.weights(errors), 3))


class TestDraws:
    @given(st.lists(st.floats(0.1, 5), min_size=1, max_size=60), st.integers(0, 50))
    def test_each_sample_is_drawn_as_often_as_its_weight_says(self, weights, epoch):
        sampler = EpochSampler(len(weights), seed=3)
        sampler.weights = np.array(weights)
        sampler.set_epoch(epoch)
        counts = np.bincount(list(sampler), minlength=len(weights))
        expected = sampler.weights / sampler.weights.sum() * len(weights)
        assert counts.sum() == len(sampler) == len(weights)
        assert (np.abs(counts - expected) < 1 + 1e-6).all()

    def test_are_unbiased_over_epochs(self):
        sampler = EpochSampler(5, seed=0)
        sampler.weights = np.array([1.0, 1.0, 2.0, 3.0, 4.0])
        counts = np.zeros(5)
        for epoch in range(2000):
            sampler.set_epoch(epoch)
            counts += np.bincount(list(sampler), minlength=5)
        np.testing.assert_allclose(counts / 2000, sampler.weights / sampler.weights.sum() * 5, atol=0.04)

    @given(st.integers(1, 200), st.integers(0, 5))
    def test_equal_weights_draw_every_sample_once(self, number, epoch):
        sampler = EpochSampler(number, seed=1)
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(number))

    def test_follow_from_seed_and_epoch_alone(self):
        def draws(seed, epoch):
            sampler = EpochSampler(30, seed)
            sampler.weights = np.linspace(1, 3, 30)
            sampler.set_epoch(epoch)
            torch.manual_seed(epoch + 7)
            return list(sampler)

        assert draws(0, 1) == draws(0, 1)
        assert len({tuple(draws(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4

    def test_of_like_length_stand_together(self):
        lengths = np.random.default_rng(0).integers(1, 50, 200).tolist()
        sampler = EpochSampler(200, seed=0, lengths=lengths, batch_size=10)
        plain = EpochSampler(200, seed=0)
        sampler.weights = plain.weights = np.linspace(1, 4, 200)
        assert sorted(sampler) == sorted(plain)

        def spread(order):
            return np.ptp(np.array([lengths[index] for index in order]).reshape(-1, 10), axis=1).mean()

        assert spread(sampler) < spread(plain) / 2


def test_effective_size():
    assert effective_size(np.ones(7)) == 7
    assert effective_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resample": "smv"}, "resample='smv' must be one of none, discrepancy, contribution"),
        ({"resample": "contribution", "num_train_epochs": 5}, "begins in epoch 5 and this run has 5; give"),
        ({"resample": "contribution", "resample_options": ["every=0"]}, "resample_options: every=0 must be between 1"),
        ({"resample": "discrepancy", "resample_options": ["gamma=2"]}, "resample_options: gamma=2.0 must be between"),
        ({"resample": "discrepancy", "resample_options": ["every=2"]}, "'every' is not an option of resample=discr"),
        ({"resample_options": ["cap=2"]}, "'cap' is not an option of resample=none; it has none"),
    ],
)
def test_options_are_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        CPSLTrainingArguments(output_dir=str(tmp_path), **options)


def test_options_are_read(tmp_path):
    given = ["bins=5", "cap=3"]
    args = CPSLTrainingArguments(output_dir=str(tmp_path), resample="discrepancy", resample_options=given)
    assert args.resampling == RESAMPLING["discrepancy"](bins=5, cap=3.0)
    assert args.to_dict()["resample_options"] == {"bins": 5, "cap": 3.0}


@pytest.mark.parametrize("place", ["docs/balance.md", "experiments/balance.yaml"])
def test_every_way_is_documented_and_compared(place):
    text = (Path(__file__).parents[3] / place).read_text()
    found = "| `{}` |" if place.endswith(".md") else "resample: {}}}"
    assert all(found.format(name) in text for name in RESAMPLING if name != "none")
