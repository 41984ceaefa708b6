"""The task: range, classes, labels and decoding, against the rules written out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_builders.labels import LABEL_RANGE
from modeling_cpsl.task_cpsl import (
    SENTIMENT_CLASSES,
    SENTIMENT_RANGE,
    checked_label,
    clip_sentiment,
    decode_sentiment,
    sentiment_class,
)


finite = st.floats(-20, 20, allow_nan=False, width=32)


def test_the_data_and_the_model_mean_the_same_range():
    # The one accepted second copy: the data must not import the model, nor the model's Hub files the data.
    assert SENTIMENT_RANGE == LABEL_RANGE == (-3.0, 3.0)
    assert len(SENTIMENT_CLASSES) == SENTIMENT_RANGE[1] - SENTIMENT_RANGE[0] + 1


@pytest.mark.parametrize("make", [np.array, torch.tensor, pd.Series])
def test_clipping_keeps_kind_dtype_and_nan(make):
    values = make([-9.0, -3.0, 0.25, 3.0, 3.5, math.nan])
    clipped = clip_sentiment(values)
    assert type(clipped) is type(values) and clipped.dtype == values.dtype
    assert clipped.tolist()[:5] == [-3.0, -3.0, 0.25, 3.0, 3.0] and math.isnan(clipped.tolist()[5])


@given(st.lists(finite, min_size=1))
def test_the_class_is_the_nearest_integer_of_the_range(values):
    for value, class_ in zip(values, sentiment_class(np.array(values)), strict=True):
        distances = {candidate: abs(min(max(value, -3.0), 3.0) - candidate) for candidate in range(-3, 4)}
        nearest = [candidate for candidate, distance in distances.items() if distance == min(distances.values())]
        assert class_ == (nearest[0] if len(nearest) == 1 else next(one for one in nearest if one % 2 == 0))


@given(st.lists(finite, min_size=1))
def test_decoded_predictions(values):
    names = dict(zip(range(-3, 4), SENTIMENT_CLASSES, strict=True))
    for given_as in (values, np.array(values), torch.tensor(values, requires_grad=True)):
        for value, decoded in zip(values, decode_sentiment(given_as), strict=True):
            assert decoded["value"] == min(max(np.float32(value), -3.0), 3.0)
            assert decoded["acc7_class"] == round(decoded["value"])  # Python's round, too, takes halves to the even
            assert decoded["label"] == names[decoded["acc7_class"]]
            assert decoded["polarity"] == ("negative" if value < 0 else "positive")


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([0.5, float("nan")], "prediction 1 is nan"),
        ([float("inf")], "prediction 0 is inf"),
        ([[1.0]], r"shape \(1, 1\)"),
    ],
)
def test_predictions_without_a_class_are_refused(predictions, message):
    with pytest.raises(ValueError, match=message):
        decode_sentiment(predictions)


def test_one_prediction_may_be_a_scalar():
    assert decode_sentiment(torch.tensor(2.6)) == decode_sentiment([2.6])
    assert decode_sentiment([2.6])[0]["label"] == "highly positive"


@pytest.mark.parametrize("label", [-3, 3.0, 0, "1.5", np.float32(0.2), torch.tensor(-1.0)])
def test_labels_in_the_range_are_floats(label):
    value = checked_label(label)
    assert type(value) is float and value == float(label)


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        *[(3.0001, "3.0001"), (-3.5, "-3.5"), (np.float32(3.1), "3.1"), (math.nan, "nan"), (math.inf, "inf")],
        *[("happy", "'happy'"), ("", "''"), (None, "None"), ([1.0], "[1.0]"), (10**400, "1000")],
    ],
)
def test_other_labels_are_refused_by_value(label, shown):
    with pytest.raises(ValueError) as caught:
        checked_label(label)
    message = str(caught.value)
    assert message.startswith(f"label {shown}") and message.endswith(
        "is not in [-3, 3]; correct it or leave the sample out"
    )
