"""The spectrum of a voice: its balance, its cepstrum, its formants and its first harmonics."""

import numpy as np
from scipy import fft

from .contract import SAMPLING_RATE


_FLOOR = 1e-10  # a power of -100 dB, added everywhere, so that logarithms of silence exist
_MEL_BANDS = 26
_FORMANT_RANGE = 5500.0  # Hz; five formants are expected below it
_PREDICTION_ORDER = 10  # two for each of them
_PREEMPHASIS = 0.97
_WIDEST_FORMANT = 700.0  # Hz of bandwidth; what is wider is no resonance


def power_spectra(samples: np.ndarray, hop: int, window: np.ndarray, size: int) -> np.ndarray:
    """The power spectra of frames whose middles are those of the hops; what is beyond the ends is silence.

    Args:
        samples: Of shape (samples,).
        hop: The distance of the frames, in samples.
        window: The window of a frame.
        size: The size of the FFT.

    Returns:
        Spectra of shape (samples // hop, size / 2 + 1), in which white noise has its variance.
    """
    count = len(samples) // hop
    padded = np.pad(samples, (len(window) // 2 - hop // 2, len(window)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(window))[::hop][:count]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * window
    return np.abs(fft.rfft(frames, size, axis=1)) ** 2 / (window**2).sum() + _FLOOR


def bin_frequencies(power: np.ndarray) -> np.ndarray:
    """The frequencies of the bins of power spectra, in Hz."""
    return np.linspace(0, SAMPLING_RATE / 2, power.shape[1])


def decibels(power: np.ndarray) -> np.ndarray:
    """A power in dB."""
    return 10 * np.log10(power)


def mel_spectra(power: np.ndarray) -> np.ndarray:
    """Power spectra summed within triangular bands of equal width on the mel scale, shape (n, bands)."""
    top = 2595 * np.log10(1 + SAMPLING_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, _MEL_BANDS + 2) / 2595) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequencies = bin_frequencies(power)
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return power @ np.clip(np.minimum(rising, falling), 0, None).T


def cepstrum(mel: np.ndarray, size: int) -> np.ndarray:
    """The mel-frequency cepstral coefficients 1 to `size`, shape (n, size)."""
    return fft.dct(np.log(mel), axis=1, norm="ortho")[:, 1 : size + 1]


def balance(power: np.ndarray) -> list[np.ndarray]:
    """How the energy is spread over frequencies.

    Returns:
        Columns of shape (n,): the alpha ratio (dB), the Hammarberg index (dB), the slopes of 0-500 and of 500-1500 Hz
        (dB per kHz), the centroid and the spread (Hz) and the flatness (dB).
    """
    frequencies = bin_frequencies(power)

    def band(low: float, high: float) -> np.ndarray:
        return power[:, (frequencies >= low) & (frequencies < high)]

    def slope(low: float, high: float) -> np.ndarray:
        inside = frequencies[(frequencies >= low) & (frequencies < high)]
        distances = inside - inside.mean()
        return 1000 * decibels(band(low, high)) @ distances / (distances @ distances)

    shares = power / power.sum(axis=1, keepdims=True)
    centroid = shares @ frequencies
    return [
        decibels(band(1000, 5000).sum(axis=1) / band(50, 1000).sum(axis=1)),
        decibels(band(0, 2000).max(axis=1) / band(2000, 5000).max(axis=1)),
        slope(0, 500),
        slope(500, 1500),
        centroid,
        np.sqrt(np.maximum(shares @ frequencies**2 - centroid**2, 0)),
        decibels(power).mean(axis=1) - decibels(power.mean(axis=1)),
    ]


def formants(power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frequencies and the bandwidths of the first three formants, by linear prediction from the spectrum.

    The spectrum below 5.5 kHz alone is predicted (J. Makhoul, "Spectral linear prediction", 1975).

    Args:
        power: Power spectra with a voice, of shape (n, bins).

    Returns:
        Frequencies and bandwidths in Hz, both of shape (n, 3); NaN where fewer resonances are found.
    """
    kept = power[:, bin_frequencies(power) <= _FORMANT_RANGE]
    angles = np.linspace(0, np.pi, kept.shape[1])
    emphasis = 1 + _PREEMPHASIS**2 - 2 * _PREEMPHASIS * np.cos(angles)
    coefficients = _linear_prediction(fft.irfft(kept * emphasis, axis=1)[:, : _PREDICTION_ORDER + 1])
    companions = np.zeros((len(power), _PREDICTION_ORDER, _PREDICTION_ORDER))
    companions[:, 0] = -coefficients[:, 1:]
    companions[:, np.arange(1, _PREDICTION_ORDER), np.arange(_PREDICTION_ORDER - 1)] = 1
    roots = np.linalg.eigvals(companions)
    frequencies = np.angle(roots) * _FORMANT_RANGE / np.pi
    bandwidths = -2 * np.log(np.abs(roots) + 1e-9) * _FORMANT_RANGE / np.pi
    is_formant = (frequencies > 90) & (frequencies < _FORMANT_RANGE - 50) & (bandwidths < _WIDEST_FORMANT)
    frequencies = np.where(is_formant, frequencies, np.inf)
    lowest = np.argsort(frequencies, axis=1)[:, :3]
    frequencies, bandwidths = (np.take_along_axis(values, lowest, axis=1) for values in (frequencies, bandwidths))
    found = np.isfinite(frequencies)
    return np.where(found, frequencies, np.nan), np.where(found, bandwidths, np.nan)


def _linear_prediction(correlation: np.ndarray) -> np.ndarray:
    """Levinson's recursion for each row of autocorrelations; the first coefficient is 1."""
    coefficients = np.zeros_like(correlation)
    coefficients[:, 0] = 1
    error = correlation[:, 0] * (1 + 1e-9)
    for order in range(1, correlation.shape[1]):
        known = coefficients[:, :order]
        reflection = -(known * correlation[:, order:0:-1]).sum(axis=1) / error
        coefficients[:, 1 : order + 1] += reflection[:, None] * known[:, ::-1]
        error = error * (1 - reflection**2)
    return coefficients


def harmonic_level(power: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """The level in dB of the strongest bin around a frequency in each spectrum, shape (n,); NaN where it is NaN."""
    step = SAMPLING_RATE / 2 / (power.shape[1] - 1)
    bins = np.rint(np.nan_to_num(frequencies) / step).astype(np.int64)
    around = np.clip(bins[:, None] + np.arange(-2, 3), 0, power.shape[1] - 1)
    levels = decibels(np.take_along_axis(power, around, axis=1).max(axis=1))
    return np.where(np.isnan(frequencies), np.nan, levels)
