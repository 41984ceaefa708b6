import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interval_cases import intervals, overlap

from data_builders import DataError
from data_builders.alignment import align_frames, frame_array


def reference_row(features, intervals, word):
    weights = [overlap(interval, word) for interval in intervals]
    if sum(weights) == 0:
        middle = (word[0] + word[1]) / 2
        return features[min(range(len(intervals)), key=lambda i: abs(sum(intervals[i]) / 2 - middle))]
    return sum(w * f for w, f in zip(weights, features, strict=True)) / sum(weights)


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(intervals, min_size=1, max_size=8),
    frames=st.lists(intervals, min_size=1, max_size=10),
    seed=st.integers(0, 99),
)
def test_rows_are_overlap_weighted_means(words, frames, seed):
    features = np.random.default_rng(seed).normal(size=(len(frames), 3))
    found = align_frames(features, np.array(frames), np.array(words))
    for row, word in zip(found, words, strict=True):
        np.testing.assert_allclose(row, reference_row(features, frames, word), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("missing", [None, float("nan"), [], [[], []], np.zeros((3, 0))])
def test_no_frames(missing):
    assert frame_array(missing, "acoustic") is None


def test_frames_are_arrays_or_lists():
    rows = [[1, 2.5], [3, 4]]
    for values in (rows, np.array(rows), [np.array(row) for row in rows], np.array(rows, object)):
        np.testing.assert_array_equal(frame_array(values, "acoustic"), rows)
    for values in ([1, 2], [[1], [2, 3]], [["a"]], "a", {}, 3, np.array([["1"]]), [[None, {}]], [[[1]]], [[10**400]]):
        with pytest.raises(DataError, match="acoustic is not rows of numbers, all of one length"):
            frame_array(values, "acoustic")
