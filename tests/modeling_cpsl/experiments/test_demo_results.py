"""What the page shows of a prediction, as HTML."""

import re
from html import escape

import pytest
from clip_cases import TASKS, analysis_of, result_of

from data_builders.media.contract import Word
from modeling_cpsl.experiments.clip_prediction import ClipAnalysis, Segment
from modeling_cpsl.experiments.demo import heading
from modeling_cpsl.experiments.demo_results import analysis_html, clock, message_html, result_html
from modeling_cpsl.experiments.demo_scores import MOST_BARS, score_html
from modeling_cpsl.tasks_cpsl import SENTIMENT


def make_result(**fields):
    return {
        "score": -0.9,
        "label": "weakly negative",
        "modalities": {"text": {"score": -0.8, "delta": -1.25}, "acoustic": None, "gaze<": {"score": 0.5}},
        "uncertainty": {"interval": [-2.1, 0.3], "coverage": 0.9},
        "num_cut": 0,
        "word_shares": [0.5, -1.0],
    } | fields


def test_score_interval_words_and_modalities_are_shown_with_their_signs():
    html = result_html(make_result(), ["good", "<b>bad</b>"])
    for shown in ("−0.90", "weakly negative", "90 % interval: −2.10 to +0.30", "+0.50", "−1.00", "by −1.25"):
        assert shown in html
    assert "&lt;b&gt;bad&lt;/b&gt;" in html and "gaze&lt;" in html and "<b>bad" not in html
    assert re.search("Voice</dt><dd[^>]*>not given", html)


def test_colours_are_as_strong_as_shares_are_large():
    html = result_html(make_result(word_shares=[1.0, -0.5]), ["good", "bad"])
    assert re.findall("background: #(\\w+)[^>]*>(?:good|bad)", html) == ["0072b280", "d55e0040"]
    assert re.search("film<small>–", result_html(make_result(word_shares=[None]), ["film"]))
    faint = result_html(make_result(word_shares=[0.05]), ["so"])
    assert "#0072b21a" in faint


def test_what_there_is_not_is_not_shown_as_zero():
    html = result_html(make_result(uncertainty=None, word_shares=None, num_cut=7), [])
    assert "No interval" in html and "The last 7 tokens were not read" in html
    assert "each word" not in html


def test_a_clip_has_its_segments_in_time_and_its_notes():
    words = (Word("good", 0.1, 0.5), Word("bad", 0.6, 1.0))
    segments = [Segment(0.0, 1.5, words, make_result()), Segment(61.5, 63.0, (), make_result(word_shares=None))]
    html = analysis_html(ClipAnalysis(segments, {}, ["no <face>"]))
    assert re.findall("<h2>([^<]+)</h2>", html) == ["0:00.0 to 0:01.5", "1:01.5 to 1:03.0"]
    assert "no &lt;face&gt;" in html
    assert "<video" not in html and 'src="data:image/png;base64,' in html


def test_a_message_is_plain_text():
    assert "&lt;script&gt;" in message_html("<script>") and 'role="alert"' in message_html("x")


def test_times():
    assert [clock(seconds) for seconds in (0, 9.96, 75.25, 3600)] == ["0:00.0", "0:09.9", "1:15.2", "60:00.0"]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("calibrated", [True, False])
def test_labels_of_each_kind_are_shown_by_name(task, calibrated):
    result = result_of(task, calibrated=calibrated)
    html = result_html(result, ["good", "<b>grief</b>"], task)
    has_words = task.is_one_number and "label" in result  # for its number
    assert all(escape(name) in html for name in task.names[:3] if len(task.names) < 10 and not has_words)
    assert "<sad>" not in html and "<b>grief" not in html and "None" not in html
    assert ("was not calibrated" in html) != calibrated and ("90 %" in html) == calibrated
    assert html.count("changes ") >= 2 and re.search("Face</dt><dd[^>]*>not given", html)
    assert "<video" not in analysis_html(analysis_of(task, calibrated=calibrated))


def test_a_number_has_the_scale_of_its_range():
    result = {"score": 4.0, "uncertainty": {"interval": [2.0, 5.0], "coverage": 0.9}}
    html = score_html(result, TASKS["rating"])
    for shown in ("4.00", "valence", "4.00 on a scale from 1 to 5", "90 % interval: 2.00 to 5.00"):
        assert shown in html
    assert "left: 25.0%; width: 75.0%" in html and "left: 75.0%" in html and "cpsl-zero" not in html
    assert "<span>1</span><span>5</span>" in html
    html = score_html({"score": -0.5, "label": "weakly negative", "uncertainty": None}, TASKS["sims"])
    assert "−0.50" in html and "cpsl-zero" in html and "<span>−1 negative</span><span>0 neutral</span>" in html


def test_classes_have_bars_in_the_order_of_their_probabilities_and_the_set_is_told():
    probabilities = {"calm": 0.2, "happy": 0.7, "pays $5 or $6": 0.04, "<sad>": 0.06}
    uncertainty = {"set": ["happy", "calm"], "coverage": 0.9}
    result = {"label": "happy", "score": 0.7, "probabilities": probabilities, "uncertainty": uncertainty}
    html = score_html(result, TASKS["class"])
    assert re.findall("<dt>([^<]+)</dt>", html) == ["happy", "calm", "&lt;sad&gt;", "pays $5 or $6"]
    assert [float(width) for width in re.findall(r"width: ([\d.]+)%", html)] == [70, 20, 6, 4]
    assert html.count("in the 90 % set") == 2 and "90 % set: happy, calm" in html


def test_of_many_classes_the_likeliest_have_bars():
    html = score_html(result_of(TASKS["many"]), TASKS["many"])
    assert html.count("<dt>") == MOST_BARS and "And 18 that are less likely." in html


def test_of_several_classes_at_once_it_is_told_what_holds_of_each():
    sets = {"happy": [True], "<sad>": [False], "pays $5 or $6": [True, False]}
    result = {"label": ["happy"], "score": {"happy": 0.9, "<sad>": 0.1, "pays $5 or $6": 0.4}}
    html = score_html(result | {"uncertainty": {"set": sets, "coverage": 0.9}}, TASKS["classes"])
    assert re.findall("cpsl-last.>([^<]*)<", html) == ["has it", "may have it", "lacks it"]
    assert '<span class="cpsl-label">happy</span>' in html


def test_an_architecture_without_heads_for_modalities_says_nothing_from_one_alone():
    for task in (SENTIMENT, TASKS["class"]):
        result = result_of(task)
        result["modalities"] = {"text": {"delta": result["modalities"]["text"]["delta"]}}
        assert "no prediction of its own" in result_html(result, ["good", "grief"], task)


def test_the_heading_says_what_the_model_does():
    assert heading("m", SENTIMENT).endswith("The model `m` rates what is said from −3 to +3.")
    assert heading("m", TASKS["rating"]).endswith("rates what is said: `valence` from 1 to 5.")
    assert heading("m", TASKS["numbers"]).endswith("`fear` from 0 to 3, `load`.")
    assert heading("m", TASKS["class"]).endswith("which of these it is: `calm`, `happy`, `pays $5 or $6`, `<sad>`.")
    assert heading("m", TASKS["many"]).endswith("`class 11`, ....")
    assert "which of these it has" in heading("m", TASKS["classes"])
