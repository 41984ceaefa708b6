"""Subtitles have the score of each segment beside its words."""

from clip_cases import TASKS

from data_builders.media.contract import Word
from modeling_cpsl.experiments.clip_prediction import Segment
from modeling_cpsl.experiments.subtitles import subrip, web_vtt, write_subtitles


def test_each_caption_has_its_times_its_score_and_its_words(tmp_path):
    words = (Word("Très", 0.5, 0.9), Word("bien.", 1.0, 1.4))
    segments = [
        Segment(0.5, 1.9996, words, {"score": 2.04, "label": "positive"}),
        Segment(3725.5, 3726.0, (), {"score": -1.0, "label": "weakly negative"}),
    ]
    write_subtitles(segments, tmp_path / "out.srt")
    assert (tmp_path / "out.srt").read_text(encoding="utf-8").splitlines() == [
        *("1", "00:00:00,500 --> 00:00:02,000", "[+2.0 positive]", "Très bien.", ""),
        *("2", "01:02:05,500 --> 01:02:06,000", "[-1.0 weakly negative]"),
    ]


def test_browsers_are_given_words_that_are_no_tags():
    segments = [Segment(0.0, 61.5, (Word("<b>", 0.1, 0.5), Word("&", 0.6, 1.0)), {"score": 0.0, "label": "neutral"})]
    assert web_vtt(segments).splitlines() == [
        *("WEBVTT", "", "00:00:00.000 --> 00:01:01.500", "[+0.0 neutral]", "&lt;b&gt; &amp;"),
    ]


def test_captions_name_other_labels():
    results = {
        "rating": ({"score": 3.25}, "[valence 3.2]"),
        "class": ({"label": "happy", "score": 0.816}, "[happy 82 %]"),
        "classes": ({"label": [], "score": {}}, "[none]"),
    }
    for kind, (result, caption) in results.items():
        segments = [Segment(0.0, 1.0, (Word("so", 0.1, 0.5),), result)]
        assert subrip(segments, TASKS[kind]).splitlines()[2:] == [caption, "so"]
        assert f"{caption}\nso" in web_vtt(segments, TASKS[kind])
