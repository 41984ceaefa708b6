"""What a label is: the contract of every task, and the sentiment, which a model predicts that says nothing else."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor


SENTIMENT_NAME = "sentiment"
# CMU-MOSI and CMU-MOSEI: annotators rate an utterance in integers from -3 to 3, and its label is their mean.
SENTIMENT_RANGE = (-3.0, 3.0)
# The names of the integers of that range, which are the classes of Acc-7.
SENTIMENT_CLASSES = (
    "highly negative",
    "negative",
    "weakly negative",
    "neutral",
    "weakly positive",
    "positive",
    "highly positive",
)

# CH-SIMS: a label is the mean of five annotators' -1, 0 and 1. These are the names of the range's parts, and where the
# data set and MMSA's Acc-5 cut it.
SIMS_RANGE = (-1.0, 1.0)
SIMS_CUTS = (-0.7, -0.1, 0.1, 0.7)
SIMS_CLASSES = ("negative", "weakly negative", "neutral", "weakly positive", "positive")

Clippable = TypeVar("Clippable", np.ndarray, Tensor)


def clip_sentiment(values: Clippable) -> Clippable:
    """Clips sentiments to the range that a label can have; NaN stays NaN.

    Args:
        values: A NumPy array or a tensor of any shape (or a pandas series).

    Returns:
        The same kind of array, of the same shape and dtype.
    """
    return values.clip(*SENTIMENT_RANGE)


def sentiment_class(values: np.ndarray) -> np.ndarray:
    """The class of Acc-7 that a sentiment falls into: the nearest integer of the range, halves to the even one.

    Args:
        values: Finite sentiments of any shape.

    Returns:
        Integers -3 ... 3 of the same shape.
    """
    return np.round(clip_sentiment(values)).astype(int)


def sims_class(values: np.ndarray) -> np.ndarray:
    """The place in [`SIMS_CLASSES`] of sentiments in [-1, 1] of any shape; a cut belongs to what is below it."""
    return np.searchsorted(SIMS_CUTS, values)


def checked_label(label: Any, bounds: tuple[float, float] = SENTIMENT_RANGE, name: str = "label") -> float:
    """The number that a label states.

    Args:
        label: A number, or what `float` makes one of.
        bounds: The least and the greatest that it can be, infinite where there are no bounds.
        name: What to call it in the error.

    Raises:
        ValueError: It is not a finite number, or not one in the range.
    """
    low, high = bounds
    try:
        value = float(label)
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if not (low <= value <= high and math.isfinite(value)):
        wanted = f"in [{low:g}, {high:g}]" if math.isfinite(high - low) else "a finite number"
        raise ValueError(f"{name} {shown_label(label)} is not {wanted}; correct it or leave the sample out")
    return value


def shown_label(label: Any) -> str:
    """A label as errors show it."""
    return repr(label) if isinstance(label, str) else str(label)


def decode_sentiment(logits: Tensor | np.ndarray | Sequence[float]) -> list[dict[str, Any]]:
    """Puts predictions into words.

    Args:
        logits: (B,), predicted sentiments.

    Returns:
        For each prediction a dict of `value` (float, clipped to the range), `acc7_class` (-3 ... 3), `label` (that
        class's name) and `polarity` (`negative` below 0, else `positive`: the rule of Acc-2).

    Raises:
        ValueError: The predictions have another shape, or one of them is not finite.

    Example:
        >>> decode_sentiment([-1.6])
        [{'value': -1.600000023841858, 'acc7_class': -2, 'label': 'negative', 'polarity': 'negative'}]
    """
    predictions = np.atleast_1d(torch.as_tensor(logits).detach().float().cpu().numpy())
    if predictions.ndim != 1:
        raise ValueError(f"predictions have shape {predictions.shape}, expected (B,): one for each utterance")
    if not np.isfinite(predictions).all():
        index = int(np.flatnonzero(~np.isfinite(predictions))[0])
        raise ValueError(f"prediction {index} is {predictions[index]}; only finite ones have a class")
    values = clip_sentiment(predictions)
    lowest_class = int(SENTIMENT_RANGE[0])
    return [
        {
            "value": float(value),
            "acc7_class": int(class_),
            "label": SENTIMENT_CLASSES[class_ - lowest_class],
            "polarity": "negative" if value < 0 else "positive",
        }
        for value, class_ in zip(values, sentiment_class(values), strict=True)
    ]


def label_items(label: Any) -> list[Any] | None:
    """The items of a label that is a list, tuple, array or tensor of one dimension; None for anything else."""
    if isinstance(label, (list, tuple)):
        return list(label)
    return list(label.tolist()) if getattr(label, "ndim", 0) == 1 else None


@dataclass(frozen=True)
class Task:
    """What a label is.

    Attributes:
        names: Of the K targets or classes.
        weights: Of each class in the losses; empty for all the same.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] = ()

    problem_type: ClassVar[str]
    fewest_names: ClassVar[int] = 2

    @property
    def num_outputs(self) -> int:
        """K, the number of outputs of a head."""
        return len(self.names)

    @property
    def is_one_number(self) -> bool:
        """Whether logits and labels are (B,) numbers, as those of sentiment are."""
        return False

    @property
    def is_sentiment(self) -> bool:
        """Whether the label is a sentiment as those of CMU-MOSI, whose integers have names."""
        return False

    @property
    def is_sims(self) -> bool:
        """Whether the label is a sentiment as those of CH-SIMS, the parts of whose range have names."""
        return False

    @property
    def title(self) -> str:
        """What cards call the task."""
        raise NotImplementedError

    @property
    def unit(self) -> str:
        """What the [`errors`] are measured in, for the axis of a plot."""
        return "1 - p of the label"

    def logits(self, outputs: Tensor) -> Tensor:
        """The logits from what a head gives, (..., K): the same, but (...) for one number."""
        return outputs

    def label_tensor(self, labels: Tensor, size: int) -> Tensor:
        """Labels of a batch of `size` samples, checked, as the losses take them; a ValueError for another shape."""
        raise NotImplementedError

    def checked_label(self, label: Any) -> Any:
        """The label of a sample as a plain value; a ValueError on one line for what is none."""
        raise NotImplementedError

    def label_array(self, labels: Sequence[Any]) -> np.ndarray:
        """Checked labels as one array, (B,) or (B, K)."""
        return np.array(labels, dtype=np.float32)

    def losses(self, logits: Tensor, labels: Tensor, kind: str = "mse") -> Tensor:
        """The loss (B,) of each sample; `kind` is a name of [`TASK_LOSSES`] and has a say on numbers only."""
        raise NotImplementedError

    def predicted(self, logits: Tensor) -> Tensor:
        """What logits say: numbers as they are, or probabilities; in float32, without gradient."""
        raise NotImplementedError

    def scores(self, logits: Tensor) -> Tensor:
        """As [`predicted`], with numbers clipped to the range of their labels."""
        return self.predicted(logits)

    def distance(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """How far (B,) what is [`predicted`] is from labels; for a class 1 - p of the label."""
        raise NotImplementedError

    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The error (B,) of each sample, by which modulation compares modalities."""
        return self.distance(self.predicted(logits), labels)

    def divergence(self, logits: Tensor, others: Tensor) -> Tensor:
        """How far apart (B,) two predictions of the same samples are, with gradient: as R-Drop has it."""
        raise NotImplementedError

    def distillation_losses(self, logits: Tensor, teacher: Tensor, kind: str = "mse") -> Tensor:
        """The loss (B,) of how far predictions are from a teacher's, both as logits; `kind` as for [`losses`]."""
        raise NotImplementedError

    def ensemble_logits(self, logits: Tensor) -> Tensor:
        """The logits (...) of the mean of what M models predict, from theirs (M, ...)."""
        raise NotImplementedError

    def constant(self, labels: np.ndarray) -> np.ndarray:
        """The best that can be [`predicted`] for all samples alike: mean labels, or the frequencies of classes."""
        return np.asarray(labels, dtype=np.float64).mean(axis=0)

    def conformity_errors(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The errors, (N,) or (N, K), from whose quantiles follow intervals or sets of classes."""
        raise NotImplementedError

    def region(self, scores: np.ndarray, quantiles: np.ndarray) -> dict[str, Any]:
        """What a sample's label is thought to lie in: an `interval`, or a `set` of classes.

        Args:
            scores: [`scores`] of the sample, () or (K,).
            quantiles: Of [`conformity_errors`], as many as these have columns.
        """
        raise NotImplementedError

    def covered(self, scores: np.ndarray, labels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
        """Whether labels, (N,) or (N, K), lie in their regions; quantiles for all samples, or for each."""
        return self.conformity_errors(scores, labels) <= quantiles

    def results(self, logits: Tensor, *, in_words: bool = True) -> list[dict[str, Any]]:
        """What a prediction means, by sample.

        Args:
            logits: Finite, (B,) or (B, K).
            in_words: Whether numbers are also told by the names of their scale.
        """
        raise NotImplementedError

    def scores_of(self, result: Mapping[str, Any]) -> Any:
        """The scores, a number or a list of K, that one of [`results`] holds."""
        return [result["score"][name] for name in self.names]

    def change(self, with_it: np.ndarray, without: np.ndarray) -> Any:
        """By how much the scores of a sample change through something, as a result shows it.

        Args:
            with_it: Scores, () or (K,).
            without: Those without it.
        """
        raise NotImplementedError

    def by_name(self, values: np.ndarray) -> Any:
        """Values of a sample, () or (K,), as plain numbers: one, or by the names of targets or classes."""
        return float(values) if values.ndim == 0 else dict(zip(self.names, values.tolist(), strict=True))

    def sample_labels(self, label: Any) -> Any:
        """A checked label as a result shows it: numbers, or names of classes."""
        raise NotImplementedError

    def check_shape(self, labels: Tensor, shape: tuple[int, ...], meaning: str) -> None:
        """ValueError for labels of another shape than this one, which means what is said."""
        if labels.shape != shape:
            raise ValueError(f"labels have shape {tuple(labels.shape)}, expected {shape}, {meaning}")


__all__ = [
    "SENTIMENT_CLASSES",
    "SENTIMENT_NAME",
    "SENTIMENT_RANGE",
    "SIMS_CLASSES",
    "SIMS_CUTS",
    "SIMS_RANGE",
    "Task",
    "checked_label",
    "clip_sentiment",
    "decode_sentiment",
    "label_items",
    "sentiment_class",
    "shown_label",
    "sims_class",
]
