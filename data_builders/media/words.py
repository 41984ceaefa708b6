"""The words of a clip and when they are spoken: from a transcript, by forced alignment, or by recognition."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import DataError
from ..rows import words_of_text
from .contract import SAMPLING_RATE, Caption, Word
from .decoding import audio_chunks
from .forced_alignment import align, share_out
from .recognition import recognized_words
from .transcripts import read_transcript


class TimedWords(NamedTuple):
    """Words in the order in which they are spoken, and how many of them have times that were measured or given.

    The times of the others are shares of the gap in which they must be.
    """

    words: list[Word]
    num_timed: int


def words_of_clip(path: Path, seconds: float, *, transcript: Path | None, asr: str | None) -> TimedWords:
    """The words of a clip.

    Args:
        path: The clip.
        seconds: The length of its sound; 0 where it has none.
        transcript: A file in one of the formats of `transcripts`.
        asr: A model that recognises words where there is no transcript.

    Raises:
        DataError: There is no way to know the words, or nobody speaks.
    """
    if transcript is not None:
        return _words_of_captions(path, seconds, read_transcript(transcript))
    if asr is None:
        raise DataError(
            f"{path}: no transcript of it; give one, or a model that recognises speech (--asr tiny.en, or its folder),"
            " or --words none to do without words"
        )
    if not seconds:
        raise DataError(f"{path}: no sound in which words could be recognised; give a transcript, or --words none")
    words = recognized_words(audio_chunks(path), asr)
    if not words:
        raise DataError(f"{path}: nobody was heard to speak; give a transcript, or --words none to do without words")
    return TimedWords(words, len(words))


def _words_of_captions(path: Path, seconds: float, captions: list[Caption]) -> TimedWords:
    if captions[0].start is None:
        if not seconds:
            raise DataError(f"{path}: no sound to which the transcript could be aligned; give one with times")
        return TimedWords(*align(captions[0].text, audio_chunks(path), 0.0, seconds))
    spans = [(caption.start or 0.0, caption.end or 0.0) for caption in captions]
    words: list[Word] = []
    num_timed = 0
    sound = _samples_of_spans(audio_chunks(path), spans) if seconds else iter([np.zeros(0, np.float32)] * len(spans))
    for caption, (start, end), samples in zip(captions, spans, sound, strict=True):
        texts = words_of_text(caption.text)
        if len(texts) == 1:
            words.append(Word(texts[0], start, end))
            num_timed += 1
        elif len(samples):
            aligned, found = align(caption.text, [samples], start, end)
            words += aligned
            num_timed += found
        else:
            words += share_out(caption.text, start, end)
    return TimedWords(words, num_timed)


def _samples_of_spans(chunks: Iterable[np.ndarray], spans: list[tuple[float, float]]) -> Iterator[np.ndarray]:
    """The samples of each span of time, in the order of their beginnings; none where the sound has ended."""
    chunks = iter(chunks)
    held, offset, ended = np.zeros(0, np.float32), 0, False
    for start, end in spans:
        first, last = round(start * SAMPLING_RATE), round(end * SAMPLING_RATE)
        while not ended and offset + len(held) < last:
            if offset < first:  # what lies before this span lies before all that follow
                held, offset = held[first - offset :], min(first, offset + len(held))
            chunk = next(chunks, None)
            ended = chunk is None
            held = held if chunk is None else np.concatenate([held, chunk])
        yield held[max(first - offset, 0) : max(last - offset, 0)]
