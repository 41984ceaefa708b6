"""The picture of a clip: its words, its sentiment and what was measured, over time."""

import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from data_builders.files import replacing_file
from data_builders.media.contract import Track, Word

from ..task_cpsl import SENTIMENT_RANGE
from .clip_prediction import ClipAnalysis, Segment
from .plots import FURTHER_STYLES, MARK_COLOR, MODALITY_STYLES, STYLE, sentiment_color, signed


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_WORDS = 150  # that can be read in a picture; a longer clip is drawn without its words
WIDTHS = (9.0, 22.0)  # inches, of the shortest and of the longest picture
INCHES_PER_SECOND = 0.9
CHARACTER = 0.085  # inches
LINE = 0.42  # inches that a line of words takes
POINTS_APART = 10  # of the marks of two modalities
MARKS = 0.15  # inches that they take to the left of a segment's middle
INTERVAL_OPACITY = 0.12


def plot_timeline(analysis: ClipAnalysis, path: str | os.PathLike, *, title: str | None = None) -> None:
    """Draws the sentiment of a clip over its time as a picture, see [`draw_timeline`].

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
    """Draws the sentiment of a clip over its time.

    From above: words, coloured by their share in the score; the score of each segment with its interval, and each
    modality's own score; tracks of what was measured.

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
    words = _placed_words(analysis.segments, seconds_per_inch)
    num_lines = max((line for *_, line in words), default=-1) + 1
    heights = [*([LINE * num_lines + 0.1] if words else []), 2.4, *[0.7] * len(analysis.tracks)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, sum(heights) + 1.1), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(len(heights), sharex=True, height_ratios=heights, squeeze=False)[:, 0])
        axes[0].set_xlim(0, end)
        if title:
            figure.suptitle(title, fontsize=11)
        remaining = iter(axes)
        if words:
            _draw_words(next(remaining), words, num_lines)
        _draw_scores(next(remaining), analysis.segments, seconds_per_inch)
        for (name, track), axis in zip(analysis.tracks.items(), remaining, strict=True):
            _draw_track(axis, name, track, analysis.segments)
        axes[-1].set_xlabel("seconds")
        figure.align_ylabels(axes)
    return figure


def _placed_words(segments: list[Segment], seconds_per_inch: float) -> list[tuple[Word, float | None, float, int]]:
    """Each word with its share, where it is drawn and in which line: in the first one with room at its time."""
    shares = itertools.chain.from_iterable(_shares(segment) for segment in segments)
    spoken = [word for segment in segments for word in segment.words]
    if len(spoken) > MOST_WORDS:
        return []
    ends: list[float] = []  # of the lines
    placed = []
    for word, share in zip(spoken, shares, strict=True):
        length = CHARACTER * max(len(word.text) + 1, 5) * seconds_per_inch
        start = max((word.start + word.end - length) / 2, 0.0)
        line = next((number for number, end in enumerate(ends) if end <= start), len(ends))
        ends[line:] = [start + length, *ends[line + 1 :]]
        placed.append((word, share, start + length / 2, line))
    return placed


def _shares(segment: Segment) -> Iterator[float | None]:
    yield from segment.result.get("word_shares") or [None] * len(segment.words)


def _draw_words(axis: "Axes", words: list[tuple[Word, float | None, float, int]], num_lines: int) -> None:
    from matplotlib.colors import to_rgba

    largest = max((abs(share) for _, share, *_ in words if share is not None), default=0.0) or 1.0
    for word, share, middle, line in words:
        color = to_rgba(sentiment_color(share or 0), 0.6 * abs(share or 0) / largest)
        text = word.text.replace("$", r"\$")
        box = {"boxstyle": "round,pad=0.2", "facecolor": color, "edgecolor": "none"}
        axis.text(middle, line + 0.3, text, ha="center", va="center", fontsize=9, bbox=box)
        if share is not None:
            axis.text(middle, line + 0.78, signed(share), ha="center", va="center", fontsize=6.5, color=MARK_COLOR)
    axis.set_ylim(max(num_lines, 1), -0.1)
    axis.set_yticks([])
    axis.grid(False)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(bottom=False)
    _name(axis, "words and\ntheir share\nin the score")


