"""Features by modality and as arguments: the same whichever way they are turned."""

from hypothesis import given
from hypothesis import strategies as st

from modeling_cpsl.features_cpsl import collect_features, feature_arguments


names = st.sampled_from(["acoustic", "gaze", "pose", "timing", "visual"])


@given(st.dictionaries(names, st.integers()))
def test_one_is_the_inverse_of_the_other(features):
    arguments = feature_arguments(features)
    assert arguments.keys() <= {"acoustic", "visual", "extra_features"}
    assert collect_features(**arguments, labels=3, feature_mask=4) == features


@given(st.dictionaries(names, st.none() | st.integers()))
def test_none_is_a_modality_that_is_not_given(features):
    expected = {name: value for name, value in features.items() if value is not None}
    assert collect_features(**feature_arguments(features)) == expected
    assert collect_features(extra_features=None) == {}
