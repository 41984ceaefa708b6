"""Measures voices: descriptors every 10 ms."""

from collections.abc import Iterable, Iterator

import numpy as np

from .contract import Track, VoiceExtractor


VOICE_FEATURES: tuple[str, ...] = ()


def voice_tracks(chunks: Iterable[np.ndarray], sampling_rate: int) -> Iterator[Track]:
    """Descriptors of a voice every 10 ms; see [`VoiceExtractor`]."""
    raise NotImplementedError


VOICES = {"cpsl": VoiceExtractor("cpsl-voice 1", VOICE_FEATURES, voice_tracks)}
