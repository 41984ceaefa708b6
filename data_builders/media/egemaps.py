"""eGeMAPS, a set of voice descriptors of the field, as openSMILE measures it.

F. Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for voice research and affective computing"
(2016). The licence of openSMILE allows research only; so it is an extra of its own.
"""

import numpy as np

from . import extras
from .contract import SAMPLING_RATE


_OF_VOICE = "_sma3nz"  # how the names of what only a voice has end; openSMILE fills it in elsewhere
_F0 = "F0semitoneFrom27.5Hz" + _OF_VOICE
EGEMAPS_FEATURES = (
    "Loudness_sma3",
    "alphaRatio_sma3",
    "hammarbergIndex_sma3",
    "slope0-500_sma3",
    "slope500-1500_sma3",
    "spectralFlux_sma3",
    *(f"mfcc{n}_sma3" for n in range(1, 5)),
    _F0,
    *(
        f"{name}{_OF_VOICE}"
        for name in ("jitterLocal", "shimmerLocaldB", "HNRdBACF", "logRelF0-H1-H2", "logRelF0-H1-A3")
    ),
    *(f"F{n}{what}{_OF_VOICE}" for n in (1, 2, 3) for what in ("frequency", "bandwidth", "amplitudeLogRelF0")),
)
# Samples of silence around the sound: openSMILE's frames of 20 ms then lie around those of 10 ms, and it measures the
# last ones, for whose pitch it looks 60 ms ahead.
_SILENCE = (SAMPLING_RATE // 200, SAMPLING_RATE // 10)


def egemaps(samples: np.ndarray) -> np.ndarray:
    """Measures a piece of sound at once.

    Args:
        samples: Between -1 and 1, at 16 kHz, of shape (samples,).

    Returns:
        The low-level descriptors of eGeMAPSv02, of shape (samples // 160, len(EGEMAPS_FEATURES)), float32; NaN where
        a value is not defined.

    Raises:
        DataError: The package opensmile is not installed.
    """
    opensmile = extras.load("opensmile", extra="opensmile")
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    table = smile.process_signal(np.pad(samples, _SILENCE), SAMPLING_RATE)
    values = table[list(EGEMAPS_FEATURES)].to_numpy(np.float32, copy=True)[: len(samples) * 100 // SAMPLING_RATE]
    of_voice = [name.endswith(_OF_VOICE) for name in EGEMAPS_FEATURES]
    unvoiced = values[:, EGEMAPS_FEATURES.index(_F0)] == 0
    values[np.ix_(unvoiced, of_voice)] = np.nan
    return values
