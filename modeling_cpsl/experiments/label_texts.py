"""How predictions are written for people, by what the label is: numbers on their scales, classes with per cent."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from ..class_task_cpsl import ClassTask
from ..number_task_cpsl import NumberTask
from ..task_cpsl import SENTIMENT_CLASSES, SENTIMENT_RANGE, SIMS_CLASSES, SIMS_CUTS, SIMS_RANGE, Task
from ..tasks_cpsl import SENTIMENT
from .plots import POSITIVE, sentiment_color, signed


# A number is written with so many digits that its scale has at least this many steps.
FEWEST_STEPS = 20
# What has no range counts as wide as that of a sentiment.
USUAL_WIDTH = SENTIMENT_RANGE[1] - SENTIMENT_RANGE[0]


class Scale(NamedTuple):
    """The scale of a number, or of the probability of a class.

    Attributes:
        name: Of the number or class.
        low: Its least value, infinite where there is none.
        high: Its greatest value.
        digits: After the point, in few words; where there is room one more is written.
        ticks: Where the axis is to be marked; none where anywhere will do.
        points: The names of some of its points.
    """

    name: str
    low: float
    high: float
    digits: int
    ticks: tuple[float, ...] = ()
    points: tuple[tuple[float, str], ...] = ()

    @property
    def width(self) -> float:
        """How far its ends are apart."""
        return self.high - self.low if self.is_bounded else USUAL_WIDTH

    @property
    def is_bounded(self) -> bool:
        """Whether it has a least and a greatest value."""
        return math.isfinite(self.high - self.low)

    @property
    def span(self) -> str:
        """Its ends in words, `1 to 5`; empty where it has none."""
        return f"{self.low:g} to {self.high:g}" if self.is_bounded else ""

    @property
    def has_sides(self) -> bool:
        """Whether 0 lies within, so that a number has a side and is written with its sign."""
        return self.low < 0 < self.high

    def text(self, value: float, *, further: int = 0) -> str:
        """A number as pictures and pages show it, with some `further` digits."""
        digits = self.digits + further
        return signed(value, digits) if self.has_sides else f"{value:.{digits}f}"

    def plain(self, value: float, *, further: int = 0) -> str:
        """A number as text files and terminals show it, in ASCII and always as long."""
        return f"{value:{'+' if self.has_sides else ''}.{self.digits + further}f}"

    def color(self, value: float) -> str:
        """Of a number: that of its side, where there are two."""
        return sentiment_color(value) if self.has_sides else POSITIVE


class Change(NamedTuple):
    """By how much something changes a prediction, as it is shown.

    Attributes:
        name: Which number or class; empty where there is only one that is meant.
        share: Of the width of its scale.
        number: The change with its sign.
    """

    name: str
    share: float
    number: str

    @property
    def text(self) -> str:
        """The change, with the name where there is one."""
        return f"{self.name} {self.number}".lstrip()


def scales(task: Task) -> list[Scale]:
    """The scales of a task's numbers, or of the probabilities of its classes."""
    if not isinstance(task, NumberTask):
        return [Scale(name, 0.0, 1.0, digits=1) for name in task.names]
    return [_scale(name, low, high) for name, (low, high) in zip(task.names, task.ranges, strict=True)]


def _scale(name: str, low: float, high: float) -> Scale:
    scale = Scale(name, low, high, digits=0)
    scale = scale._replace(digits=max(0, math.ceil(math.log10(FEWEST_STEPS / scale.width))))
    if (low, high) == SENTIMENT_RANGE:
        ticks = tuple(low + place for place in range(len(SENTIMENT_CLASSES)))
        return scale._replace(ticks=ticks, points=_ends_and_middle(scale, SENTIMENT_CLASSES))
    if (low, high) == SIMS_RANGE:
        return scale._replace(ticks=(low, *SIMS_CUTS, high), points=_ends_and_middle(scale, SIMS_CLASSES))
    return scale


def _ends_and_middle(scale: Scale, names: Sequence[str]) -> tuple[tuple[float, str], ...]:
    """Those points of a scale, of whose parts these are the names from below."""
    middle = (scale.low + scale.high) / 2
    return (scale.low, names[0]), (middle, names[len(names) // 2]), (scale.high, names[-1])


def per_cent(probability: float) -> str:
    """A probability as it is written.

    >>> per_cent(0.824)
    '82 %'
    """
    return f"{100 * probability:.0f} %"


def score_of(result: Mapping[str, Any], name: str, task: Task) -> float:
    """A number, or the probability of a class, of a result of the pipeline or of what it says of a modality."""
    if isinstance(task, ClassTask):
        return float(result["probabilities"][name])
    return float(result["score"] if task.is_one_number else result["score"][name])


def interval_of(result: Mapping[str, Any], name: str, task: Task) -> list[float] | None:
    """The interval of a number; None where the model was not calibrated, and for classes."""
    intervals = (result["uncertainty"] or {}).get("interval")
    return intervals if intervals is None or task.is_one_number else intervals[name]


def has_prediction(part: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Whether what a result says of a modality has a prediction from it alone, as not every architecture does."""
    return part is not None and "score" in part


def said(result: Mapping[str, Any], task: Task = SENTIMENT) -> str:
    """What is predicted, in ASCII as far as names are: `+1.2 positive`, `valence 3.1, arousal 0.4` or `happy 82 %`.

    Args:
        result: A result of the pipeline, or what one says of a modality.
        task: What labels are.
    """
    if isinstance(task, ClassTask):
        return f"{result['label']} {per_cent(result['score'])}"
    if not isinstance(task, NumberTask):
        return ", ".join(f"{name} {per_cent(result['score'][name])}" for name in result["label"]) or "none"
    numbers = [scale.plain(score_of(result, scale.name, task)) for scale in scales(task)]
    if "label" in result:
        return f"{numbers[0]} {result['label']}"
    return ", ".join(f"{name} {number}" for name, number in zip(task.names, numbers, strict=True))


def shown_change(change: Any, task: Task) -> Change | None:
    """A change of scores; of several numbers or classes at once that of the one which changes most for its scale.

    Args:
        change: As [`Task.change`] has it, or None.
        task: What labels are.
    """
    if change is None:
        return None
    if not isinstance(change, Mapping):
        scale = scales(task)[0]
        return Change("", change / scale.width, signed(change, scale.digits + 1))
    scale = max(scales(task), key=lambda one: abs(change[one.name]) / one.width)
    value = change[scale.name]
    return Change(scale.name, value / scale.width, signed(value, scale.digits + 1))


__all__ = [
    "Change",
    "Scale",
    "has_prediction",
    "interval_of",
    "per_cent",
    "said",
    "scales",
    "score_of",
    "shown_change",
]
