"""The picture of a clip, as its parts say what they show."""

import numpy as np
import pytest
from PIL import Image

from data_builders.media.contract import Track, Word
from modeling_cpsl.experiments.clip_prediction import ClipAnalysis, Segment
from modeling_cpsl.experiments.timeline import MOST_WORDS, draw_timeline, plot_timeline


def result(score, **modalities):
    return {
        "score": score,
        "label": "positive" if score > 0 else "negative",
        "modalities": {name: None if value is None else {"score": value} for name, value in modalities.items()},
        "uncertainty": {"interval": [score - 0.5, score + 0.5], "coverage": 0.9},
        "word_shares": [0.25, -1.0],
    }


def words(start):
    return (Word("costs", start, start + 0.5), Word("$5_$", start + 0.6, start + 1.0))


@pytest.fixture
def analysis():
    segments = [
        Segment(0.0, 4.0, words(0.0), result(2.9, text=2.9, acoustic=0.5, gaze=None)),
        Segment(6.0, 6.5, words(6.0), result(-2.9, text=-2.0, acoustic=None, gaze=1.0)),
    ]
    times = np.arange(0.05, 7, 0.1)
    return ClipAnalysis(segments, {"pitch (Hz)": Track(times, np.where(times > 6.8, np.nan, 100 + times))}, [])


def test_marks_of_modalities_are_at_the_middle_of_their_segment(analysis):
    _, scores, _ = draw_timeline(analysis).axes
    marks = [line for line in scores.lines if line.get_marker() != "None"]
    assert [tuple(float(value) for value in line.get_xydata()[0]) for line in marks] == [
        *((2.0, 2.9), (2.0, 0.5)),
        *((6.25, -2.0), (6.25, 1.0)),
    ]
    drawn = [line.get_transform().transform(line.get_xydata())[0] for line in marks]
    middles = [scores.transData.transform(line.get_xydata())[0] for line in marks]
    steps = [(place - middle)[0] for place, middle in zip(drawn, middles, strict=True)]
    assert steps[0] == pytest.approx(steps[2]) and steps[0] < steps[1] < steps[3]  # one place for each modality
    assert steps[0] == pytest.approx(-steps[3])


def test_the_legend_is_in_the_order_of_the_scores_and_modalities(analysis):
    legend = draw_timeline(analysis).axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        *("score", "90% interval", "text alone", "acoustic alone", "gaze alone"),
    ]


def test_labels_are_within_the_scale_and_as_long_as_there_is_room(analysis):
    figure = draw_timeline(analysis)
    figure.draw_without_rendering()
    scores = figure.axes[1]
    labels = [text for text in scores.texts if text.get_text()]
    assert [text.get_text() for text in labels] == ["+2.9 positive", "−2.9"]
    box = scores.get_window_extent()
    assert all(box.y0 < text.get_window_extent().y0 and text.get_window_extent().y1 < box.y1 for text in labels)


def test_words_have_their_shares_and_no_word_is_read_as_a_formula(analysis, tmp_path):
    drawn = draw_timeline(analysis).axes[0].texts
    assert [text.get_text() for text in drawn[:4]] == ["costs", "+0.25", r"\$5_\$", "−1.00"]
    plot_timeline(analysis, tmp_path / "out.png", title="a clip")
    with Image.open(tmp_path / "out.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_words_are_left_out_where_there_are_too_many(analysis):
    many = tuple(Word("word", 0.01 * index, 0.01 * index + 0.01) for index in range(MOST_WORDS + 1))
    segment = analysis.segments[0]._replace(words=many, result=result(1.0) | {"word_shares": None})
    figure = draw_timeline(analysis._replace(segments=[segment]))
    assert len(figure.axes) == 2


def test_a_few_wrong_values_do_not_flatten_a_track(analysis):
    values = np.full(100, 100.0)
    values[::9] = 110.0
    values[50] = 900.0
    tracks = {
        "pitch (Hz)": Track(np.arange(100) / 10, values),
        "smile (0 to 1)": Track(np.arange(100) / 10, values / 500),
    }
    *_, pitch, smile = draw_timeline(analysis._replace(tracks=tracks)).axes
    assert pitch.get_ylim()[1] < 120
    assert smile.get_ylim() == pytest.approx((-0.05, 1.05))
