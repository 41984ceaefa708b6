"""From frames to words: every rule by which a word gets its feature row."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .files import DataError
from .rows import is_missing


_WORDS_AT_ONCE = 64


def align_frames(features: np.ndarray, intervals: np.ndarray, words: np.ndarray) -> np.ndarray:
    """One row a word: the mean of the frames weighted by their overlap with the word, or the nearest frame.

    Args:
        features: The features of k >= 1 frames, of shape (k, size).
        intervals: Start and end of the frames, of shape (k, 2).
        words: Start and end of n words in the same unit, of shape (n, 2).

    Returns:
        The features of the words, of shape (n, size).
    """
    rows = np.empty((len(words), features.shape[1]))
    middles = intervals.mean(axis=1)
    order = np.argsort(intervals[:, 0], kind="stable")
    starts, ends = intervals[order].T
    last_ends = np.maximum.accumulate(ends)
    for index in range(0, len(words), _WORDS_AT_ONCE):
        some = slice(index, index + _WORDS_AT_ONCE)
        word_starts, word_ends = words[some, :1], words[some, 1:]
        # Frames before these end too early to overlap with any of the words, and frames after them start too late.
        near = slice(np.searchsorted(last_ends, word_starts.min(), "right"), np.searchsorted(starts, word_ends.max()))
        weights = np.maximum(np.minimum(ends[near], word_ends) - np.maximum(starts[near], word_starts), 0)
        total = weights.sum(axis=1, keepdims=True)
        # Not a matrix product: BLAS starts threads for it, which cost more than the product itself, mostly in workers.
        rows[some] = np.einsum("nk,kd->nd", weights / np.where(total > 0, total, 1), features[order[near]])
        for alone in index + np.flatnonzero(total == 0):
            rows[alone] = features[np.abs(middles - words[alone].mean()).argmin()]
    return rows


def spread_frames(features: np.ndarray, count: int) -> np.ndarray:
    """One row a word where no times are known: the k frames are shared out evenly over `count` words.

    Word i has the window from i k / count to (i + 1) k / count, and its row is the mean of the frames in the window,
    each weighted by the part of it that lies inside. Where there are as many frames as words, each word gets one.

    Args:
        features: The features of k >= 1 frames, of shape (k, size).
        count: The number of words.

    Returns:
        The features of the words, of shape (count, size).
    """
    if len(features) == count:
        return features
    frames = np.arange(len(features))[:, None] + [0, 1]
    words = (np.arange(count)[:, None] + [0, 1]) * len(features) / count
    return align_frames(features, frames, words)


def share_out_frames(frames: Mapping[str, np.ndarray], num_words: int) -> dict[str, np.ndarray | None]:
    """One row a word of each modality by [`spread_frames`]; `None` for a modality without frames.

    Args:
        frames: The frames of each modality, of shape (k, size), any k.
        num_words: The number of words; where it is 0, because they are not known, there are as many rows as the
            longest modality has frames.
    """
    count = num_words or max(map(len, frames.values()), default=0)
    return {name: spread_frames(values, count) if len(values) else None for name, values in frames.items()}


def frame_array(values: Any, modality: str) -> np.ndarray | None:
    """The frames of a modality, given as an array or lists, of shape (k, size); `None` where there are none.

    Raises:
        DataError: They are not rows of numbers, all of one length.
    """
    if is_missing(values) or (isinstance(values, list) and not values):
        return None
    try:
        array = np.asarray(values)
        array = array.astype(np.float64) if array.dtype == object else array
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.shape[1:] == (0,):
        return None
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise DataError(f"{modality} is not rows of numbers, all of one length")
    return array


def zero_non_finite(values: np.ndarray) -> tuple[np.ndarray, int]:
    """The values with 0 in place of those that are not finite, which would spoil a mean, and how many these were."""
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    return (np.where(bad, 0, values) if count else values), count


def unpadded_span(*arrays: np.ndarray) -> slice:
    """Where arrays of equally many rows are not padding: from the first to the last row with a value other than 0."""
    used = np.flatnonzero(np.any([(array != 0).any(axis=1) for array in arrays], axis=0))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)


def true_frames(values: np.ndarray, length: Any) -> np.ndarray:
    """The frames of a padded array without the padding.

    Args:
        values: The padded array, of shape (padded length, size).
        length: The number of true frames, or `None` where only the zeros of the padding show it.

    Returns:
        The first `length` rows, or the last ones where the array is padded on the left.

    Raises:
        DataError: The length is not a whole number.
    """
    span = unpadded_span(values)
    if length is None:
        return values[span]
    if np.ndim(length) or np.asarray(length).dtype.kind not in "iu" or length < 0:
        raise DataError(f"{str(length)[:80]} is not a number of frames")
    length = int(length)
    padded_left = span.stop > length and span.start >= len(values) - length
    return values[-length:] if padded_left else values[:length]


def unpadded_frames(frames: Mapping[str, np.ndarray], lengths: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The true frames of each modality of a sample.

    Where all modalities have equally many padded rows they are aligned with each other, and padding is what is zero in
    all of them at either end. Otherwise each modality is padded by itself, see [`true_frames`].

    Args:
        frames: The padded arrays by modality, of shape (padded length, size).
        lengths: The number of true frames by modality, where it is known.

    Raises:
        DataError: A length is not a whole number.
    """
    if len(frames) > 1 and len(set(map(len, frames.values()))) == 1:
        span = unpadded_span(*frames.values())
        return {name: values[span] for name, values in frames.items()}
    return {name: true_frames(values, lengths.get(name)) for name, values in frames.items()}
