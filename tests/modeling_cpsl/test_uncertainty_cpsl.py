"""Split-conformal intervals: the rank, the guarantee, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_cpsl.uncertainty_cpsl import (
    conformal_half_width,
    conformal_quantiles,
    interval_coverage,
    modality_set,
)


@given(
    residuals=st.lists(st.floats(0, 6), min_size=1, max_size=60),
    coverage=st.floats(0.05, 0.95),
    signs=st.randoms(use_true_random=False),
)
def test_it_is_the_smallest_residual_with_enough_of_the_sample_inside(residuals, coverage, signs):
    labels = np.array([residual * signs.choice([-1, 1]) for residual in residuals])
    count = len(residuals)
    enough = [
        width for width in sorted(residuals) if sum(r <= width for r in residuals) / (count + 1) >= coverage - 1e-9
    ]
    if enough:
        assert conformal_half_width(np.zeros(count), labels, coverage) == enough[0]
    else:
        with pytest.raises(ValueError, match="too few"):
            conformal_half_width(np.zeros(count), labels, coverage)


@pytest.mark.parametrize(("count", "coverage"), [(9, 0.9), (19, 0.95), (1, 0.5), (99, 0.99)])
def test_the_fewest_samples_that_do_are_named(count, coverage):
    labels = np.arange(count) / count
    assert conformal_half_width(np.zeros(count), labels, coverage) == labels[-1]
    with pytest.raises(ValueError, match=f"^{count - 1} held-out samples are too few .* give {count}$"):
        conformal_half_width(np.zeros(count - 1), labels[1:], coverage)


def test_new_samples_are_covered_as_often_as_said():
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        errors = generator.standard_t(3, size=40)
        width = conformal_half_width(np.zeros(20), errors[:20], 0.9)
        covered.append(interval_coverage(np.zeros(20), errors[20:], width))
    # ceil(21 * .9) / 21 = 19 / 21
    assert abs(np.mean(covered) - 19 / 21) < 0.006


@pytest.mark.parametrize(
    ("predictions", "labels", "coverage", "message"),
    [
        ([0.0] * 20, [0.0] * 20, 1.0, r"coverage=1.0 must be in \(0, 1\)"),
        ([0.0] * 20, [0.0] * 20, 0.0, r"coverage=0.0"),
        ([0.0] * 20, [0.0] * 19, 0.9, r"\(20,\) predictions for \(19,\) labels"),
        ([[0.0]] * 20, [[0.0]] * 20, 0.9, r"each sample needs one of each"),
        ([np.nan] * 20, [0.0] * 20, 0.9, "NaN"),
    ],
)
def test_bad_values_are_refused(predictions, labels, coverage, message):
    with pytest.raises(ValueError, match=message):
        conformal_half_width(predictions, labels, coverage)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-6, 6)), min_size=1, max_size=80))
def test_each_set_is_calibrated_by_itself(samples):
    sets, errors = zip(*samples, strict=True)
    by_set = {name: [error for other, error in samples if other == name] for name in sets}
    enough = {name for name, members in by_set.items() if len(members) >= 9}
    if enough:
        assert conformal_quantiles(np.abs(errors), sets) == {
            name: conformal_half_width(np.zeros(len(by_set[name])), by_set[name]) for name in enough
        }
    else:
        largest = max(map(len, by_set.values()))
        with pytest.raises(ValueError, match=f"^{largest} held-out samples are too few"):
            conformal_quantiles(np.abs(errors), sets)


def test_no_sample_at_all():
    with pytest.raises(ValueError, match=r"^0 held-out samples are too few"):
        conformal_quantiles(np.zeros(0), [])


def test_a_set_has_one_name():
    assert modality_set(["text", "acoustic"]) == modality_set({"acoustic": 1, "text": 2}) == "acoustic+text"
