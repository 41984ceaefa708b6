import numpy as np
import pytest
from datasets import ClassLabel, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from data_builders import DataError
from data_builders.arrow_rows import label_format_of, row_features
from data_builders.labels import (
    MAX_CLASSES,
    MOSEI_LABELS,
    SENTIMENT,
    LabelFormat,
    checked_label,
    class_warnings,
    find_format,
    label_or_fault,
    label_text,
)


EMOTION = LabelFormat("class", ("happy", "sad"), ())
EMOTIONS = LabelFormat("classes", ("happy", "sad"), ())
AFFECT = LabelFormat("numbers", ("sentiment", "arousal"), ((-3.0, 3.0), None))


@pytest.mark.parametrize(
    "label",
    [
        1.5,
        "1.5",
        np.float64(1.5),
        np.array(1.5),
        np.array([1.5]),
        np.array([[1.5]], np.float32),
        np.full((1,) * 50, 1.5),
        np.array([[1.5, 0, 3, 0, 0, 0, 0]]),
        [1.5],
        {"sentiment": 1.5, "arousal": 9},
    ],
)
def test_sentiments_of_every_shape(label):
    assert checked_label(label) == 1.5


@pytest.mark.parametrize(
    "label",
    [3.0001, -3.5, float("nan"), float("inf"), "1,5", None, [], [1.0, 2.0], np.zeros((1, 6)), 10**400, [1, [2]], {}],
)
def test_sentiments_that_are_wrong(label):
    with pytest.raises(DataError, match="label"):
        checked_label(label)


@given(label=st.floats(-3, 3))
def test_every_label_in_range_is_kept(label):
    assert checked_label(label) == label


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        ([1.0, 2.5], {}, SENTIMENT),
        (["1.0", "2.5"], {}, SENTIMENT),
        ([None, "", float("nan")], {}, SENTIMENT),
        (["sad", "happy", "sad", None], {}, EMOTION),
        (["sad", 1.0, "happy"], {}, SENTIMENT),  # one number: the others are mistakes
        (["sad", "sad"], {}, SENTIMENT),  # one text is no choice
        (["1,5", "2,0", "3,1"], {}, SENTIMENT),  # decimal commas are no classes
        ([" sad", "happy "], {}, EMOTION),
        ([["sad"], [], ["happy", "sad"]], {}, EMOTIONS),
        ([["sad"], "happy"], {}, EMOTIONS),
        ([np.array(["sad", "happy"])], {}, EMOTIONS),
        (["happy;sad", "sad"], {"kind": "classes"}, EMOTIONS),
        ([2, 0, "1", 10.0], {"kind": "class"}, LabelFormat("class", ("0", "1", "10", "2"), ())),
        ([True, False], {"kind": "class"}, LabelFormat("class", ("False", "True"), ())),
        ([0.5], {"ranges": [-1, 1]}, LabelFormat(ranges=((-1.0, 1.0),))),
        ([{"sentiment": 1, "arousal": 2}], {}, AFFECT),
        ([], {"names": ("sentiment", "arousal")}, AFFECT),
        ([], {"names": ("happy",)}, LabelFormat("number", ("happy",), ((-3.0, 3.0),))),
        ([], {"names": ("happy",), "of_mosei": True}, LabelFormat("number", ("happy",), ((0.0, 3.0),))),
        (
            [],
            {"names": ("a", "b"), "ranges": [0, 1, 1, 5]},
            LabelFormat("numbers", ("a", "b"), ((0.0, 1.0), (1.0, 5.0))),
        ),
        ([], {"names": ("a", "b"), "ranges": [0, 1]}, LabelFormat("numbers", ("a", "b"), ((0.0, 1.0),) * 2)),
        ([], {"names": ("happy", "sad"), "kind": "classes"}, EMOTIONS),
    ],
)
def test_what_labels_are_is_told_by_those_of_the_training_split(labels, options, expected):
    assert find_format(labels, **options) == expected


def test_mosei_has_seven_labels():
    found = find_format([], names=MOSEI_LABELS, of_mosei=True)
    assert found.ranges == ((-3.0, 3.0), *[(0.0, 3.0)] * 6)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], {"kind": "emotion"}, "label_kind='emotion' is none of number, class, classes"),
        ([], {"kind": "class", "names": ("a", "b")}, "label_kind=class takes one column, and labels names a, b"),
        (["a", "b"], {"ranges": [0, 1]}, "label_range: the labels are classes, which have no range"),
        ([1], {"ranges": [1, 0]}, "label_range=1 0: give the least and the greatest label, as in -1 1"),
        ([1], {"ranges": [1]}, "label_range=1: "),
        ([1], {"ranges": [0, 1, 0, 1]}, "label_range=0 1 0 1: "),
        ([1], {"ranges": [0, float("inf")]}, "label_range=0 inf: "),
        ([], {"names": ("a", "b"), "ranges": [0, 1] * 3}, "for all or for each of a, b in turn"),
        ((f"class {k}" for k in range(9999)), {}, f"more than {MAX_CLASSES} different values, among them 'class 0'"),
    ],
)
def test_options_that_do_not_fit(labels, options, message):
    with pytest.raises(DataError, match=message):
        find_format(labels, **options)


