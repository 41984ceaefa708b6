"""Paired differences, against scipy and by hand; how often a difference is claimed where there is none."""

import numpy as np
import pytest
from scipy import stats

from modeling_cpsl import compute_sentiment_metrics
from modeling_cpsl.evidence.group_sums import group_sums
from modeling_cpsl.evidence.statistics import holm, paired_differences


def sums_of(predictions, labels, groups):
    """(seeds, G, S) sums of predictions (seeds, N)."""
    return np.array([list(group_sums(each, labels, groups).values()) for each in predictions])


def simulated(generator, *, seeds=2, groups=30, size=6, gain=0.0):
    """Two systems on samples whose errors are alike within a group; the first one's errors are smaller by `gain`."""
    names = np.repeat([f"v{index:02d}" for index in range(groups)], size)
    labels = generator.uniform(-3, 3, groups * size)
    shared = np.repeat(generator.normal(0, 0.5, groups), size)
    reference = labels + shared + generator.normal(0, 0.8, (seeds, len(labels)))
    row = labels + (shared + generator.normal(0, 0.8, (seeds, len(labels)))) * (1 - gain)
    return row, reference, labels, names.tolist()


def test_differences_are_those_of_the_means_over_seeds():
    row, reference, labels, groups = simulated(np.random.default_rng(0), gain=0.2)
    found = paired_differences(sums_of(row, labels, groups), sums_of(reference, labels, groups), num_draws=50)
    ours, theirs = ([compute_sentiment_metrics(each, labels) for each in system] for system in (row, reference))
    for name in found:
        expected = np.mean([each[name] for each in ours]) - np.mean([each[name] for each in theirs])
        assert found[name].value == pytest.approx(expected, abs=1e-9)


def test_interval_and_p_are_those_of_scipy():
    """With one sample a group and one seed, the MAE's difference is a mean of paired differences."""
    row, reference, labels, groups = simulated(np.random.default_rng(1), seeds=1, groups=60, size=1, gain=0.25)
    arguments = sums_of(row, labels, groups), sums_of(reference, labels, groups)
    found = paired_differences(*arguments, num_draws=20_000)["mae"]
    paired = np.abs(row[0] - labels) - np.abs(reference[0] - labels)
    bootstrap = stats.bootstrap((paired,), np.mean, method="percentile", n_resamples=20_000, rng=2)
    assert (found.low, found.high) == pytest.approx(bootstrap.confidence_interval, abs=0.01)
    permutation = stats.permutation_test(
        (paired,), np.mean, permutation_type="samples", n_resamples=20_000, alternative="two-sided", rng=3
    )
    assert found.p == pytest.approx(permutation.pvalue, abs=0.01)
    assert found.smallest == pytest.approx(2.8 * paired.std() / np.sqrt(60), rel=0.05)


@pytest.mark.parametrize("groups", [2, 5, 8])
def test_p_of_few_groups_is_that_of_all_exchanges(groups):
    row, reference, labels, names = simulated(np.random.default_rng(4), seeds=1, groups=groups, size=1, gain=0.9)
    found = paired_differences(sums_of(row, labels, names), sums_of(reference, labels, names), num_draws=300)["mae"]
    paired = np.abs(row[0] - labels) - np.abs(reference[0] - labels)
    exact = stats.permutation_test((paired,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.p == pytest.approx(exact.pvalue) and found.p >= 2 / 2**groups


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_difference_is_rarely_claimed_where_there_is_none_and_found_where_it_is_large(seeds):
    clear = {0.0: 0, 0.5: 0}
    for gain in clear:
        for repetition in range(40):
            row, reference, labels, groups = simulated(np.random.default_rng(repetition), seeds=seeds, gain=gain)
            arguments = sums_of(row, labels, groups), sums_of(reference, labels, groups)
            clear[gain] += paired_differences(*arguments, num_draws=200)["mae"].is_clear
    assert clear[0.0] <= 7  # 2 are expected of an exact interval; that of a percentile bootstrap is a little narrow
    assert clear[0.5] == 40


def test_a_system_does_not_differ_from_itself():
    row, _, labels, groups = simulated(np.random.default_rng(0))
    sums = sums_of(row, labels, groups)
    found = paired_differences(sums, sums, num_draws=50)
    assert all((each.value, each.low, each.high, each.p, each.smallest) == (0, 0, 0, 1, 0) for each in found.values())
    assert not any(each.is_clear for each in found.values())


def test_a_metric_without_samples_is_nan():
    sums = sums_of(np.ones((1, 4)), np.zeros(4), [*"abcd"])
    found = paired_differences(sums, sums, num_draws=20)["acc2_nonzero"]
    assert np.isnan([found.value, found.low, found.high, found.p, found.smallest]).all() and not found.is_clear


def test_a_single_group_says_nothing_of_others():
    row, reference, labels, groups = simulated(np.random.default_rng(0), groups=1, gain=0.9)
    found = paired_differences(sums_of(row, labels, groups), sums_of(reference, labels, groups), num_draws=20)["mae"]
    assert found.value < 0 and found.p == 1 and not found.is_clear
    assert np.isnan([found.low, found.high, found.smallest]).all()


def test_sums_of_other_groups_are_refused():
    sums = sums_of(np.ones((1, 4)), np.zeros(4), [*"abcd"])
    with pytest.raises(ValueError, match="not of the same seeds and groups"):
        paired_differences(sums, sums[:, :3])


def test_holm_by_hand():
    # .01 x 4, .02 x 3, .03 x 2 and .04 x 1, none below the one before
    corrected = holm({"c": 0.03, "a": 0.01, "nothing": float("nan"), "b": 0.02, "d": 0.04})
    assert corrected == {
        "c": pytest.approx(0.06), "a": pytest.approx(0.04), "nothing": pytest.approx(np.nan, nan_ok=True),
        "b": pytest.approx(0.06), "d": pytest.approx(0.06),
    }  # fmt: skip
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
