"""The picture of a clip: its words, its sentiment and what was measured, over time."""

import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from data_builders.files import replacing_file
from data_builders.media.contract import Word

from ..task_cpsl import SENTIMENT_RANGE
from .clip_prediction import ClipAnalysis, Segment
from .plots import FURTHER_STYLES, MARK_COLOR, MODALITY_STYLES, STYLE


if TYPE_CHECKING:
    from matplotlib.axes import Axes

POSITIVE, NEGATIVE = "#0072B2", "#D55E00"  # of Okabe and Ito: told apart by people with any kind of colour vision
MOST_WORDS = 150  # that can be read in a picture; a longer clip is drawn without its words
WIDTHS = (9.0, 22.0)  # inches, of the shortest and of the longest picture
INCHES_PER_SECOND = 0.9
CHARACTER = 0.085  # inches
LINE = 0.42  # inches that a line of words takes


def plot_timeline(analysis: ClipAnalysis, path: str | os.PathLike, *, title: str | None = None) -> None:
    """Draws the sentiment of a clip over its time.

    From above: words, coloured by their share in the score; the score of each segment with its interval, and each
    modality's own score; tracks of what was measured.

    Args:
        analysis: From [`analyse`].
        path: The PNG file to write.
        title: Stands above the picture.

    Raises:
        WriteError: The file could not be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    end = max([segment.end for segment in analysis.segments])
    end = max([end, *(float(track.times[-1]) for track in analysis.tracks.values())])
    width = min(max(INCHES_PER_SECOND * end, WIDTHS[0]), WIDTHS[1])
    words = _placed_words(analysis.segments, end / (width - 1))
    num_lines = max((line for *_, line in words), default=-1) + 1
    heights = [*([LINE * num_lines + 0.1] if words else []), 2.4, *[0.8] * len(analysis.tracks)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, sum(heights) + 1.1), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(len(heights), sharex=True, height_ratios=heights, squeeze=False)[:, 0])
        axes[0].set_xlim(0, end)
        if title:
            figure.suptitle(title, fontsize=11)
        remaining = iter(axes)
        if words:
            _draw_words(next(remaining), words, num_lines)
        _draw_scores(next(remaining), analysis.segments)
        for (name, track), axis in zip(analysis.tracks.items(), remaining, strict=True):
            axis.plot(track.times, track.values, color=MARK_COLOR, linewidth=1)
            axis.set_ylabel(name.replace(" (", "\n("), rotation=0, ha="right", va="center")
            axis.locator_params(axis="y", nbins=3)
        axes[-1].set_xlabel("seconds")
        figure.align_ylabels(axes)
        with replacing_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=130)


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
        color = to_rgba(POSITIVE if (share or 0) > 0 else NEGATIVE, 0.6 * abs(share or 0) / largest)
        text = word.text.replace("$", r"\$")
        box = {"boxstyle": "round,pad=0.2", "facecolor": color, "edgecolor": "none"}
        axis.text(middle, line + 0.3, text, ha="center", va="center", fontsize=9, bbox=box)
        if share is not None:
            axis.text(middle, line + 0.78, f"{share:+.2f}", ha="center", va="center", fontsize=6.5, color=MARK_COLOR)
    axis.set_ylim(max(num_lines, 1), -0.1)
    axis.set_yticks([])
    axis.grid(False)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(bottom=False)
    axis.set_ylabel("words and\ntheir share\nin the score", rotation=0, ha="right", va="center")


def _draw_scores(axis: "Axes", segments: list[Segment]) -> None:
    names = list(dict.fromkeys(name for segment in segments for name in segment.result["modalities"]))
    styles = MODALITY_STYLES | dict(
        zip((name for name in names if name not in MODALITY_STYLES), itertools.cycle(FURTHER_STYLES), strict=False)
    )
    for segment in segments:
        result = segment.result
        color = POSITIVE if result["score"] > 0 else NEGATIVE
        if interval := (result["uncertainty"] or {}).get("interval"):
            label = f"{result['uncertainty']['coverage']:.0%} interval"
            axis.fill_between([segment.start, segment.end], *interval, color=color, alpha=0.12, lw=0, label=label)
        axis.hlines(result["score"], segment.start, segment.end, color=color, linewidth=3, label="score")
        middle = (segment.start + segment.end) / 2
        axis.annotate(
            f"{result['score']:+.1f} {result['label']}", (middle, result["score"]), (0, 5),
            textcoords="offset points", ha="center", color=color, fontsize=9, fontweight="bold",
        )  # fmt: skip
        present = [name for name in names if result["modalities"].get(name) is not None]
        for number, name in enumerate(present, 1):
            position = segment.start + (segment.end - segment.start) * number / (len(present) + 1)
            marker_color, marker = styles[name]
            value = result["modalities"][name]["score"]
            axis.plot(position, value, marker, color=marker_color, markersize=6, label=f"{name} alone", zorder=3)
    low, high = SENTIMENT_RANGE
    axis.set_ylim(low - 0.2, high + 0.2)
    axis.set_yticks(range(int(low), int(high) + 1))
    axis.axhline(0, color=MARK_COLOR, linewidth=0.8)
    axis.set_ylabel("sentiment", rotation=0, ha="right", va="center")
    handles, labels = axis.get_legend_handles_labels()
    first = dict(zip(reversed(labels), reversed(handles), strict=True))  # one of each
    axis.legend(first.values(), first.keys(), loc="upper left", bbox_to_anchor=(0, -0.05), ncols=6, frameon=False)


__all__ = ["plot_timeline"]
