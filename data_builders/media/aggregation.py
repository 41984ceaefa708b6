"""From tracks to words: one row a word of what was measured every few milliseconds."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .contract import Track, Utterance


FACE_SHARE = "face_share"  # the share of a word's pictures in which there is a face
_NEAREST = 1.0  # seconds: a word in which nothing was measured takes the nearest measurement that is not farther off


class IntervalStatistics:
    """Mean and deviation of a track over intervals of time, collected block by block.

    A measurement counts for every interval that holds its time. An interval that holds none, because it is shorter
    than the distance of two measurements, takes the nearest one. Values that are NaN do not count.

    Args:
        intervals: Start and end of n intervals in seconds, of shape (n, 2); they may overlap.
        size: The number of values in a measurement.

    Attributes:
        measurements: How many measurements each interval holds, of shape (n,); 1 where it took the nearest.
        counts: How many of its values are defined, of shape (n, size).
    """

    def __init__(self, intervals: np.ndarray, size: int):
        count = len(intervals)
        self._intervals = intervals
        self._order = np.argsort(intervals[:, 0], kind="stable")
        self._starts = intervals[self._order, 0]
        self._latest_ends = np.maximum.accumulate(intervals[self._order, 1]) if count else np.empty(0)
        self.measurements = np.zeros(count, int)
        self.counts = np.zeros((count, size), int)
        self._sums = np.zeros((count, size))
        self._squares = np.zeros((count, size))
        self._distances = np.full(count, _NEAREST)
        self._nearest = np.full((count, size), np.nan)

    def add(self, track: Track) -> None:
        """Takes the next block of the track into account."""
        times, values = track
        if not len(times):
            return
        # Only intervals that begin before the block ends, and end (with the nearest one in mind) after it begins.
        first = np.searchsorted(self._latest_ends, times[0] - _NEAREST, side="left")
        last = np.searchsorted(self._starts, times[-1] + _NEAREST, side="right")
        for index in self._order[first:last]:
            start, end = self._intervals[index]
            inside = slice(np.searchsorted(times, start, side="left"), np.searchsorted(times, end, side="left"))
            if inside.start < inside.stop:
                self._add(index, values[inside])
            elif not self.measurements[index]:
                middle = (start + end) / 2
                nearest = int(np.abs(times - middle).argmin())
                if (distance := abs(times[nearest] - middle)) < self._distances[index]:
                    self._distances[index], self._nearest[index] = distance, values[nearest]

    def _add(self, index: Any, values: np.ndarray) -> None:
        defined = np.isfinite(values)
        known = np.where(defined, values, 0).astype(np.float64)
        self.measurements[index] += len(values)
        self.counts[index] += defined.sum(axis=0)
        self._sums[index] += known.sum(axis=0)
        self._squares[index] += (known**2).sum(axis=0)

    def finish(self) -> None:
        """Gives the intervals that hold no measurement the nearest one."""
        for index in np.flatnonzero((self.measurements == 0) & (self._distances < _NEAREST)):
            self._add(index, self._nearest[index][None])

    def means(self) -> np.ndarray:
        """The means, of shape (n, size), NaN where no value is defined."""
        return np.divide(self._sums, self.counts, out=np.full(self._sums.shape, np.nan), where=self.counts > 0)

    def deviations(self) -> np.ndarray:
        """The standard deviations, of shape (n, size), NaN where no value is defined."""
        means = self.means()
        squares = np.divide(self._squares, self.counts, out=np.full(means.shape, np.nan), where=self.counts > 0)
        return np.sqrt(np.maximum(squares - means**2, 0))


def collect(tracks: Iterable[Track], utterances: list[Utterance], size: int) -> list[IntervalStatistics]:
    """The statistics of a track over the words of all utterances, one after the other, and over the utterances."""
    words = np.array([[word.start, word.end] for utterance in utterances for word in utterance.words]).reshape(-1, 2)
    spans = np.array([[utterance.start, utterance.end] for utterance in utterances]).reshape(-1, 2)
    statistics = [IntervalStatistics(words, size), IntervalStatistics(spans, size)]
    for track in tracks:
        for collected in statistics:
            collected.add(track)
    for collected in statistics:
        collected.finish()
    return statistics


def voice_rows(tracks: Iterable[Track], utterances: list[Utterance], size: int) -> list[np.ndarray | None]:
    """Mean and deviation of a voice over each word.

    A value that is defined nowhere in a word, such as the pitch of a whispered one, is that of the utterance, and 0
    where the utterance has none either.

    Args:
        tracks: The voice.
        utterances: The words.
        size: The number of values that are measured.

    Returns:
        For each utterance an array of shape (number of words, 2 size), float32; None where no sound was measured.
    """
    words, spans = collect(tracks, utterances, size)
    of_words = np.concatenate([words.means(), words.deviations()], axis=1)
    of_spans = np.concatenate([spans.means(), spans.deviations()], axis=1)
    rows: list[np.ndarray | None] = []
    for index, values in enumerate(_by_utterance(of_words, utterances)):
        filled = np.where(np.isnan(values), of_spans[index], values)
        rows.append(np.nan_to_num(filled).astype(np.float32) if spans.counts[index].any() else None)
    return rows


def face_rows(tracks: Iterable[Track], utterances: list[Utterance], size: int) -> list[np.ndarray | None]:
    """Mean of a face over each word, and the share of the word's pictures in which there is a face.

    A word without a face has the mean of the utterance and a share of 0.

    Args:
        tracks: The face, NaN in pictures without one.
        utterances: The words.
        size: The number of values that are measured.

    Returns:
        For each utterance an array of shape (number of words, size + 1), float32; None where it shows no face.
    """
    words, spans = collect(tracks, utterances, size)
    shares = words.counts.max(axis=1, initial=0) / np.maximum(words.measurements, 1)
    of_words = np.concatenate([words.means(), shares[:, None]], axis=1)
    of_spans = np.concatenate([spans.means(), np.zeros((len(utterances), 1))], axis=1)
    rows: list[np.ndarray | None] = []
    for index, values in enumerate(_by_utterance(of_words, utterances)):
        filled = np.where(np.isnan(values), of_spans[index], values)
        rows.append(np.nan_to_num(filled).astype(np.float32) if spans.counts[index].any() else None)
    return rows


def _by_utterance(values: np.ndarray, utterances: list[Utterance]) -> list[np.ndarray]:
    borders = np.cumsum([len(utterance.words) for utterance in utterances])
    return np.split(values, borders[:-1]) if utterances else []
