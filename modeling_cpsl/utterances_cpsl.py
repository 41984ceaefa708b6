"""What callers give the processor -> a list of words and of feature arrays, one for each utterance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


Features = Mapping[str, Sequence[np.ndarray | None]]  # by modality (n, d_m) for each utterance, None where missing


def split_text(words: Any, text: str | Sequence[str | None] | None) -> Any:
    """The words that stand between white space, where text is given instead of words.

    Raises:
        ValueError: Both are given, or something that is no list of strings.
    """
    if words is not None and not is_list(words):
        raise ValueError(f"words are {words!r}, expected a list of strings; a string goes in text=")
    if text is None:
        return words
    if words is not None:
        raise ValueError("words and text are both given; the words are taken from text, so give one of them")
    if isinstance(text, str):
        return text.split()
    if not is_list(text):
        raise ValueError(f"text is {text!r} ({type(text).__name__}), expected a string or a list of strings")
    for index, utterance in enumerate(text):
        if not isinstance(utterance, str | None):
            raise ValueError(f"utterance {index}: text is {utterance!r} ({type(utterance).__name__}), not a string")
    return [None if utterance is None else utterance.split() for utterance in text]


def is_list(value: Any) -> bool:
    """Whether a value is a list of things; a string is not."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def as_batch(words: Any, features: Mapping[str, Any]) -> tuple[list[Any], dict[str, list[Any]]]:
    """One utterance becomes a batch of one; words that are not there become None for each utterance.

    Args:
        words: Words, a list of them for each utterance, or None.
        features: (n, d_m) by modality, or a list of such arrays, in anything that has numbers.

    Raises:
        ValueError: Features of one number are given beside several utterances.
    """
    if words is None:
        single = max(map(_depth, features.values())) <= 2
    else:
        words = list(words)
        single = not words or isinstance(words[0], str)
    if single:
        return [words], {name: [values] for name, values in features.items()}
    for name, values in features.items():
        if not _depth(values):
            raise ValueError(f"{name}: features are {values!r}, expected an array for each utterance")
    batch = {name: list(values) for name, values in features.items()}
    return words or [None] * len(next(iter(batch.values()))), batch


def _depth(values: Any) -> int:
    """How many indices lead to a number, as far as the first entry that is there tells."""
    if isinstance(values, torch.Tensor) or (isinstance(values, np.ndarray) and values.dtype != object):
        return values.ndim
    if not isinstance(values, list | tuple | np.ndarray):
        return 0
    return 1 + next((_depth(value) for value in values if value is not None and not _is_empty_list(value)), 0)


def _is_empty_list(values: Any) -> bool:
    return isinstance(values, list) and not values


def as_arrays(name: str, values: Sequence[Any]) -> list[np.ndarray | None]:
    """The features of one modality as float32 arrays (n, d_m), one for each utterance, None where missing.

    Raises:
        ValueError: An utterance's are no numbers, or rows of different lengths; names it.
    """
    arrays: list[np.ndarray | None] = []
    for index, value in enumerate(values):
        if isinstance(value, torch.Tensor):
            value = value.detach().float().cpu()
        try:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, which is refused by name
                arrays.append(None if value is None else np.asarray(value, dtype=np.float32))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"utterance {index}: {name} features are no (words, size) numbers: {error}") from error
    return arrays


def is_missing(rows: np.ndarray | None) -> bool:
    """Whether an utterance lacks a modality: its features are None or have no row."""
    return rows is None or (rows.ndim > 0 and len(rows) == 0)


def row_counts(features: Features, size: int) -> list[int]:
    """Number of feature rows of each utterance, 0 where every modality is missing."""
    return [
        max((len(rows[index]) for rows in features.values() if not is_missing(rows[index])), default=0)
        for index in range(size)
    ]
