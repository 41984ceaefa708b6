"""From frames to words: every rule by which a word gets its feature row."""

import numpy as np


def overlaps(intervals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How long each of n intervals overlaps with each of m others, of shape (n, m), in the unit of the intervals.

    Args:
        intervals: Start and end, of shape (n, 2).
        others: Start and end, of shape (m, 2).
    """
    first_end = np.minimum(intervals[:, None, 1], others[None, :, 1])
    last_start = np.maximum(intervals[:, None, 0], others[None, :, 0])
    return np.maximum(first_end - last_start, 0)


def align_frames(features: np.ndarray, intervals: np.ndarray, words: np.ndarray) -> np.ndarray:
    """One row a word: the mean of the frames weighted by their overlap with the word, or the nearest frame.

    Args:
        features: The features of k >= 1 frames, of shape (k, size).
        intervals: Start and end of the frames, of shape (k, 2).
        words: Start and end of n words in the same unit, of shape (n, 2).

    Returns:
        The features of the words, of shape (n, size).
    """
    weights = overlaps(words, intervals)
    distance = np.abs(words.mean(axis=1)[:, None] - intervals.mean(axis=1)[None, :])
    without_frame = weights.sum(axis=1) == 0
    weights[without_frame, distance[without_frame].argmin(axis=1)] = 1
    # Not a matrix product: BLAS starts threads for it, which cost more than the product itself, mostly in workers.
    return np.einsum("nk,kd->nd", weights / weights.sum(axis=1, keepdims=True), features)


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


def zero_non_finite(values: np.ndarray) -> tuple[np.ndarray, int]:
    """The values with 0 in place of those that are not finite, which would spoil a mean, and how many these were."""
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    return (np.where(bad, 0, values) if count else values), count


def unpadded_span(*arrays: np.ndarray) -> slice:
    """Where arrays of equally many rows are not padding: from the first to the last row with a value other than 0."""
    used = np.flatnonzero(np.any([(array != 0).any(axis=1) for array in arrays], axis=0))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)


def true_frames(values: np.ndarray, length: int | None) -> np.ndarray:
    """The frames of a padded array without the padding.

    Args:
        values: The padded array, of shape (padded length, size).
        length: The number of true frames, or `None` where only the zeros of the padding show it.

    Returns:
        The first `length` rows, or the last ones where the array is padded on the left.
    """
    span = unpadded_span(values)
    if length is None:
        return values[span]
    padded_left = span.stop > length and span.start >= len(values) - length
    return values[-length:] if padded_left else values[:length]
