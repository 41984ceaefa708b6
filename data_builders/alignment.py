"""From frames to words: every rule by which a word gets its feature row."""

import numpy as np


def overlaps(intervals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What each of n intervals shares with each of m others: `(n, m)`, zero or more, in the intervals' unit."""
    first_end = np.minimum(intervals[:, None, 1], others[None, :, 1])
    last_start = np.maximum(intervals[:, None, 0], others[None, :, 0])
    return np.maximum(first_end - last_start, 0)


def align_frames(features: np.ndarray, intervals: np.ndarray, words: np.ndarray) -> np.ndarray:
    """One row a word: the mean of the frames weighted by their overlap with the word, or the nearest frame.

    Args:
        features: `(k, size)`, k >= 1.
        intervals: `(k, 2)` start and end of the frames.
        words: `(n, 2)` start and end of the words.

    Returns:
        `(n, size)`.
    """
    weights = overlaps(words, intervals)
    distance = np.abs(words.mean(axis=1)[:, None] - intervals.mean(axis=1)[None, :])
    alone = weights.sum(axis=1) == 0
    weights[alone, distance[alone].argmin(axis=1)] = 1
    # Not a matrix product: BLAS starts threads for one, and they cost more than the product, most of all in workers.
    return np.einsum("nk,kd->nd", weights / weights.sum(axis=1, keepdims=True), features)


def spread_frames(features: np.ndarray, count: int) -> np.ndarray:
    """One row a word where no times are known: the k frames are shared out evenly over `count` words.

    Word i has the window from i k / count to (i + 1) k / count, and its row is the mean of the frames in the window,
    each weighted by the part of it that lies within. As many frames as words are taken one each.

    Args:
        features: `(k, size)`, k >= 1.
        count: number of words.

    Returns:
        `(count, size)`.
    """
    if len(features) == count:
        return features
    frames = np.arange(len(features))[:, None] + [0, 1]
    words = (np.arange(count)[:, None] + [0, 1]) * len(features) / count
    return align_frames(features, frames, words)


def zero_non_finite(values: np.ndarray) -> tuple[np.ndarray, int]:
    """The values with 0 in place of what is not finite, before they reach a mean, and how many those were."""
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    return (np.where(bad, 0, values) if count else values), count


def unpadded_span(*arrays: np.ndarray) -> slice:
    """The rows from the first to the last one that is not all zero in every array: padding on either side is cut."""
    used = np.flatnonzero(np.any([(array != 0).any(axis=1) for array in arrays], axis=0))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)


def true_frames(values: np.ndarray, length: int | None) -> np.ndarray:
    """The frames of a padded array.

    Args:
        values: `(padded length, size)`.
        length: how many frames are true, or None where only the padding's zeros tell.

    Returns:
        The first `length` rows, or the last ones where the array is padded on the left.
    """
    span = unpadded_span(values)
    if length is None:
        return values[span]
    padded_left = span.stop > length and span.start >= len(values) - length
    return values[-length:] if padded_left else values[:length]
