"""What is predicted, as HTML of the demo page: numbers on scales, and classes as bars of their probabilities."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..class_task_cpsl import ClassTask
from ..number_task_cpsl import NumberTask
from ..task_cpsl import Task
from .label_texts import Scale, has_prediction, interval_of, per_cent, said, scales, score_of, shown_change
from .plots import POSITIVE


MOST_BARS = 10  # of the likeliest classes
NOT_CALIBRATED = "the model was not calibrated on utterances with these modalities."


def score_html(result: Mapping[str, Any], task: Task) -> str:
    """What is predicted and how sure that is: one number and its place on its scale, several of them, or classes."""
    if isinstance(task, ClassTask):
        return _class_html(result, task)
    if not isinstance(task, NumberTask):
        return _classes_html(result, task)
    return _number_html(result, task) if task.is_one_number else _numbers_html(result, task)


def part_html(part: Mapping[str, Any], task: Task) -> str:
    """What is predicted from a modality alone, as two cells of a row: a picture of it, and in words."""
    if not has_prediction(part):
        return '<dd class="cpsl-note">no prediction of its own</dd><dd></dd>'
    if task.is_one_number:
        [scale] = scales(task)
        return f"<dd>{_scale_html(scale, part['score'])}</dd><dd>{scale.text(part['score'], further=1)}</dd>"
    if isinstance(task, ClassTask):
        return f"<dd>{_bar_html(part['score'])}</dd><dd>{escape(said(part, task))}</dd>"
    if not isinstance(task, NumberTask):
        return f'<dd class="cpsl-all">{escape(said(part, task))}</dd>'
    numbers = ", ".join(f"{one.name} {one.text(score_of(part, one.name, task))}" for one in scales(task))
    return f'<dd class="cpsl-all">{escape(numbers)}</dd>'


def change_text(change: Any, task: Task, label: Any) -> str:
    """By how much something changes what is predicted; nothing where that is not known."""
    shown = shown_change(change, task)
    if shown is None:
        return ""
    what = shown.name or ("the score" if isinstance(task, NumberTask) else f"the probability of {label}")
    return f"changes {what} by {shown.number}"


def what_words_do(task: Task, label: Any) -> tuple[str, str]:
    """What the numbers below words are, and what it is that they raise or lower."""
    if isinstance(task, ClassTask):
        what = f"the probability of {label}"
    elif task.is_one_number:
        what = "the score"
    else:
        return "What each word changes most: with all words, less without this one.", "it"
    return f"{what[0].upper()}{what[1:]} with all words, less {what} without this one.", what


def _number_html(result: Mapping[str, Any], task: NumberTask) -> str:
    [scale], interval = scales(task), interval_of(result, task.names[0], task)
    if interval is None:
        told = f"No interval: {NOT_CALIBRATED}"
    else:
        told = f"{_coverage(result)} interval: {_interval_text(scale, interval)}"
    return (
        f'<div class="cpsl-score"><span class="cpsl-number">{scale.text(result["score"], further=1)}</span> '
        f'<span class="cpsl-label">{escape(result.get("label", scale.name))}</span></div>'
        f'{_scale_html(scale, result["score"], interval)}{_ends_html(scale)}<p class="cpsl-note">{told}</p>'
    )


def _numbers_html(result: Mapping[str, Any], task: NumberTask) -> str:
    rows = []
    for scale in scales(task):
        score, interval = score_of(result, scale.name, task), interval_of(result, scale.name, task)
        picture = _scale_html(scale, score, interval) + _ends_html(scale) if scale.is_bounded else ""
        told = "" if interval is None else f"{_coverage(result)}: {_interval_text(scale, interval)}"
        rows.append(
            f"<dt>{escape(scale.name)}</dt><dd>{picture}</dd>"
            f'<dd class="cpsl-number">{scale.text(score, further=1)}</dd><dd class="cpsl-note cpsl-last">{told}</dd>'
        )
    is_calibrated = "interval" in (result["uncertainty"] or {})
    note = "" if is_calibrated else f'<p class="cpsl-note">No intervals: {NOT_CALIBRATED}</p>'
    return f'<dl class="cpsl-rows cpsl-numbers">{"".join(rows)}</dl>{note}'


def _class_html(result: Mapping[str, Any], task: ClassTask) -> str:
    kept = (result["uncertainty"] or {}).get("set")
    marks = {} if kept is None else dict.fromkeys(kept, f"in the {_coverage(result)} set")
    told = f"No set of classes: {NOT_CALIBRATED}" if kept is None else f"{_coverage(result)} set: {', '.join(kept)}"
    return (
        f'<div class="cpsl-score"><span class="cpsl-number">{per_cent(result["score"])}</span> '
        f'<span class="cpsl-label">{escape(result["label"])}</span></div>'
        f'{_bars_html(result["probabilities"], [result["label"]], marks)}<p class="cpsl-note">{escape(told)}</p>'
    )


def _classes_html(result: Mapping[str, Any], task: Task) -> str:
    kept = (result["uncertainty"] or {}).get("set")
    words = {(True,): "has it", (False,): "lacks it", (True, False): "may have it"}
    marks = {name: words[tuple(values)] for name, values in (kept or {}).items()}
    if kept is None:
        told = f"No sets: {NOT_CALIBRATED}"
    else:
        told = f"Beside each class what its {_coverage(result)} set says."
    return (
        f'<div class="cpsl-score"><span class="cpsl-label">{escape(", ".join(result["label"]) or "none")}</span></div>'
        f'{_bars_html(result["score"], result["label"], marks)}<p class="cpsl-note">{told}</p>'
    )


def _bars_html(probabilities: Mapping[str, float], chosen: Sequence[str], marks: Mapping[str, str]) -> str:
    """The likeliest classes, each with its probability as a bar and in per cent, and what is remarked of it."""
    order = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{_bar_html(probabilities[name], name in chosen)}</dd>"
        f'<dd>{per_cent(probabilities[name])}</dd><dd class="cpsl-note cpsl-last">{marks.get(name, "")}</dd>'
        for name in order[:MOST_BARS]
    )
    hidden = order[MOST_BARS:]
    more = f'<p class="cpsl-note">And {len(hidden)} that are less likely.</p>' if hidden else ""
    return f'<dl class="cpsl-rows">{rows}</dl>{more}'


def _bar_html(probability: float, is_chosen: bool = True) -> str:
    color = f"; background: {POSITIVE}; opacity: 1" if is_chosen else ""
    return (
        f'<div class="cpsl-bar" role="img" aria-label="{per_cent(probability)}">'
        f'<i style="width: {100 * probability:.1f}%{color}"></i></div>'
    )


def _scale_html(scale: Scale, score: float, interval: Sequence[float] | None = None) -> str:
    told = f"{scale.text(score, further=1)} on a scale from {scale.low:g} to {scale.high:g}"
    zero = f'<i class="cpsl-zero" style="left: {_percent(scale, 0.0):.1f}%"></i>' if scale.has_sides else ""
    band = ""
    if interval is not None:
        start, end = (_percent(scale, value) for value in interval)
        band = f'<i class="cpsl-band" style="left: {start:.1f}%; width: {end - start:.1f}%"></i>'
    dot = f'<b style="left: {_percent(scale, score):.1f}%; background: {scale.color(score)}"></b>'
    return f'<div class="cpsl-scale" role="img" aria-label="{told}">{zero}{band}{dot}</div>'


def _ends_html(scale: Scale) -> str:
    """What the ends of a scale mean and, where it has names, its middle."""
    ends = ""
    for value, name in scale.points or ((scale.low, ""), (scale.high, "")):
        sign = "−" if value < 0 else "+" if value > 0 and scale.has_sides else ""
        ends += f"<span>{f'{sign}{abs(value):g} {name}'.rstrip()}</span>"
    return f'<div class="cpsl-ends" aria-hidden="true">{ends}</div>'


def _percent(scale: Scale, value: float) -> float:
    return 100 * (value - scale.low) / scale.width


def _interval_text(scale: Scale, interval: Sequence[float]) -> str:
    return " to ".join(scale.text(value, further=1) for value in interval)


def _coverage(result: Mapping[str, Any]) -> str:
    return per_cent(result["uncertainty"]["coverage"])


__all__ = ["change_text", "part_html", "score_html", "what_words_do"]
