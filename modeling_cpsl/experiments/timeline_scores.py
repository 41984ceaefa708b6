"""What is predicted over the time of a clip, as panels of its picture: numbers as lines, classes as a band."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..class_task_cpsl import ClassTask, LabelSetTask
from ..number_task_cpsl import NumberTask
from ..task_cpsl import Task
from .clip_prediction import Segment
from .label_texts import Scale, has_prediction, interval_of, per_cent, scales, score_of
from .plots import MARK_COLOR, SERIES_COLORS, modality_styles


if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

CHARACTER = 0.085  # inches
HEIGHT = 2.4  # inches of a panel
ROW = 0.3  # inches that what one modality says of classes takes
POINTS_APART = 10  # of marks that belong to the same time
MARKS = 0.15  # inches that they take to the left of a segment's middle
INTERVAL_OPACITY = 0.12
PALE = 0.25  # opacity of a class that is not in the set
SMALLEST_BLOCK = 0.08  # of a band, in which a name can be read
DARK = 0.25  # luminance below which white can be read on a colour
OTHERS = "others"
INCHES_OF_ENTRY = 1.6  # in a legend


class ScorePanel(NamedTuple):
    """A panel of the picture: its height in inches, and what draws it."""

    height: float
    draw: Callable[["Axes"], None]


def score_panels(segments: Sequence[Segment], task: Task, seconds_per_inch: float) -> list[ScorePanel]:
    """The panels that show what is predicted.

    A number has a panel for itself, with its interval and what each modality says; numbers of the same range share
    one, as several classes at once do. One of C classes has a band of probabilities, and a row for each modality.
    Of many classes only the likeliest are shown, as many as there are colours.
    """
    if isinstance(task, ClassTask):
        colors = class_colors(segments, task)
        panels = [ScorePanel(HEIGHT, functools.partial(_draw_band, segments, task, colors, seconds_per_inch))]
        if names := _heard_alone(segments):
            rows = functools.partial(_draw_rows, segments, names, colors, seconds_per_inch)
            panels.append(ScorePanel(ROW * len(names) + 0.1, rows))
        return panels
    shown = class_colors(segments, task) if isinstance(task, LabelSetTask) else task.names
    by_range: dict[tuple[float, float], list[Scale]] = {}
    for scale in scales(task):
        if scale.name in shown:
            by_range.setdefault((scale.low, scale.high), []).append(scale)
    panels = []
    for group in by_range.values():
        draw = functools.partial(_draw_number if len(group) == 1 else _draw_numbers, segments, task, group)
        panels.append(ScorePanel(HEIGHT, functools.partial(draw, seconds_per_inch)))
    return panels


def class_colors(segments: Iterable[Segment], task: Task) -> dict[str, str]:
    """The colours of the classes that are the likeliest anywhere, in the order of all classes."""
    highest = dict.fromkeys(task.names, 0.0)
    for segment in segments:
        for name in task.names:
            highest[name] = max(highest[name], score_of(segment.result, name, task))
    likeliest = sorted(task.names, key=highest.__getitem__, reverse=True)[: len(SERIES_COLORS)]
    return dict(zip((name for name in task.names if name in likeliest), SERIES_COLORS, strict=False))


def segment_color(segment: Segment, task: Task, colors: Mapping[str, str]) -> str:
    """The colour of a segment as a whole: of its class or the side of its number; grey where several are predicted."""
    if isinstance(task, ClassTask):
        return colors.get(segment.result["label"], MARK_COLOR)
    return scales(task)[0].color(segment.result["score"]) if task.is_one_number else MARK_COLOR


def name_axis(axis: "Axes", name: str) -> None:
    """Writes beside an axis what it shows."""
    axis.set_ylabel(name, rotation=0, ha="right", va="center")


def _heard_alone(segments: Iterable[Segment]) -> list[str]:
    """The modalities from which alone something is predicted anywhere."""
    named = (item for segment in segments for item in segment.result["modalities"].items())
    return list(dict.fromkeys(name for name, part in named if has_prediction(part)))


def _draw_number(
    segments: Sequence[Segment], task: Task, group: list[Scale], seconds_per_inch: float, axis: "Axes"
) -> None:
    [scale], names = group, _heard_alone(segments)
    styles = modality_styles(names)
    for segment in segments:
        value = score_of(segment.result, scale.name, task)
        color = scale.color(value)
        if interval := interval_of(segment.result, scale.name, task):
            axis.fill_between([segment.start, segment.end], *interval, color=color, alpha=INTERVAL_OPACITY, lw=0)
        axis.hlines(value, segment.start, segment.end, color=color, linewidth=3)
        _draw_label(axis, segment, scale, value, (segment.end - segment.start) / seconds_per_inch)
        middle = (segment.start + segment.end) / 2
        for number, name in enumerate(names):
            if has_prediction(part := segment.result["modalities"].get(name)):
                mark_color, marker = styles[name]
                axis.plot(
                    middle, score_of(part, scale.name, task), marker, color=mark_color, ms=7, mec="white", mew=0.5,
                    transform=_beside(axis, number, len(names)),
                )  # fmt: skip
    _set_scale(axis, segments, task, group)
    name_axis(axis, scale.name + (f"\n({scale.span})" if scale.span and not scale.points else ""))
    _draw_legend(axis, segments, [_line("score", MARK_COLOR)], {name: styles[name] for name in names})


def _draw_label(axis: "Axes", segment: Segment, scale: Scale, value: float, inches: float) -> None:
    """Writes the number on the side of its line where the middle of the scale is, or as much as there is room for."""
    number = scale.text(value)
    text = f"{number} {segment.result['label']}" if "label" in segment.result else number
    if CHARACTER * len(text) > inches / 2 - MARKS:
        text = number if CHARACTER * len(number) <= inches else ""
    below = scale.is_bounded and value > (scale.low + scale.high) / 2
    axis.annotate(
        text, (segment.start, value), (2, -5 if below else 5), textcoords="offset points", ha="left",
        va="top" if below else "bottom", color=scale.color(value), fontsize=9, fontweight="bold",
    )  # fmt: skip


def _draw_numbers(
    segments: Sequence[Segment], task: Task, group: list[Scale], seconds_per_inch: float, axis: "Axes"
) -> None:
    """Draws a line for each number or class; at its middle its interval and, in its colour, what modalities say."""
    names = _heard_alone(segments)
    styles = modality_styles(names)
    colors = {scale.name: SERIES_COLORS[place % len(SERIES_COLORS)] for place, scale in enumerate(group)}
    for segment in segments:
        middle, result = (segment.start + segment.end) / 2, segment.result
        both = {name for name, values in _set_of(segment).items() if len(values) > 1}
        for place, scale in enumerate(group):
            color, beside = colors[scale.name], _beside(axis, place, len(group))
            value, dashes = score_of(result, scale.name, task), (0, (2, 1)) if scale.name in both else "-"
            axis.hlines(value, segment.start, segment.end, color=color, linewidth=2.5, linestyles=[dashes])
            if interval := interval_of(result, scale.name, task):
                axis.plot([middle] * 2, interval, color=color, linewidth=1, transform=beside)
            for name in names:
                if has_prediction(part := result["modalities"].get(name)):
                    own = score_of(part, scale.name, task)
                    axis.plot(middle, own, styles[name][1], color=color, ms=6, mec="white", mew=0.5, transform=beside)
        _draw_over(axis, segment, _texts(segment, task, group), seconds_per_inch)
    _set_scale(axis, segments, task, group)
    entries = [_line(name, color) for name, color in colors.items()]
    if isinstance(task, NumberTask):
        name_axis(axis, ",\n".join(colors) + (f"\n({group[0].span})" if group[0].span else ""))
    else:
        axis.axhline(0.5, color=MARK_COLOR, linewidth=0.8, zorder=1)  # from here on a class is predicted
        name_axis(axis, f"probability{_how_many(len(group), task)}")
    _draw_legend(axis, segments, entries, {name: (MARK_COLOR, styles[name][1]) for name in names})


def _texts(segment: Segment, task: Task, group: list[Scale]) -> list[str]:
    """What may stand over a segment, from the longest on."""
    result = segment.result
    if isinstance(task, NumberTask):
        numbers = ((scale.name, scale.text(score_of(result, scale.name, task))) for scale in group)
        return [", ".join(f"{name} {number}" for name, number in numbers)]
    named = [(name, per_cent(result["score"][name])) for name in result["label"]]
    return [", ".join(f"{name} {share}" for name, share in named) or "none", ", ".join(result["label"])]


def _draw_over(axis: "Axes", segment: Segment, texts: Sequence[str], seconds_per_inch: float) -> None:
    """Writes the first of these texts for which there is room over a segment."""
    text = _fitting(texts, (segment.end - segment.start) / seconds_per_inch)
    over = axis.get_xaxis_transform()
    axis.text(segment.start, 1.02, text, transform=over, ha="left", va="bottom", fontsize=9, fontweight="bold")


def _draw_band(
    segments: Sequence[Segment],
    task: ClassTask,
    colors: Mapping[str, str],
    seconds_per_inch: float,
    axis: "Axes",
) -> None:
    """Draws the probabilities of a segment one on the other; those of classes that are not in the set are pale."""
    hidden = [name for name in task.names if name not in colors]
    for segment in segments:
        probabilities, bottom = segment.result["probabilities"], 0.0
        kept = (segment.result["uncertainty"] or {}).get("set", task.names)
        blocks = [(name, probabilities[name], color, name in kept) for name, color in colors.items()]
        if hidden:
            others = sum(probabilities[name] for name in hidden)
            blocks.append((OTHERS, others, MARK_COLOR, not {*hidden}.isdisjoint(kept)))
        for name, share, color, is_kept in blocks:
            texts = [f"{name} {per_cent(share)}", name] if share >= SMALLEST_BLOCK else []
            place = (segment.start, bottom, segment.end, bottom + share)
            _draw_block(axis, place, color, 1.0 if is_kept else PALE, texts, seconds_per_inch)
            bottom += share
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    name_axis(axis, f"probability{_how_many(len(colors), task)}")
    entries = [_patch(name, color) for name, color in colors.items()]
    entries += [_patch(OTHERS, MARK_COLOR)] if hidden else []
    _draw_legend(axis, segments, entries, {})


def _draw_rows(
    segments: Sequence[Segment],
    names: Sequence[str],
    colors: Mapping[str, str],
    seconds_per_inch: float,
    axis: "Axes",
) -> None:
    """Draws a row for each modality: the class that it says alone."""
    for segment in segments:
        for row, name in enumerate(names):
            if has_prediction(part := segment.result["modalities"].get(name)):
                color = colors.get(part["label"], MARK_COLOR)
                texts = [f"{part['label']} {per_cent(part['score'])}", part["label"]]
                _draw_block(axis, (segment.start, row, segment.end, row + 1), color, 1.0, texts, seconds_per_inch)
    axis.set_ylim(len(names), 0)
    axis.set_yticks([row + 0.5 for row in range(len(names))], [f"{name} alone" for name in names])
    axis.tick_params(left=False)
    axis.grid(False)


def _draw_block(
    axis: "Axes",
    place: tuple[float, float, float, float],
    color: str,
    opacity: float,
    texts: Sequence[str],
    seconds_per_inch: float,
) -> None:
    """Draws a coloured block from (left, low) to (right, high), and the first text in it for which there is room."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    left, low, right, high = place
    mixed = tuple(1 - opacity * (1 - part) for part in to_rgb(color))
    axis.add_patch(Rectangle((left, low), right - left, high - low, facecolor=mixed, edgecolor="white", linewidth=1))
    text = _fitting(texts, (right - left) / seconds_per_inch)
    color_of_text = "white" if _luminance(mixed) < DARK else "black"
    middle = (left + right) / 2, (low + high) / 2
    axis.text(*middle, text, ha="center", va="center", fontsize=9, color=color_of_text)


