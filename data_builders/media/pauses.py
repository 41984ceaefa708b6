"""Cuts sound into pieces at its pauses."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from .contract import SAMPLING_RATE


_WINDOW = SAMPLING_RATE // 5  # a pause is the quietest fifth of a second


class Piece(NamedTuple):
    """A piece of sound: where it begins, in seconds, and its samples, of shape (n,)."""

    start: float
    samples: np.ndarray

    @property
    def end(self) -> float:
        """Where it ends, in seconds."""
        return self.start + len(self.samples) / SAMPLING_RATE


def pieces_between_pauses(chunks: Iterable[np.ndarray], *, seconds: float = 30) -> Iterator[Piece]:
    """Cuts sound into pieces of at most `seconds`.

    A piece ends in the middle of the quietest fifth of a second of its second half.

    Args:
        chunks: Sound at `SAMPLING_RATE`, of shape (n,) each.
        seconds: The greatest length of a piece.

    Yields:
        The pieces; none is lost and none overlaps.
    """
    longest = int(seconds * SAMPLING_RATE)
    waiting = np.zeros(0, np.float32)
    start = 0
    for chunk in chunks:
        waiting = np.concatenate([waiting, chunk])
        while len(waiting) > longest:
            cut = longest // 2 + _quietest(waiting[longest // 2 : longest])
            yield Piece(start / SAMPLING_RATE, waiting[:cut])
            waiting = waiting[cut:]
            start += cut
    if len(waiting):
        yield Piece(start / SAMPLING_RATE, waiting)


def _quietest(samples: np.ndarray) -> int:
    """The middle of the quietest window; of equally quiet ones, as in digital silence, the last."""
    energy = np.concatenate([[0], np.cumsum(samples.astype(np.float64) ** 2)])
    windows = np.maximum(energy[_WINDOW:] - energy[:-_WINDOW], 1e-9)
    return len(windows) - 1 - int(windows[::-1].argmin()) + _WINDOW // 2
