"""The types that the stages of extraction pass to each other. Times are seconds from the beginning of the clip."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..rows import Row


SAMPLING_RATE = 16_000  # Hz, of all sound that is analysed
FRAMES_PER_SECOND = 10  # of video that are analysed
MODALITIES = ("acoustic", "visual")  # that can be extracted, beside the words


class MediaInfo(NamedTuple):
    """What a container says of itself, which need not be true.

    Attributes:
        duration: In seconds; 0 where the container does not say it.
        has_audio: Whether there is a track of sound.
        has_video: Whether there is a track of moving pictures; the cover of a song is none.
    """

    duration: float
    has_audio: bool
    has_video: bool


class Frame(NamedTuple):
    """A picture of a video: its time, and an upright image of shape (height, width, 3), RGB, uint8."""

    time: float
    image: np.ndarray


class Word(NamedTuple):
    """A word of a transcript, and when it is spoken."""

    text: str
    start: float
    end: float


class Caption(NamedTuple):
    """A part of a transcript, one or several words, and when it is spoken; None where the transcript does not say."""

    text: str
    start: float | None
    end: float | None


class Utterance(NamedTuple):
    """A part of a clip that becomes one row.

    Attributes:
        start: Its beginning.
        end: Its end.
        words: Its words, in their order. Where words are not known they are units of equal length without a text.
    """

    start: float
    end: float
    words: tuple[Word, ...]


class Track(NamedTuple):
    """A block of what was measured: rising times of shape (n,), and values of shape (n, size), NaN where undefined."""

    times: np.ndarray
    values: np.ndarray


class VoiceExtractor(NamedTuple):
    """A way to measure a voice; `voice.VOICES` has them by name.

    Attributes:
        name: Its name and version. It goes into the data, and changes whenever the values do.
        features: The names of the values.
        tracks: Measures sound, given as chunks of shape (n,) with their sampling rate. The values do not depend on
            the size of the chunks.
    """

    name: str
    features: tuple[str, ...]
    tracks: Callable[[Iterable[np.ndarray], int], Iterator[Track]]


class ExtractionSettings(NamedTuple):
    """How clips are turned into rows.

    Attributes:
        modalities: Which of `MODALITIES` are measured; with none, rows have words and their times alone.
        words: Whether words are wanted. Without, a row has one unit for each half second, and its text is missing.
        asr: A faster-whisper model, a folder or an id on the Hub, that recognises the words of a clip without
            transcript.
        voice: The name of a voice extractor.
        face_model: The file of MediaPipe's FaceLandmarker; None: where `face.find_face_model` finds it.
    """

    modalities: tuple[str, ...] = MODALITIES
    words: bool = True
    asr: str | None = None
    voice: str = "cpsl"
    face_model: Path | None = None


class Measured(NamedTuple):
    """Counts of an extraction, to be added up.

    Attributes:
        seconds: Of the clip.
        words: Its words.
        words_timed: Of these, those whose times come from a transcript, alignment or recognition, and not from a share
            of a gap.
        frames: The pictures that were looked at.
        faces: Of these, those with a face.
        utterances: The rows.
        missing: By modality (text too), the rows that lack it.
    """

    seconds: float
    words: int
    words_timed: int
    frames: int
    faces: int
    utterances: int
    missing: dict[str, int]


class ExtractedClip(NamedTuple):
    """The rows of a clip, without labels, in the row format (see `data_builders.rows`), and what was counted."""

    rows: list[Row]
    measured: Measured
