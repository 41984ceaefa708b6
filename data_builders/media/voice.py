"""Measures voices: descriptors every 10 ms.

Every value is taken from short windows around its time, with NumPy and SciPy alone.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from .contract import SAMPLING_RATE, Track, VoiceExtractor
from .egemaps import EGEMAPS_FEATURES, egemaps
from .pitch import irregularity, pitch
from .spectrum import balance, cepstrum, formants, harmonic_level, mel_spectra, power_spectra


HOP = SAMPLING_RATE // 100  # samples between the frames
_BLOCK = 10 * SAMPLING_RATE  # samples that are measured at a time,
_CONTEXT = SAMPLING_RATE // 2  # with so many before and after them
_MFCC = 12
_SHORT = np.hamming(SAMPLING_RATE // 40)  # 25 ms, for the spectrum
_LONG = np.hanning(SAMPLING_RATE // 20)  # 50 ms, for pitch and harmonics: three cycles of the lowest voice

# The name and the unit of each value, and what it is; docs/features.md has the table.
VOICE_DESCRIPTORS = (
    ("f0", "semitones above 27.5 Hz", "pitch: the fundamental frequency; only of voiced sound"),
    ("f0_change", "semitones", "how far the pitch moves in 10 ms, up or down; voiced"),
    ("voicing", "0 to 1", "how periodic the sound is"),
    ("harmonics_to_noise", "dB", "energy of the periodic part over that of the rest; voiced"),
    ("jitter", "ratio", "difference in length of cycles that follow each other, over their length; voiced"),
    ("shimmer", "dB", "difference in amplitude of cycles that follow each other; voiced"),
    ("h1_h2", "dB", "first harmonic over the second: breathy above, pressed below; voiced"),
    ("h1_a3", "dB", "first harmonic over the one nearest to the third formant; voiced"),
    ("loudness", "sum over bands", "perceived loudness: power to 0.3 in each of 26 mel bands, added up"),
    ("loudness_change", "sum over bands", "change of loudness in 10 ms"),
    ("spectral_flux", "amplitude", "distance of the mel spectra of two frames that follow each other"),
    ("alpha_ratio", "dB", "energy of 1-5 kHz over that of 50-1000 Hz"),
    ("hammarberg_index", "dB", "strongest peak of 0-2 kHz over that of 2-5 kHz"),
    ("slope_0_500", "dB/kHz", "slope of the spectrum from 0 to 500 Hz"),
    ("slope_500_1500", "dB/kHz", "slope of the spectrum from 500 to 1500 Hz"),
    ("spectral_centroid", "Hz", "mean frequency of the spectrum"),
    ("spectral_spread", "Hz", "standard deviation of the frequency in the spectrum"),
    ("spectral_flatness", "dB", "geometric over arithmetic mean of the spectrum: 0 for white noise"),
    *(
        (f"formant_{n}", "Hz", "frequencies of the first three resonances of the vocal tract; voiced")
        for n in (1, 2, 3)
    ),
    *((f"formant_{n}_bandwidth", "Hz", "bandwidths of these resonances; voiced") for n in (1, 2, 3)),
    *(
        (f"mfcc_{n}", "log power", "shape of the spectrum: mel-frequency cepstral coefficients")
        for n in range(1, _MFCC + 1)
    ),
    *((f"mfcc_{n}_change", "log power", "changes of these coefficients in 10 ms") for n in range(1, _MFCC + 1)),
)
VOICE_FEATURES: tuple[str, ...] = tuple(name for name, _, _ in VOICE_DESCRIPTORS)


def voice_descriptors(samples: np.ndarray) -> np.ndarray:
    """Measures a piece of sound at once.

    Args:
        samples: Between -1 and 1, at 16 kHz, of shape (samples,).

    Returns:
        Values of shape (samples // 160, len(VOICE_FEATURES)); NaN where a value is not defined.
    """
    samples = samples.astype(np.float64)
    short = power_spectra(samples, HOP, _SHORT, 512)
    long = power_spectra(samples, HOP, _LONG, 2048)
    frequencies, voicing = pitch(long, _LONG)
    voiced = np.flatnonzero(~np.isnan(frequencies))
    periodic = np.clip(voicing, 1e-4, 1 - 1e-4)
    resonances = _where(voiced, np.concatenate(formants(short[voiced]), axis=1), len(short))
    cycles = np.stack(irregularity(samples, (voiced + 0.5) * HOP, frequencies[voiced]), axis=1)
    first = harmonic_level(long, frequencies)
    third_formant = np.maximum(np.rint(resonances[:, 2] / frequencies), 1) * frequencies
    semitones = 12 * np.log2(frequencies / 27.5)
    mel = mel_spectra(short)
    loudness = (mel**0.3).sum(axis=1)
    mfcc = cepstrum(mel, _MFCC)
    columns = [
        semitones,
        np.abs(_change(semitones)),
        voicing,
        np.where(np.isnan(frequencies), np.nan, 10 * np.log10(periodic / (1 - periodic))),
        *_where(voiced, cycles, len(short)).T,
        first - harmonic_level(long, 2 * frequencies),
        first - harmonic_level(long, third_formant),
        loudness,
        _change(loudness),
        np.linalg.norm(np.diff(np.sqrt(mel), axis=0, prepend=np.sqrt(mel[:1])), axis=1),
        *balance(short),
        *resonances.T,
        *mfcc.T,
        *_change(mfcc).T,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _where(frames: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Values of some of `count` frames in their places, NaN in the others."""
    placed = np.full((count, values.shape[1]), np.nan)
    placed[frames] = values
    return placed


def _change(values: np.ndarray) -> np.ndarray:
    """The slope of values over the five frames around each, by frame."""
    padded = np.concatenate([values[:1]] * 2 + [values] + [values[-1:]] * 2)
    near, far = padded[3:-1] - padded[1:-3], padded[4:] - padded[:-4]
    return (near + 2 * far) / 10


def _tracks(
    describe: Callable[[np.ndarray], np.ndarray], chunks: Iterable[np.ndarray], sampling_rate: int
) -> Iterator[Track]:
    """Measures sound in blocks of 10 s from its beginning, each with half a second more on both sides.

    The blocks do not depend on the chunks, so neither do the values.
    """
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(f"voices are measured at {SAMPLING_RATE} Hz, not at {sampling_rate}")
    held = np.zeros(0, np.float32)
    before = frames_done = 0

    def measure(samples: np.ndarray, count: int) -> Track:
        values = describe(samples)[before // HOP :][: count // HOP]
        return Track((frames_done + np.arange(len(values)) + 0.5) * HOP / SAMPLING_RATE, values)

    for chunk in chunks:
        held = np.concatenate([held, chunk])
        while len(held) >= before + _BLOCK + _CONTEXT:
            yield measure(held[: before + _BLOCK + _CONTEXT], _BLOCK)
            held = held[before + _BLOCK - _CONTEXT :]
            before, frames_done = _CONTEXT, frames_done + _BLOCK // HOP
    if len(held) >= before + HOP:
        yield measure(held, len(held) - before)


# By name: how a voice can be measured.
VOICES = {
    "cpsl": VoiceExtractor("cpsl-voice 1", VOICE_FEATURES, partial(_tracks, voice_descriptors)),
    "egemaps": VoiceExtractor("egemaps-v02 1", EGEMAPS_FEATURES, partial(_tracks, egemaps)),
}
