"""Which modalities a policy leaves out of a step's samples."""

import math

import numpy as np
import pytest
import torch

from modeling_cpsl.training.sample_policies import OPM, POLICIES, StepSamples


MODALITIES = ["text", "acoustic", "visual"]
SCORES = {"score_acoustic": 0.4, "score_visual": 0.6, "score_text": 0.8}


def make_samples(count=600, modalities=MODALITIES, presence=None, step=0, epoch=9.0, first=0):
    if presence is None:
        presence = torch.ones(count, len(modalities), dtype=torch.bool)
    ids = [f"s{first + index}" for index in range(len(presence))]
    return StepSamples(ids, modalities, presence, step=step, seed=3, epoch=epoch)


def opm(scores=SCORES, **options):
    policy = OPM(**{"step_probability": 1.0, "start_epoch": 0} | options)
    policy.observe({name: torch.tensor(value) for name, value in scores.items()})
    return policy


def uniform(probability):
    return POLICIES["uniform"](probability=probability)


def test_each_modality_is_dropped_with_its_probability():
    kept = uniform(0.3)(make_samples(4000)).numpy()
    # All three fall out with .027, and then one of the three stays: .3 - .009 each.
    np.testing.assert_allclose(kept.mean(axis=0), 0.709, atol=0.025)
    assert kept.any(axis=1).all()
    pairs = np.corrcoef(kept.T)[np.triu_indices(3, 1)]
    assert np.abs(pairs).max() < 0.12  # one by one, but for the rule that one stays


def test_uniform_masks_are_those_that_the_option_modality_dropout_drew():
    kept = uniform(0.5)(make_samples(8, step=4))
    packed = [int("".join("1" if value else "0" for value in row), 2) for row in kept]
    assert packed == [5, 6, 5, 2, 5, 2, 7, 1]


EVERY_POLICY = {
    "uniform": lambda: uniform(0.9),
    "opm": lambda: opm(base_probability=0.6),
    "soft": POLICIES["soft"],
}


@pytest.mark.parametrize("name", EVERY_POLICY)
def test_what_is_missing_stays_missing_and_one_always_stays(name):
    policy = EVERY_POLICY[name]()
    for num_modalities in (2, 3, 4):
        names = [*MODALITIES, "gaze"][-num_modalities:]
        policy.observe({f"score_{name}": torch.tensor(0.2 + index / 5) for index, name in enumerate(names)})
        presence = torch.rand(400, num_modalities, generator=torch.Generator().manual_seed(1)) < 0.5
        kept = policy(make_samples(modalities=names, presence=presence))
        assert torch.equal(kept.bool() & ~presence, torch.zeros_like(presence))
        assert torch.equal(kept.bool().any(dim=1), presence.any(dim=1))
        assert not torch.equal(kept.bool(), presence)


@pytest.mark.parametrize("name", EVERY_POLICY)
def test_a_decision_is_the_same_however_a_step_is_cut(name):
    policy = EVERY_POLICY[name]()
    whole = policy(make_samples(12))
    parts = [policy(make_samples(4, first=first)) for first in (0, 4, 8)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, policy(make_samples(12, step=1)))


def test_opm_leaves_out_what_is_ahead_by_the_published_formula():
    # By hand: of three scores s the ratio of the second is the mean of s_2 / s_1 and s_2 / s_3.
    probabilities = opm().probabilities(MODALITIES)
    ratios = [(0.8 / 0.4 + 0.8 / 0.6) / 2, (0.4 / 0.8 + 0.4 / 0.6) / 2, (0.6 / 0.8 + 0.6 / 0.4) / 2]
    expected = [0.5 * (1 + 0.5 * math.tanh(ratio - 1)) if ratio > 1 else 0.0 for ratio in ratios]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6)
    kept = opm()(make_samples(4000)).numpy()
    np.testing.assert_allclose(1 - kept.mean(axis=0), expected, atol=0.025)


def test_opm_of_equals_leaves_nothing_out_and_never_more_than_all():
    assert opm({"score_acoustic": 0.5, "score_visual": 0.5}).probabilities(MODALITIES[1:]).tolist() == [0.0, 0.0]
    assert opm(base_probability=0.9, strength=9.0).probabilities(MODALITIES).max() == 1.0


def test_opm_leaves_what_is_not_compared_alone():
    policy = opm({"score_acoustic": 0.2, "score_visual": 0.8, "score_gaze": math.nan})
    assert policy.probabilities([*MODALITIES, "gaze"]).nonzero().flatten().tolist() == [2]


def test_opm_acts_in_its_share_of_steps_after_its_first_epoch_and_after_a_step():
    policy = opm(step_probability=0.7, start_epoch=2)
    acts = [not policy(make_samples(40, step=step, epoch=2.0)).all() for step in range(400)]
    assert abs(np.mean(acts) - 0.7) < 0.06
    assert all(policy(make_samples(40, step=step, epoch=1.9)).all() for step in range(10))
    unobserved = OPM(step_probability=1.0, start_epoch=0)
    assert unobserved(make_samples(40)).all()


def test_opm_goes_on_from_its_state():
    policy, other = opm(), OPM(step_probability=1.0, start_epoch=0)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(policy(make_samples(40)), other(make_samples(40)))
    with pytest.raises(ValueError, match="OPM needs"):
        other.load_state_dict({})


def test_soft_shows_the_four_views_of_the_released_code_equally_often():
    kept = POLICIES["soft"]()(make_samples(4000)).double().numpy()
    assert (kept[:, 0] == 1).all()  # the text
    voice, face = kept[:, 1], kept[:, 2]
    is_soft = (voice > 0) & (voice < 1)
    views = [(voice == 1) & (face == 1), is_soft, (voice == 0) & (face == 1), (voice == 1) & (face == 0)]
    assert sum(view.sum() for view in views) == 4000
    np.testing.assert_allclose([view.mean() for view in views], 0.25, atol=0.025)
    # a and 1 - a, a uniform: its mean and deviation
    np.testing.assert_allclose(voice[is_soft] + face[is_soft], 1, atol=1e-6)
    np.testing.assert_allclose([voice[is_soft].mean(), voice[is_soft].std()], [1 / 2, 12**-0.5], atol=0.025)


def test_soft_of_four_modalities_and_of_the_text():
    names = [*MODALITIES, "gaze"]
    kept = POLICIES["soft"](mask_text=True)(make_samples(4000, modalities=names)).double().numpy()
    left_out = (kept == 0).sum(axis=1)
    assert set(left_out) == {0, 1}
    np.testing.assert_allclose((kept == 0).mean(axis=0), 1 / 6, atol=0.025)  # one of M + 2 views each
    is_soft = ((kept > 0) & (kept < 1)).all(axis=1)
    np.testing.assert_allclose(is_soft.mean(), 1 / 6, atol=0.025)
    np.testing.assert_allclose(kept[is_soft].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(kept[is_soft].mean(axis=0), 1 / 4, atol=0.03)
    assert POLICIES["soft"]()(make_samples(40, modalities=["text"])).all()
