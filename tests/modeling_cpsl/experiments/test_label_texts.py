"""How predictions are written for people, by what the label is."""

import pytest
from clip_cases import TASKS, result_of

from modeling_cpsl.experiments.label_texts import Scale, has_prediction, said, scales, shown_change
from modeling_cpsl.experiments.plots import NEGATIVE, POSITIVE
from modeling_cpsl.number_task_cpsl import UNBOUNDED, NumberTask
from modeling_cpsl.tasks_cpsl import SENTIMENT


@pytest.mark.parametrize(
    ("bounds", "value", "short", "long"),
    [
        ((-3, 3), 1.26, "+1.3", "+1.26"),
        ((-3, 3), -1.26, "−1.3", "−1.26"),
        ((-1, 1), 0.02, "0.0", "+0.02"),
        ((1, 5), 3.25, "3.2", "3.25"),
        ((0, 100), 42.3, "42", "42.3"),
        ((0, 0.5), 0.123, "0.12", "0.123"),
        (UNBOUNDED, 7.0, "+7.0", "+7.00"),
    ],
)
def test_numbers_have_the_digits_and_the_sign_that_their_scale_gives_a_meaning(bounds, value, short, long):
    [scale] = scales(NumberTask(("x",), ranges=(bounds,)))
    assert (scale.text(value), scale.text(value, further=1)) == (short, long)


def test_a_scale_has_a_side_for_each_colour_only_where_0_is_within():
    valence, sentiment = scales(TASKS["rating"])[0], scales(SENTIMENT)[0]
    assert (valence.color(1.0), valence.color(5.0)) == (POSITIVE, POSITIVE)
    assert (sentiment.color(-1.0), sentiment.color(1.0)) == (NEGATIVE, POSITIVE)
    assert sentiment.points == ((-3.0, "highly negative"), (0.0, "neutral"), (3.0, "highly positive"))
    assert sentiment.ticks == (-3, -2, -1, 0, 1, 2, 3)
    assert scales(TASKS["sims"])[0].ticks == (-1, -0.7, -0.1, 0.1, 0.7, 1) and valence.ticks == ()
    assert valence.span == "1 to 5" and Scale("load", *UNBOUNDED, digits=1).span == ""


@pytest.mark.parametrize(
    ("kind", "result", "expected"),
    [
        ("rating", {"score": 3.25}, "valence 3.2"),
        ("sims", {"score": -0.8, "label": "negative"}, "-0.8 negative"),
        (
            "numbers",
            {"score": {"sentiment": -1.0, "joy": 0.04, "fear": 3.0, "load": -70.0}},
            "sentiment -1.0, joy 0.0, fear 3.0, load -70.0",
        ),
        ("class", {"label": "happy", "score": 0.816}, "happy 82 %"),
        ("classes", {"label": ["happy"], "score": {"happy": 0.5, "<sad>": 0.4}}, "happy 50 %"),
        ("classes", {"label": [], "score": {"happy": 0.1, "<sad>": 0.4}}, "none"),
    ],
)
def test_predictions_are_said_with_the_names_of_numbers_and_classes(kind, result, expected):
    assert said(result, TASKS[kind]) == expected


def test_of_several_changes_the_one_that_is_the_largest_for_its_scale_is_shown():
    change = {"sentiment": 0.7, "joy": -0.4, "fear": 0.0, "load": 0.75}
    shown = shown_change(change, TASKS["numbers"])
    assert (shown.text, shown.share) == ("joy −0.40", pytest.approx(-0.4 / 3))
    assert shown_change({"happy": 0.1, "<sad>": -0.2, "pays $5 or $6": 0.0}, TASKS["classes"]).text == "<sad> −0.20"
    assert shown_change(0.3, TASKS["class"]).text == "+0.30"
    assert shown_change(-0.3, SENTIMENT) == ("", pytest.approx(-0.05), "−0.30")
    assert shown_change(None, SENTIMENT) is None


def test_an_architecture_without_heads_for_modalities_says_nothing_from_one_alone():
    assert not has_prediction(None) and not has_prediction({"delta": 0.1})
    assert has_prediction(result_of(TASKS["class"])["modalities"]["text"])
