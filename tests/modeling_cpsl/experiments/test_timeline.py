"""The picture of a clip, as its parts say what they show."""

import numpy as np
import pytest
from clip_cases import SPANS, TASKS, analysis_of
from matplotlib.colors import to_hex
from PIL import Image

from data_builders.media.contract import Track, Word
from modeling_cpsl.experiments.clip_prediction import ClipAnalysis, Segment
from modeling_cpsl.experiments.plots import MARK_COLOR, SERIES_COLORS
from modeling_cpsl.experiments.timeline import MOST_WORDS, draw_timeline, plot_timeline
from modeling_cpsl.experiments.timeline_scores import PALE


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
    assert [text.get_text() for text in drawn[:4]] == ["costs", "+0.25", "$5_$", "−1.00"]
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


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("calibrated", [True, False])
def test_labels_of_each_kind_are_drawn_by_name(task, calibrated, tmp_path):
    analysis = analysis_of(task, calibrated=calibrated)
    figure = draw_timeline(analysis, title="costs $5 or $6.mp4")
    figure.savefig(tmp_path / "out.png")
    drawn = "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    assert all(name in drawn for name in task.names[:2] if len(task.names) < 10)
    assert ("90%" in drawn) == calibrated and "alone" in drawn
    bounds = figure.get_tightbbox().bounds
    assert bounds[0] > -0.1 and bounds[0] + bounds[2] < figure.get_figwidth() + 0.1


def test_the_axis_of_a_number_has_its_range():
    _, axis, _ = draw_timeline(analysis_of(TASKS["rating"])).axes
    assert axis.get_ylabel() == "valence\n(1 to 5)" and axis.get_ylim() == pytest.approx((1 - 4 / 30, 5 + 4 / 30))


def test_numbers_of_one_range_share_a_panel_that_holds_all_their_marks():
    analysis = analysis_of(TASKS["numbers"])
    _, sentiment, emotions, load, _ = draw_timeline(analysis).axes
    assert [axis.get_ylabel() for axis in (sentiment, emotions, load)] == [
        *("sentiment", "joy,\nfear\n(0 to 3)", "load"),
    ]
    values = [
        part["score"]["load"]
        for segment in analysis.segments
        for part in [segment.result, *filter(None, segment.result["modalities"].values())]
    ]
    low, high = load.get_ylim()
    assert low < min(values) and max(values) < high
    colors = {to_hex(line.get_color()).upper() for line in emotions.lines if line.get_marker() != "None"}
    assert colors == {*SERIES_COLORS[:2]}, "a mark has the colour of its number"


def test_the_band_of_a_segment_is_the_probabilities_of_its_classes():
    analysis = analysis_of(TASKS["class"])
    _, band, rows, _ = draw_timeline(analysis).axes
    names = TASKS["class"].names
    for segment, (start, end) in zip(analysis.segments, SPANS, strict=True):
        blocks = [block for block in band.patches if block.get_x() == start]
        probabilities = segment.result["probabilities"]
        assert [block.get_height() for block in blocks] == pytest.approx([probabilities[name] for name in names])
        assert all(block.get_width() == end - start for block in blocks)
        kept = segment.result["uncertainty"]["set"]
        for block, name, color in zip(blocks, names, SERIES_COLORS, strict=False):
            is_strong = to_hex(block.get_facecolor()).upper() == color
            assert is_strong == (name in kept), "a class that is not in the set is pale"
    assert [tick.get_text() for tick in rows.get_yticklabels()] == ["text alone", "acoustic alone"]
    alone = [segment.result["modalities"][name] for segment in analysis.segments for name in ("text", "acoustic")]
    assert [text.get_text() for text in rows.texts] == [
        f"{part['label']} {100 * part['score']:.0f} %" for part in alone
    ]


def test_of_many_classes_the_likeliest_have_colours_and_the_others_are_one_block():
    analysis = analysis_of(TASKS["many"])
    _, band, *_ = draw_timeline(analysis).axes
    blocks = [block for block in band.patches if block.get_x() == SPANS[0][0]]
    assert len(blocks) == len(SERIES_COLORS) + 1 and blocks[0].get_y() == 0
    assert blocks[-1].get_y() + blocks[-1].get_height() == pytest.approx(1)
    mixed = 1 - PALE * (1 - np.array([int(MARK_COLOR[place : place + 2], 16) for place in (1, 3, 5)]) / 255)
    assert blocks[-1].get_facecolor()[:3] == pytest.approx(mixed)
    assert band.get_ylabel() == "probability\n(7 of 28\nclasses)"


def test_what_a_set_leaves_open_is_dashed():
    analysis = analysis_of(TASKS["classes"])
    _, axis, _ = draw_timeline(analysis).axes
    dashed = [lines.get_linestyle()[0][1] is not None for lines in axis.collections]
    sets = [segment.result["uncertainty"]["set"] for segment in analysis.segments]
    assert dashed == [len(values) == 2 for one in sets for values in one.values()] and len({*dashed}) == 2


def test_without_heads_for_modalities_only_the_prediction_is_drawn():
    for kind in ("rating", "numbers", "class", "classes"):
        analysis = analysis_of(TASKS[kind])
        for segment in analysis.segments:
            for name in ("text", "acoustic"):
                segment.result["modalities"][name] = {"delta": segment.result["modalities"][name]["delta"]}
        drawn = draw_timeline(analysis).findobj(lambda artist: hasattr(artist, "get_text"))
        assert not any("alone" in text.get_text() for text in drawn)
