"""Metrics that follow from sums a group are those of the predictions themselves, for any set of groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_cpsl import compute_sentiment_metrics
from modeling_cpsl.evidence.group_sums import (
    SMALLEST_GROUP,
    SUM_NAMES,
    group_sums,
    metrics_of_sums,
    without_small_groups,
)
from modeling_cpsl.training.metrics import METRICS


# The grid of MOSI's labels, and predictions on and beside the edges of classes.
LABELS = st.sampled_from([round(value / 5, 1) for value in range(-15, 16)])
PREDICTIONS = st.one_of(st.sampled_from([-2.5, -0.5, -0.0, 0.0, 0.5, 1.5, 2.5, 3.4]), st.floats(-4, 4, width=32))


@settings(max_examples=60)
@given(
    samples=st.lists(st.tuples(PREDICTIONS, LABELS, st.sampled_from("abcde")), min_size=3, max_size=40),
    drawn=st.lists(st.sampled_from("abcde"), min_size=1, max_size=6),
)
@pytest.mark.filterwarnings("ignore:the predictions are constant", "ignore:the labels are constant")
@pytest.mark.filterwarnings("ignore:all .* labels are 0")
def test_metrics_are_those_of_the_samples(samples, drawn):
    predictions, labels, groups = (np.array(values) for values in zip(*samples, strict=True))
    sums = group_sums(predictions, labels, groups.tolist())
    assert list(sums) == sorted(set(groups.tolist()))
    drawn = [group for group in drawn if group in sums]
    rows = np.concatenate([np.zeros(0, int), *(np.flatnonzero(groups == group) for group in drawn)])
    found = metrics_of_sums(np.sum([sums[group] for group in drawn], axis=0) if drawn else np.zeros(len(SUM_NAMES)))
    if not len(rows):
        assert all(np.isnan(value) for value in found.values())
        return
    expected = compute_sentiment_metrics(predictions[rows], labels[rows])
    for name in METRICS:
        # Correlations of all but constant values are a quotient of rounding errors.
        constant = "corr" in name and min(predictions[rows].std(), labels[rows].std()) < 1e-3
        assert constant or found[name] == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name


def test_sums_of_many_draws_are_computed_at_once():
    generator = np.random.default_rng(0)
    sums = generator.uniform(1, 2, size=(3, 4, len(SUM_NAMES)))
    together = metrics_of_sums(sums)
    for index in np.ndindex(3, 4):
        for name, value in metrics_of_sums(sums[index]).items():
            assert together[name][index] == pytest.approx(value)


@given(st.lists(st.sampled_from("abcdefghijklmnopq"), max_size=60))
def test_no_group_is_small_where_there_are_enough_samples(groups):
    pooled = without_small_groups(groups)
    assert len(pooled) == len(groups)
    assert set(pooled) <= set(groups)
    for name in set(groups):
        assert len({after for before, after in zip(groups, pooled, strict=True) if before == name}) == 1
        if groups.count(name) >= SMALLEST_GROUP:
            assert {after for before, after in zip(groups, pooled, strict=True) if before == name} == {name}
    if len(groups) >= SMALLEST_GROUP:
        assert min(pooled.count(name) for name in set(pooled)) >= SMALLEST_GROUP


def test_small_groups_are_put_together_by_hand():
    assert without_small_groups([*"aabbbccccccdd"]) == [*"aaaaaccccccaa"]
    assert without_small_groups([*"ccccccd"]) == [*"ccccccc"]
    assert without_small_groups([*"ba"]) == [*"aa"]
