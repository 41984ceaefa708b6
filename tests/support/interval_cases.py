"""Intervals of words, frames and segments, and how long two of them overlap."""

from hypothesis import strategies as st


# A grid of quarters makes ties and touching borders common.
intervals = st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda pair: (pair[0] / 4, (pair[0] + pair[1]) / 4))


def overlap(one, other):
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
