"""Split-conformal intervals: the rank, the guarantee, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_cpsl.uncertainty_cpsl import conformal_half_width, interval_coverage


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
        ([[0.0]] * 20, [[0.0]] * 20, 0.9, r"one of each a sample"),
        ([np.nan] * 20, [0.0] * 20, 0.9, "NaN"),
    ],
)
def test_bad_values_are_refused(predictions, labels, coverage, message):
    with pytest.raises(ValueError, match=message):
        conformal_half_width(predictions, labels, coverage)
