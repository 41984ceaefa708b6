"""The picture of a clip: its words, what is predicted and what was measured, over time."""

import os
from typing import TYPE_CHECKING

import numpy as np

from data_builders.files import replacing_file
from data_builders.media.contract import Track, Word

from ..class_task_cpsl import ClassTask
from ..task_cpsl import Task
from .clip_prediction import ClipAnalysis, Segment
from .label_texts import Change, shown_change
from .plots import MARK_COLOR, PLAIN_TEXT, STYLE, sentiment_color
from .timeline_scores import CHARACTER, INTERVAL_OPACITY, class_colors, name_axis, score_panels, segment_color


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_WORDS = 150  # that can be read in a picture; a longer clip is drawn without its words
WIDTHS = (9.0, 22.0)  # inches, of the shortest and of the longest picture
INCHES_PER_SECOND = 0.9
SMALL_CHARACTER = 0.064  # inches, of what stands below a word
LINE = 0.42  # inches that a line of words takes


def plot_timeline(analysis: ClipAnalysis, path: str | os.PathLike, *, title: str | None = None) -> None:
    """Draws what is predicted of a clip over its time as a picture, see [`draw_timeline`].

    Args:
        analysis: From [`analyse`].
        path: The PNG file to write.
        title: Stands above the picture.

    Raises:
        WriteError: The file could not be written.
    """
    with replacing_file(path) as temporary:
        draw_timeline(analysis, title=title).savefig(temporary, format="png")


def draw_timeline(analysis: ClipAnalysis, *, title: str | None = None) -> "Figure":
    """Draws what is predicted of a clip over its time.

    From above: words, coloured by their share in the score; what is predicted of each segment, also from each modality
    alone, see [`score_panels`]; tracks of what was measured.

    Args:
        analysis: From [`analyse`].
        title: Stands above the picture.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    end = max([segment.end for segment in analysis.segments])
    end = max([end, *(float(track.times[-1]) for track in analysis.tracks.values())])
    width = min(max(INCHES_PER_SECOND * end, WIDTHS[0]), WIDTHS[1])
    seconds_per_inch = end / (width - 1)
    words, task = _placed_words(analysis, seconds_per_inch), analysis.task
    panels = score_panels(analysis.segments, task, seconds_per_inch)
    num_lines = max((line for *_, line in words), default=-1) + 1
    heights = [LINE * num_lines + 0.1] if words else []
    heights += [*(panel.height for panel in panels), *[0.7] * len(analysis.tracks)]
    colors = class_colors(analysis.segments, task) if isinstance(task, ClassTask) else {}
    backgrounds = [(segment, segment_color(segment, task, colors)) for segment in analysis.segments]
    with matplotlib.rc_context(STYLE | PLAIN_TEXT):
        figure = Figure(figsize=(width, sum(heights) + 1.1), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(len(heights), sharex=True, height_ratios=heights, squeeze=False)[:, 0])
        axes[0].set_xlim(0, end)
        if title:
            figure.suptitle(title, fontsize=11)
        remaining = iter(axes)
        if words:
            _draw_words(next(remaining), words, num_lines)
            name_axis(axes[0], _what_words_change(task))
        for panel, axis in zip(panels, remaining, strict=False):
            panel.draw(axis)
        for (name, track), axis in zip(analysis.tracks.items(), remaining, strict=True):
            _draw_track(axis, name, track, backgrounds)
        axes[-1].set_xlabel("seconds")
        figure.align_ylabels(axes)
    return figure


def _placed_words(analysis: ClipAnalysis, seconds_per_inch: float) -> list[tuple[Word, Change | None, float, int]]:
    """Each word with what it changes, where it is drawn and in which line: in the first one with room at its time."""
    changes = [change for segment in analysis.segments for change in _changes(segment, analysis.task)]
    spoken = [word for segment in analysis.segments for word in segment.words]
    if len(spoken) > MOST_WORDS:
        return []
    ends: list[float] = []  # of the lines
    placed = []
    for word, change in zip(spoken, changes, strict=True):
        below = "" if change is None else change.text
        length = max(CHARACTER * max(len(word.text) + 1, 5), SMALL_CHARACTER * (len(below) + 1)) * seconds_per_inch
        start = max((word.start + word.end - length) / 2, 0.0)
        line = next((number for number, end in enumerate(ends) if end <= start), len(ends))
        ends[line:] = [start + length, *ends[line + 1 :]]
        placed.append((word, change, start + length / 2, line))
    return placed


def _changes(segment: Segment, task: Task) -> list[Change | None]:
    shares = segment.result.get("word_shares") or [None] * len(segment.words)
    return [shown_change(share, task) for share in shares]


def _what_words_change(task: Task) -> str:
    if task.is_one_number:
        return "words and\ntheir share\nin the score"
    if isinstance(task, ClassTask):
        return "words and\ntheir share in\nthe probability"
    return "words and\nwhat each\nchanges most"


def _draw_words(axis: "Axes", words: list[tuple[Word, Change | None, float, int]], num_lines: int) -> None:
    from matplotlib.colors import to_rgba

    largest = max((abs(change.share) for _, change, *_ in words if change is not None), default=0.0) or 1.0
    for word, change, middle, line in words:
        share = 0.0 if change is None else change.share
        color = to_rgba(sentiment_color(share), 0.6 * abs(share) / largest)
        box = {"boxstyle": "round,pad=0.2", "facecolor": color, "edgecolor": "none"}
        axis.text(middle, line + 0.3, word.text, ha="center", va="center", fontsize=9, bbox=box)
        if change is not None:
            axis.text(middle, line + 0.78, change.text, ha="center", va="center", fontsize=6.5, color=MARK_COLOR)
    axis.set_ylim(max(num_lines, 1), -0.1)
    axis.set_yticks([])
    axis.grid(False)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(bottom=False)


def _draw_track(axis: "Axes", name: str, track: Track, segments: list[tuple[Segment, str]]) -> None:
    """Draws what was measured, and behind it the segments in their colours."""
    for segment, color in segments:
        axis.axvspan(segment.start, segment.end, color=color, alpha=INTERVAL_OPACITY / 2, lw=0)
    axis.plot(track.times, track.values, color=MARK_COLOR, linewidth=1.2)
    if name.endswith("(0 to 1)"):
        axis.set_ylim(-0.05, 1.05)
    else:
        low, high = np.nanpercentile(track.values, (2, 98))  # a few errors do not flatten the rest
        margin = 0.15 * (high - low) + 1e-3
        axis.set_ylim(low - margin, high + margin)
    axis.locator_params(axis="y", nbins=3)
    name_axis(axis, name.replace(" (", "\n("))


__all__ = ["draw_timeline", "plot_timeline"]
