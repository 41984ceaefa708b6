import math

import numpy as np
import pytest

from data_builders.timing import TIMING_FEATURES, timing_features


def test_timing_by_hand():
    row = {"start": 1.0, "end": 5.0, "word_start": [1.5, 3.0], "word_end": [2.0, 4.0]}
    features = timing_features(row)
    assert features.shape == (2, len(TIMING_FEATURES)) and features.dtype == np.float32
    log = lambda seconds: math.log(seconds + 0.01)  # noqa: E731
    expected = [
        [log(0.5), log(0.5), log(1.0), log(0.5) - log(0.75), log(2 / 4), 0.75 / 4],
        [log(1.0), log(1.0), log(1.0), log(1.0) - log(0.75), log(2 / 4), 2.5 / 4],
    ]
    np.testing.assert_allclose(features, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "row",
    [
        {"start": 1.0, "end": 1.0, "word_start": [1.0], "word_end": [1.0]},
        {"start": 0.0, "end": 1.0, "word_start": [-0.5, 0.9], "word_end": [0.9, 1.5]},
        {"start": 0.0, "end": 2.0, "word_start": [0.0, 0.5], "word_end": [1.0, 0.7]},
    ],
)
def test_odd_times_stay_finite_and_in_range(row):
    features = timing_features(row)
    assert np.isfinite(features).all()
    assert ((features[:, -1] >= 0) & (features[:, -1] <= 1)).all()
