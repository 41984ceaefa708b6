"""Pitch, and how regular a voice is: what is measured on its cycles.

The pitch is that of P. Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise
ratio of a sampled sound" (1993): peaks of the autocorrelation of a windowed frame, divided by that of the window, and
the best path through them. The costs are those of the paper's author's own program for speech.
"""

import numpy as np
from scipy import fft

from .contract import SAMPLING_RATE


LOWEST, HIGHEST = 60.0, 600.0  # Hz: from a low male voice to an excited high one
_CANDIDATES = 5
_UNVOICED = 0.45  # an autocorrelation below this is no voice
_OCTAVE_COST = 0.01
_OCTAVE_JUMP_COST = 0.35
_VOICING_CHANGE_COST = 0.14
_FLOOR = 1e-8  # a power of -80 dB: what is weaker is no voice
_POINTS = 64  # to which a cycle is resampled
_SHIFTS = 8  # by how many of them two cycles that follow each other may differ in length


def pitch(power: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The fundamental frequency of each frame, and how periodic it is.

    Args:
        power: The power spectra of the frames, of shape (n, bins), by an FFT of at least twice the window's length.
        window: The window of the frames, at least three of the longest cycles long.

    Returns:
        The frequencies in Hz, NaN where there is no voice, and the strengths of the periodicity, from 0 to 1; both
        have the shape (n,).
    """
    lags, heights = _peaks(power, window)
    frames = np.arange(len(power))
    scores = np.where(heights > 0, heights - _OCTAVE_COST * np.log2(LOWEST * lags / SAMPLING_RATE), -1e9)
    best = np.argpartition(-scores, _CANDIDATES, axis=1)[:, :_CANDIDATES]
    frequencies = SAMPLING_RATE / np.take_along_axis(lags, best, axis=1)
    path = _best_path(frequencies, np.take_along_axis(scores, best, axis=1))
    voiced = path >= 0
    strengths = np.where(voiced, heights[frames, best[frames, path]], heights.max(axis=1, initial=0))
    return np.where(voiced, frequencies[frames, path], np.nan), strengths


def _peaks(power: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the autocorrelation has peaks, between samples, and how high they are; 0 where there is none."""
    size = 2 * (power.shape[1] - 1)
    first, last = int(SAMPLING_RATE / HIGHEST), int(SAMPLING_RATE / LOWEST) + 1
    of_window = fft.irfft(np.abs(fft.rfft(window, size)) ** 2)[: last + 2]
    correlation = fft.irfft(power, axis=1)[:, : last + 2]
    correlation = correlation / (correlation[:, :1] + _FLOOR * of_window[0]) / (of_window / of_window[0])
    before, here, after = (correlation[:, first + shift : last + 1 + shift] for shift in (-1, 0, 1))
    is_peak = (here > before) & (here >= after) & (here > 0)
    offsets, heights = parabola(before, here, after)
    heights = np.where(heights > 1, 1 / np.maximum(heights, 1), heights)  # as the paper has it: noise in the division
    return np.arange(first, last + 1) + np.where(is_peak, offsets, 0), np.where(is_peak, heights, 0)


def parabola(before: np.ndarray, here: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place, relative to the middle one, and the height of the peak through three points at distances of 1."""
    curvature = np.minimum(before - 2 * here + after, -1e-12)
    offset = np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)
    return offset, here - 0.25 * (before - after) * offset


def _best_path(frequencies: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """For each frame the candidate on the best path through all frames (Viterbi), or -1 where it has no voice."""
    count = len(scores)
    voiced = np.arange(_CANDIDATES + 1) > 0
    change = _VOICING_CHANGE_COST * (voiced[:, None] != voiced)
    jump = _OCTAVE_JUMP_COST * (voiced[:, None] & voiced)
    scores = np.concatenate([np.full((count, 1), _UNVOICED), scores], axis=1)
    octaves = np.concatenate([np.zeros((count, 1)), np.log2(frequencies)], axis=1)
    costs = change + jump * np.abs(octaves[:-1, :, None] - octaves[1:, None, :])
    came_from = np.zeros(scores.shape, np.int64)
    totals = scores[:1].sum(axis=0)
    for frame in range(1, count):
        reached = totals[:, None] - costs[frame - 1]
        came_from[frame] = reached.argmax(axis=0)
        totals = reached.max(axis=0) + scores[frame]
    path = np.zeros(count, np.int64)
    path[-1] = totals.argmax()
    for frame in range(count - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return path - 1


def irregularity(samples: np.ndarray, centres: np.ndarray, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much the three cycles around a time differ from each other.

    Args:
        samples: A voice, of shape (samples,).
        centres: Times with a voice, in samples, of shape (n,).
        frequencies: The fundamental frequencies there, in Hz, of shape (n,).

    Returns:
        The jitter, which is the difference in length of two cycles that follow each other, relative to their length
        (NaN where the cycles are too different to be matched), and the shimmer, the mean difference of their
        amplitudes in dB; both have the shape (n,).
    """
    phases = np.arange(-3 * _POINTS // 2 - _SHIFTS, 3 * _POINTS // 2 + _SHIFTS) / _POINTS
    places = centres[:, None] + SAMPLING_RATE / frequencies[:, None] * phases
    wave = np.interp(places, np.arange(len(samples)), samples)
    jitter = np.abs(_excess_length(wave, 1) - _excess_length(wave, 0)) / _POINTS
    cycles = wave[:, _SHIFTS:-_SHIFTS].reshape(-1, 3, _POINTS)
    levels = 20 * np.log10(np.ptp(cycles, axis=2) + 1e-5)
    return jitter, np.abs(np.diff(levels, axis=1)).mean(axis=1)


def _excess_length(wave: np.ndarray, cycle: int) -> np.ndarray:
    """By how many points a cycle is longer than the pitch says: where the next one resembles it most."""

    def unit(start: int) -> np.ndarray:
        points = wave[:, start : start + _POINTS]
        points = points - points.mean(axis=1, keepdims=True)
        return points / (np.linalg.norm(points, axis=1, keepdims=True) + 1e-9)

    start = _SHIFTS + cycle * _POINTS
    here = unit(start)
    shifts = range(-_SHIFTS, _SHIFTS + 1)
    similarity = np.stack([(here * unit(start + _POINTS + shift)).sum(axis=1) for shift in shifts], axis=1)
    best = similarity.argmax(axis=1)
    inner = np.clip(best, 1, 2 * _SHIFTS - 1)
    frames = np.arange(len(wave))
    offset, _ = parabola(*(similarity[frames, inner + shift] for shift in (-1, 0, 1)))
    return np.where(best == inner, inner - _SHIFTS + offset, np.nan)
