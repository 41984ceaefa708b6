import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from interval_cases import intervals, overlap

from data_builders.alignment import align_frames
from data_builders.segments import WORDS_PER_SEGMENT, assign_words, cut_at_pauses, frames_of_segment


def reference_owner(word, segments):
    """The rule, read aloud: the segment that holds the midpoint; ties: most overlap, then the earlier."""
    middle = (word[0] + word[1]) / 2
    holding = [i for i, (start, end) in enumerate(segments) if start <= middle <= end and end > start]
    return min(holding, key=lambda i: (-overlap(word, segments[i]), segments[i][0], i), default=None)


@settings(max_examples=200, deadline=None)
@given(words=st.lists(intervals, max_size=12), segments=st.lists(intervals, min_size=1, max_size=6))
def test_words_go_to_the_segment_that_holds_their_midpoint(words, segments):
    found = assign_words(np.array(words).reshape(-1, 2), np.array(segments))
    owners = [reference_owner(word, segments) for word in words]
    for index, (mine, (start, end)) in enumerate(zip(found, segments, strict=True)):
        expected = [position for position, owner in enumerate(owners) if owner == index]
        if not expected and end > start:
            expected = [p for p, word in enumerate(words) if start <= sum(word) / 2 <= end]
        assert mine.tolist() == expected


def test_memory_is_bounded_by_words_and_frames_and_not_by_their_product():
    """A file of 100 kB took 7 GB."""
    times = np.stack([np.arange(3_000), np.arange(1, 3_001)], axis=1) / 4
    tracemalloc.start()
    rows = align_frames(np.arange(3_000.0)[:, None], times, times)
    nested = np.repeat([[0.0, 750.0]], 3_000, axis=0)  # the words of one are shared by all
    shared = [sum(map(len, assign_words(times, segments))) for segments in (times[::2], nested)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows[:, 0].tolist() == list(range(3_000)) and shared == [1_500, 9_000_000] and peak < 4e6


def test_frames_are_cut_at_the_borders_of_their_segment():
    features = np.array([[1.0], [2.0], [4.0]])
    frames = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    segments = np.array([[0.0, 1.5], [1.5, 3.0]])
    inside, times = frames_of_segment(features, frames, segments, 0)
    assert inside.tolist() == [[1.0], [2.0]] and times.tolist() == [[0.0, 1.0], [1.0, 1.5]]
    # The word reaches into the next segment, whose frames must not count: (0.5 * 1 + 0.5 * 2) / 1.
    assert align_frames(inside, times, np.array([[0.5, 2.4]])).tolist() == [[1.5]]
    assert frames_of_segment(features, frames, np.array([[5.0, 6.0]]), 0) is None


def test_one_row_a_segment_is_taken_row_by_row():
    segments = np.array([[0.0, 2.0], [0.0, 1.0], [0.5, 3.0]])
    for index in range(3):
        inside, _ = frames_of_segment(np.array([[1.0], [2.0], [3.0]]), segments.copy(), segments, index)
        assert inside.tolist() == [[index + 1.0]]


def test_a_video_is_cut_at_its_longest_pauses():
    starts = np.arange(40) + np.where(np.arange(40) >= 25, 0.5, 0) + np.where(np.arange(40) >= 10, 0.2, 0)
    words = np.stack([starts, starts + 0.9], axis=1)
    assert cut_at_pauses(words).tolist() == [[0, words[24, 1]], [words[25, 0], words[39, 1]]]
    assert cut_at_pauses(words[:WORDS_PER_SEGMENT]).tolist() == [[0, words[WORDS_PER_SEGMENT - 1, 1]]]
    assert cut_at_pauses(words[:0]).shape == (0, 2)


@settings(deadline=None)
@given(words=st.lists(intervals, max_size=80).map(sorted))
def test_segments_of_pauses_cover_the_words_and_are_short(words):
    words = np.array(words, float).reshape(-1, 2)
    segments = cut_at_pauses(words)
    assert all(any(start <= word[0] <= word[1] <= end for start, end in segments) for word in words)
    assert len(segments) >= len(words) / WORDS_PER_SEGMENT
    without_pauses = np.stack([np.arange(80), np.arange(1, 81)], axis=1)
    assert len(cut_at_pauses(without_pauses)) == 4  # halved and halved again, and not cut word by word