def _fitting(texts: Sequence[str], inches: float) -> str:
    """The first of these texts for which there is room; nothing where there is for none."""
    return next((text for text in texts if CHARACTER * len(text) <= inches), "")


def _luminance(color: Iterable[float]) -> float:
    """How light a colour of sRGB is, from 0 to 1, as the guidelines for accessible pages have it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _beside(axis: "Axes", number: int, count: int) -> "Transform":
    """The place of one of several marks that belong to the same time, side by side around it."""
    from matplotlib.transforms import ScaledTranslation

    points = POINTS_APART * (number - (count - 1) / 2)
    return axis.transData + ScaledTranslation(points / 72, 0, axis.figure.dpi_scale_trans)


def _set_scale(axis: "Axes", segments: Iterable[Segment], task: Task, group: list[Scale]) -> None:
    """Sets what an axis covers: the range of its numbers, or all that is drawn of numbers without one."""
    scale = group[0]
    low, high = scale.low, scale.high
    if not scale.is_bounded:
        drawn = [value for segment in segments for one in group for value in _drawn_values(segment, one, task)]
        low, high = min(drawn), max(drawn)
    margin = (high - low) / 30 or 1.0
    axis.set_ylim(low - margin, high + margin)
    if scale.ticks:
        axis.set_yticks(scale.ticks)
    if low < 0 < high:
        axis.axhline(0, color=MARK_COLOR, linewidth=0.8, zorder=1)


def _drawn_values(segment: Segment, scale: Scale, task: Task) -> Iterator[float]:
    yield score_of(segment.result, scale.name, task)
    yield from interval_of(segment.result, scale.name, task) or ()
    for part in segment.result["modalities"].values():
        if has_prediction(part):
            yield score_of(part, scale.name, task)


def _how_many(count: int, task: Task) -> str:
    return "" if count == len(task.names) else f"\n({count} of {len(task.names)}\nclasses)"


def _set_of(segment: Segment) -> Mapping[str, Sequence[bool]]:
    """What a sample may be, by class, of several classes at once; nothing where there is no set."""
    found = (segment.result["uncertainty"] or {}).get("set")
    return found if isinstance(found, Mapping) else {}


def _line(name: str, color: str, width: float = 3) -> "Artist":
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linewidth=width, label=name)


def _patch(name: str, color: str, opacity: float = 1.0) -> "Artist":
    from matplotlib.patches import Patch

    return Patch(facecolor=color, alpha=opacity, label=name)


def _draw_legend(
    axis: "Axes", segments: Iterable[Segment], entries: Sequence["Artist"], styles: Mapping[str, tuple[str, str]]
) -> None:
    """Draws the legend below an axis: what is predicted, how sure that is, and the marks of modalities."""
    from matplotlib.lines import Line2D

    handles = [*entries]
    for coverage, kind in sorted({found for segment in segments if (found := _certainty(segment))}):
        if kind == "interval":
            only_one = len(entries) == 1
            name = f"{coverage:.0%} interval"
            handles.append(_patch(name, MARK_COLOR, 2 * INTERVAL_OPACITY) if only_one else _line(name, MARK_COLOR, 1))
        elif kind == "set":
            handles.append(_patch(f"pale: not in the {coverage:.0%} set", MARK_COLOR, PALE))
        else:
            unsure = Line2D([], [], color=MARK_COLOR, linewidth=2.5, linestyle=(0, (2, 1)))
            unsure.set_label(f"{coverage:.0%} set has both")
            handles.append(unsure)
    handles += [
        Line2D([], [], color=color, marker=marker, ls="", ms=6, label=f"{name} alone")
        for name, (color, marker) in styles.items()
    ]
    ncols = min(len(handles), int(axis.figure.get_size_inches()[0] / INCHES_OF_ENTRY))
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.05), ncols=ncols, frameon=False)


def _certainty(segment: Segment) -> tuple[float, str] | None:
    """The coverage of what is said of a segment's uncertainty, and what that is."""
    uncertainty = segment.result["uncertainty"] or {}
    if "coverage" not in uncertainty:
        return None
    kind = "interval" if "interval" in uncertainty else "sets" if isinstance(uncertainty["set"], Mapping) else "set"
    return uncertainty["coverage"], kind


__all__ = ["CHARACTER", "INTERVAL_OPACITY", "ScorePanel", "class_colors", "name_axis", "score_panels", "segment_color"]
