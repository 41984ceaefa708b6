"""Subtitles have the score of each segment beside its words."""

from data_builders.media.contract import Word
from modeling_cpsl.experiments.clip_prediction import Segment
from modeling_cpsl.experiments.subtitles import web_vtt, write_subtitles


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
