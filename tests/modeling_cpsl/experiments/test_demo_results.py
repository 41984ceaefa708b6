import re

from data_builders.media.contract import Word
from modeling_cpsl.experiments.clip_prediction import ClipAnalysis, Segment
from modeling_cpsl.experiments.demo_results import analysis_html, clock, message_html, result_html


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