def _draw_scores(axis: "Axes", segments: list[Segment], seconds_per_inch: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    names = list(dict.fromkeys(name for segment in segments for name in segment.result["modalities"]))
    further = zip(
        (name for name in names if name not in MODALITY_STYLES), itertools.cycle(FURTHER_STYLES), strict=False
    )
    styles = MODALITY_STYLES | dict(further)
    for segment in segments:
        score, color = segment.result["score"], sentiment_color(segment.result["score"])
        if interval := (segment.result["uncertainty"] or {}).get("interval"):
            axis.fill_between([segment.start, segment.end], *interval, color=color, alpha=INTERVAL_OPACITY, lw=0)
        axis.hlines(score, segment.start, segment.end, color=color, linewidth=3)
        _draw_label(axis, segment, (segment.end - segment.start) / seconds_per_inch)
        # Side by side around the middle of the segment: each is a score of all of it.
        for number, name in enumerate(names):
            if part := segment.result["modalities"].get(name):
                points = POINTS_APART * (number - (len(names) - 1) / 2)
                place = axis.transData + ScaledTranslation(points / 72, 0, axis.figure.dpi_scale_trans)
                mark_color, marker = styles[name]
                middle = (segment.start + segment.end) / 2
                axis.plot(middle, part["score"], marker, color=mark_color, ms=7, mec="white", mew=0.5, transform=place)
    low, high = SENTIMENT_RANGE
    axis.set_ylim(low - 0.2, high + 0.2)
    axis.set_yticks(range(int(low), int(high) + 1))
    axis.axhline(0, color=MARK_COLOR, linewidth=0.8, zorder=1)
    _name(axis, "sentiment")
    _draw_legend(axis, segments, {name: styles[name] for name in names})


def _draw_label(axis: "Axes", segment: Segment, inches: float) -> None:
    """Writes the score on the side of its line where the middle of the scale is, or as much of it as there is room."""
    score = segment.result["score"]
    number = signed(score, digits=1)
    text = f"{number} {segment.result['label']}"
    if CHARACTER * len(text) > inches / 2 - MARKS:
        text = number if CHARACTER * len(number) <= inches else ""
    below = score > 0
    axis.annotate(
        text, (segment.start, score), (2, -5 if below else 5), textcoords="offset points", ha="left",
        va="top" if below else "bottom", color=sentiment_color(score), fontsize=9, fontweight="bold",
    )  # fmt: skip


def _draw_legend(axis: "Axes", segments: list[Segment], styles: dict[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = [Line2D([], [], color=MARK_COLOR, linewidth=3, label="score")]
    coverages = {(segment.result["uncertainty"] or {}).get("coverage") for segment in segments} - {None}
    handles += [
        Patch(facecolor=MARK_COLOR, alpha=2 * INTERVAL_OPACITY, label=f"{coverage:.0%} interval")
        for coverage in coverages
    ]
    handles += [
        Line2D([], [], color=color, marker=marker, ls="", ms=6, label=f"{name} alone")
        for name, (color, marker) in styles.items()
    ]
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.05), ncols=len(handles), frameon=False)


def _draw_track(axis: "Axes", name: str, track: Track, segments: list[Segment]) -> None:
    """Draws what was measured, and behind it the segments in the colours of their scores."""
    for segment in segments:
        axis.axvspan(
            segment.start,
            segment.end,
            color=sentiment_color(segment.result["score"]),
            alpha=INTERVAL_OPACITY / 2,
            lw=0,
        )
    axis.plot(track.times, track.values, color=MARK_COLOR, linewidth=1.2)
    if name.endswith("(0 to 1)"):
        axis.set_ylim(-0.05, 1.05)
    else:
        low, high = np.nanpercentile(track.values, (2, 98))  # a few errors do not flatten the rest
        margin = 0.15 * (high - low) + 1e-3
        axis.set_ylim(low - margin, high + margin)
    axis.locator_params(axis="y", nbins=3)
    _name(axis, name.replace(" (", "\n("))


def _name(axis: "Axes", name: str) -> None:
    axis.set_ylabel(name, rotation=0, ha="right", va="center")


__all__ = ["draw_timeline", "plot_timeline"]