@pytest.mark.parametrize(
    ("label", "label_format", "expected"),
    [
        ("sad", EMOTION, "sad"),
        (" sad ", EMOTION, "sad"),
        (3.0, LabelFormat("class", ("3", "5"), ()), "3"),
        (["sad", "happy"], EMOTIONS, ["happy", "sad"]),
        ("sad; happy;sad", EMOTIONS, ["happy", "sad"]),
        ([], EMOTIONS, []),
        ({"happy": 0.0, "sad": 1.5}, EMOTIONS, ["sad"]),
        ({"arousal": "7", "sentiment": -1, "other": "x"}, AFFECT, {"sentiment": -1.0, "arousal": 7.0}),
    ],
)
def test_right_labels(label, label_format, expected):
    assert checked_label(label, label_format) == expected


@pytest.mark.parametrize(
    ("label", "label_format", "message"),
    [
        ("Sad", EMOTION, "label 'Sad' is not one of 2 classes: happy, sad"),
        (1.5, EMOTION, "label '1.5' is not the name of a class"),
        (["sad"], EMOTION, "is not the name of a class"),
        ("so\nsad", EMOTION, "is not the name of a class; write it in one line"),
        (None, EMOTION, "its label is missing"),
        ("sad;angry", EMOTIONS, "label 'angry' is not any of 2 classes: happy, sad"),
        ({"happy": 1, "sad": "yes"}, EMOTIONS, "label sad 'yes' is not a number"),
        ({"sentiment": 4, "arousal": 1}, AFFECT, r"label sentiment 4 is outside of \[-3, 3\]; .*--label_range"),
        ({"sentiment": 1, "arousal": "inf"}, AFFECT, "label arousal inf is not a finite number"),
        ({"sentiment": 1}, AFFECT, "its label arousal is missing"),
        ({"sentiment": None, "arousal": float("nan")}, AFFECT, "its label is missing"),
        (1.5, AFFECT, "label '1.5' is not a record of sentiment, arousal"),
        (0.5, SENTIMENT._replace(ranges=((-0.1, 0.1),)), r"label 0.5 is outside of \[-0.1, 0.1\]"),
        ({"arousal": 1}, SENTIMENT, "its label sentiment is missing"),
        ("good", SENTIMENT, "is not a number, .* or give --label_kind class if labels are names of classes"),
    ],
)
def test_wrong_labels(label, label_format, message):
    with pytest.raises(DataError, match=message):
        checked_label(label, label_format)


NAMES = st.text(min_size=1, max_size=12)


@given(labels=st.lists(NAMES | st.none() | st.integers() | st.floats() | st.lists(NAMES, max_size=3), max_size=8))
def test_names_in_any_script_are_classes_or_refused_in_one_line(labels):
    for kind in (None, "class", "classes"):
        found = find_format(labels, kind=kind)
        assert list(found.names) == sorted({*found.names}) and len(found.names) == len({*found.names})
        if found.kind == "number":
            continue
        for label in labels:
            checked, fault = label_or_fault(label, found)
            assert "\n" not in fault
            if not fault and checked is not None:
                assert {*([checked] if isinstance(checked, str) else checked)} <= {*found.names}
                assert checked_label(checked, found) == checked and label_text(checked)


@given(names=st.sets(st.text("aäAÄ 感情😀é", min_size=1).map(str.strip).filter(bool), min_size=2, max_size=6))
def test_every_name_in_training_is_right_elsewhere(names):
    found = find_format(names)
    assert found == LabelFormat("class", tuple(sorted(names)), ())
    assert all(checked_label(name, found) == name for name in names)
    alike = len({name.casefold() for name in names}) < len(names)
    assert bool(class_warnings(found)) >= alike


def test_classes_that_are_written_almost_alike_are_said():
    [said] = class_warnings(LabelFormat("class", ("Sad", "cafe\u0301", "caf\u00e9x", "sad"), ()))
    assert said.startswith("'Sad' and 'sad' differ in case or in how characters are written only")
    [said] = class_warnings(LabelFormat("class", ("cafe\u0301", "caf\u00e9"), ()))
    assert "are different classes; write them alike" in said
    [said] = class_warnings(LabelFormat("class", ("happy", "happy;sad"), ()))
    assert said.startswith("1 class with a semicolon, the first is 'happy;sad'; ") and "--label_kind classes" in said
    assert class_warnings(SENTIMENT) == []


@pytest.mark.parametrize(
    ("label_format", "feature"),
    [
        (SENTIMENT, Value("float32")),
        (EMOTION, ClassLabel(names=["happy", "sad"])),
        (EMOTIONS, List(ClassLabel(names=["happy", "sad"]))),
        (AFFECT, {"sentiment": Value("float32"), "arousal": Value("float32", id='{"arousal": null}')}),
        (LabelFormat("number", ("arousal",), ((1.0, 5.0),)), Value("float32", id='{"arousal": [1.0, 5.0]}')),
        (LabelFormat("number", ("sentiment",), ((-1.0, 1.0),)), Value("float32", id='{"sentiment": [-1.0, 1.0]}')),
    ],
)
def test_the_column_of_labels_says_what_they_are(label_format, feature):
    features = row_features({}, False, label_format=label_format)
    assert features["label"] == feature and label_format_of(features) == label_format
    assert label_format_of(Features.from_dict(features.to_dict())) == label_format


def test_columns_of_other_people():
    assert label_format_of({}) is None
    assert label_format_of({"label": Value("float64")}) == SENTIMENT
    assert label_format_of({"label": Value("float32", id="good")}) == SENTIMENT
    by_name = {"sentiment": Value("float32"), "arousal": Value("float64")}
    assert label_format_of({"label": by_name}) == AFFECT
