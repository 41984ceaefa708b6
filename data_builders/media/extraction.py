"""Turns one clip into rows."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..files import DataError
from ..rows import Row
from .aggregation import FACE_SHARE, face_rows, voice_rows
from .contract import (
    FRAMES_PER_SECOND,
    MODALITIES,
    SAMPLING_RATE,
    ExtractedClip,
    ExtractionSettings,
    Measured,
    Track,
    Utterance,
    Word,
)
from .decoding import audio_chunks, probe, video_frames
from .face import FACE_EXTRACTOR, FACE_FEATURES, face_tracks, find_face_model
from .pauses import pieces_between_pauses
from .segmentation import LONGEST, cut_into_utterances, utterances_of_spans
from .voice import VOICES
from .words import TimedWords, words_of_clip


Watch = Callable[[str, Track], None]


def extract_clip(
    path: Path,
    settings: ExtractionSettings,
    *,
    name: str | None = None,
    transcript: Path | None = None,
    spans: Sequence[tuple[float, float]] | None = None,
    watch: Watch | None = None,
) -> ExtractedClip:
    """The rows of a clip, one for each utterance.

    Args:
        path: The clip.
        settings: What is extracted, and how.
        name: The `video_id` of the rows, and the `id` of a single one; several are `name[0]`, `name[1]` ... Default:
            the file's name without its suffix.
        transcript: Its words: SRT, VTT, JSON or TextGrid with times, or a plain text. None: they are recognised.
        spans: Start and end of the utterances in seconds; an end may be infinite. None: they are cut at sentences and
            pauses, see `segmentation`.
        watch: Is called with the name of a modality and each block of its track as it is measured, to draw them.

    Raises:
        DataError: The clip or its transcript cannot be read, or something is missing that the settings need.
    """
    info = probe(path)
    if not (info.has_audio or info.has_video):
        raise DataError(f"{path}: neither sound nor pictures in it; give a video or audio file")
    sound = sum(map(len, audio_chunks(path))) / SAMPLING_RATE if info.has_audio else 0.0
    duration = sound or info.duration
    timed = TimedWords([], 0)
    if settings.words:
        timed = words_of_clip(path, sound, transcript=transcript, asr=settings.asr)
        duration = max(duration, timed.words[-1].end)
    if spans is not None:
        utterances = utterances_of_spans(timed.words, _checked_spans(path, spans, duration))
    elif settings.words:
        utterances = cut_into_utterances(timed.words)
    else:
        utterances = utterances_of_spans([], _even_spans(path, sound, duration))
    voices: list[np.ndarray | None] = [None] * len(utterances)
    faces = list(voices)
    faces_seen = _FacesSeen()
    if "acoustic" in settings.modalities and info.has_audio:
        voice = VOICES[settings.voice]
        tracks = voice.tracks(audio_chunks(path), SAMPLING_RATE)
        voices = voice_rows(_watched("acoustic", tracks, watch), utterances, len(voice.features))
    if "visual" in settings.modalities and info.has_video:
        tracks = faces_seen.count(face_tracks(video_frames(path), find_face_model(settings.face_model)))
        faces = face_rows(_watched("visual", tracks, watch), utterances, len(FACE_FEATURES))
    features = {"acoustic": voices, "visual": faces}
    rows = _rows(name or path.stem, utterances, {modality: features[modality] for modality in settings.modalities})
    missing = {modality: sum(row[modality] is None for row in rows) for modality in settings.modalities}
    missing = {"text": sum(not row["words"] for row in rows)} | missing
    measured = Measured(
        duration, len(timed.words), timed.num_timed, faces_seen.frames, faces_seen.faces, len(rows), missing
    )
    return ExtractedClip(rows, measured)


def feature_extractors(settings: ExtractionSettings) -> dict[str, str]:
    """What makes the features of each modality: the extractor's name, version and settings, for the column's id.

    Raises:
        DataError: The model that finds faces is missing.
    """
    extractors = {"acoustic": f"{VOICES[settings.voice].name}, mean and deviation over each word"}
    if "visual" in settings.modalities:
        model = hashlib.sha256(find_face_model(settings.face_model).read_bytes()).hexdigest()[:8]
        extractors["visual"] = f"{FACE_EXTRACTOR}, model {model}, {FRAMES_PER_SECOND} pictures a second"
    return {modality: extractors[modality] for modality in settings.modalities}


def feature_names(settings: ExtractionSettings) -> dict[str, tuple[str, ...]]:
    """The names of the values in a row of each modality, in their order."""
    voice = VOICES[settings.voice].features
    names = {
        "acoustic": (*(f"{name}_mean" for name in voice), *(f"{name}_deviation" for name in voice)),
        "visual": (*FACE_FEATURES, FACE_SHARE),
    }
    return {modality: names[modality] for modality in settings.modalities}


def check_settings(settings: ExtractionSettings) -> None:
    """Raises a DataError for settings that no clip can be extracted with, before the first one is opened."""
    if unknown := sorted({*settings.modalities} - {*MODALITIES}):
        raise DataError(f"modality {unknown[0]!r} cannot be extracted; give some of {', '.join(MODALITIES)}")
    if settings.voice not in VOICES:
        raise DataError(f"voice {settings.voice!r} is unknown; give one of {', '.join(VOICES)}")
    if not settings.words and not settings.modalities:
        raise DataError("neither words nor modalities are wanted; give at least one of them")
    feature_extractors(settings)


class _FacesSeen:
    """Counts the pictures of a track, and those with a face."""

    def __init__(self) -> None:
        self.frames = self.faces = 0

    def count(self, tracks: Iterable[Track]) -> Iterator[Track]:
        for track in tracks:
            self.frames += len(track.times)
            self.faces += int(np.isfinite(track.values).any(axis=1).sum())
            yield track


def _watched(modality: str, tracks: Iterable[Track], watch: Watch | None) -> Iterator[Track]:
    for track in tracks:
        if watch is not None:
            watch(modality, track)
        yield track


def _checked_spans(path: Path, spans: Sequence[tuple[float, float]], duration: float) -> list[tuple[float, float]]:
    for start, end in spans:
        if not 0 <= start < min(end, duration):
            raise DataError(
                f"{path}: no utterance from {start:g} to {end:g} s in its {duration:.1f} s; correct start and end"
            )
    return [(start, min(end, duration)) for start, end in spans]


def _even_spans(path: Path, sound: float, duration: float) -> list[tuple[float, float]]:
    """Spans of a recording without words: between pauses where it has sound."""
    if sound:
        return [(piece.start, piece.end) for piece in pieces_between_pauses(audio_chunks(path), seconds=LONGEST)]
    borders = np.linspace(0, duration, max(int(np.ceil(duration / LONGEST)), 1) + 1)
    return list(zip(map(float, borders), map(float, borders[1:]), strict=False))


def _rows(name: str, utterances: list[Utterance], features: dict[str, list[np.ndarray | None]]) -> list[Row]:
    rows = []
    for index, utterance in enumerate(utterances):
        words = _spoken(utterance)
        row: Row = {
            "id": name if len(utterances) == 1 else f"{name}[{index}]",
            "video_id": name,
            "words": [word.text for word in words],
            "start": utterance.start,
            "end": utterance.end,
            "word_start": [word.start for word in words],
            "word_end": [word.end for word in words],
        }
        rows.append(row | {modality: of_utterances[index] for modality, of_utterances in features.items()})
    return rows


def _spoken(utterance: Utterance) -> tuple[Word, ...]:
    """The words of an utterance, and not its units."""
    return tuple(word for word in utterance.words if word.text)
