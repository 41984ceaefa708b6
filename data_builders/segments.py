"""What belongs to a segment of a video: which words, and which frames; and segments where nobody has made any."""

from collections.abc import Iterator

import numpy as np


WORDS_PER_SEGMENT = 30  # at most, where pauses decide: fewer subwords than the 50 that models usually read


def cut_at_pauses(words: np.ndarray) -> np.ndarray:
    """Segments of a video: whatever has more than `WORDS_PER_SEGMENT` words is cut in two at its longest pause.

    Args:
        words: Start and end of n words in seconds, in the order in which they are spoken, of shape (n, 2).

    Returns:
        Start and end of m segments in seconds, of shape (m, 2).
    """
    pauses = words[1:, 0] - np.maximum.accumulate(words[:, 1])[:-1]
    segments, pieces = [], [(0, len(words))]
    while pieces:
        first, last = pieces.pop()
        if last - first > WORDS_PER_SEGMENT:
            inside = pauses[first : last - 1]
            longest = np.flatnonzero(inside == inside.max())
            cut = first + 1 + int(longest[len(longest) // 2])
            pieces += [(cut, last), (first, cut)]
        elif first < last:
            segments.append([words[first, 0], words[first:last, 1].max()])
    return np.array(segments).reshape(-1, 2)


def assign_words(words: np.ndarray, segments: np.ndarray) -> Iterator[np.ndarray]:
    """The words of each segment.

    A word belongs to the segment that holds its midpoint; of several, to the one that it overlaps most, then to the
    one that starts earlier. A segment that lies within another and would be left without words shares those whose
    midpoint it holds.

    Args:
        words: Start and end of n words in seconds, of shape (n, 2).
        segments: Start and end of m segments in seconds, of shape (m, 2); they may overlap.

    Yields:
        For each segment the indices of its words, in the order of the words.
    """
    middles = words.mean(axis=1)
    by_start = np.argsort(segments[:, 0], kind="stable")
    starts, ends = segments[by_start].T
    # Only segments from `first` to `last` can hold a midpoint: those before end and those after start too early.
    first = np.searchsorted(np.maximum.accumulate(ends), middles, side="left")
    last = np.searchsorted(starts, middles, side="right")
    owner = np.full(len(words), -1)
    for index, (start, end) in enumerate(words):
        near = slice(first[index], last[index])
        shared = np.maximum(np.minimum(ends[near], end) - np.maximum(starts[near], start), 0)
        shared[(ends[near] < middles[index]) | (ends[near] <= starts[near])] = -1
        if (shared >= 0).any():
            owner[index] = by_start[near][shared.argmax()]
    order = np.argsort(owner, kind="stable")
    borders = np.searchsorted(owner[order], np.arange(len(segments) + 1))
    for index, (start, end) in enumerate(segments):
        owned = order[borders[index] : borders[index + 1]]
        yield owned if len(owned) or end <= start else np.flatnonzero((start <= middles) & (middles <= end))


def frames_of_segment(
    features: np.ndarray, intervals: np.ndarray, segments: np.ndarray, index: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The frames within one segment, cut at its borders.

    A sequence that has one row a segment is taken row by row, because segments overlap and the row of a neighbour
    does not belong to this segment.

    Args:
        features: The frames of a video, of shape (n, size).
        intervals: Their start and end in seconds, of shape (n, 2).
        segments: Start and end of the video's segments in seconds, of shape (m, 2).
        index: Which segment is wanted.

    Returns:
        Features of shape (k, size) and intervals of shape (k, 2), or `None` where the segment has no frame.
    """
    if intervals.shape == segments.shape and np.allclose(intervals, segments, rtol=0, atol=1e-3):
        return features[[index]], segments[[index]]
    start, end = segments[index]
    inside = (intervals[:, 0] < end) & (intervals[:, 1] > start)
    inside |= (intervals[:, 0] == intervals[:, 1]) & (start <= intervals[:, 0]) & (intervals[:, 0] <= end)
    if not inside.any():
        return None
    return features[inside], np.clip(intervals[inside], start, end)
