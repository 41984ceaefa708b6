"""The task: what a sentiment label is, and what a predicted sentiment means in words."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch


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

Clippable = TypeVar("Clippable", np.ndarray, torch.Tensor)


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


def checked_label(label: Any) -> float:
    """The sentiment that a label states.

    Args:
        label: A number, or what `float` makes one of.

    Raises:
        ValueError: It is not a number, or not one in the range.
    """
    low, high = SENTIMENT_RANGE
    try:
        value = float(label)
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if not low <= value <= high:
        given = repr(label) if isinstance(label, str) else str(label)
        raise ValueError(f"label {given} is not in [{low:g}, {high:g}]; correct it or leave the sample out")
    return value


def decode_sentiment(logits: torch.Tensor | np.ndarray | Sequence[float]) -> list[dict[str, Any]]:
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


def label_vector(labels: torch.Tensor, size: int) -> torch.Tensor:
    """(B,) float32 labels from (B,) or (B, 1); other shapes would broadcast against other samples' logits."""
    if labels.shape == (size, 1):
        labels = labels.squeeze(-1)
    if labels.shape != (size,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected {(size,)}, one per sample")
    return labels.float()


__all__ = [
    "SENTIMENT_CLASSES",
    "SENTIMENT_RANGE",
    "checked_label",
    "clip_sentiment",
    "decode_sentiment",
    "label_vector",
    "sentiment_class",
]
