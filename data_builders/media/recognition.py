"""Recognises words and when they are spoken, with a Whisper model in faster-whisper."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..files import DataError, check_path_or_hub_id, one_line
from ..rows import words_of_text
from . import extras
from .contract import Word
from .pauses import pieces_between_pauses


_JOINED = ("-", "'", "’")


def recognized_words(chunks: Iterable[np.ndarray], model: str) -> list[Word]:
    """The words that are spoken, each with its times.

    The sound is recognised in pieces between pauses, so that memory does not grow with its length. The language is
    that of the first piece in which somebody speaks.

    Args:
        chunks: The sound, at 16 kHz, of shape (n,) each.
        model: A faster-whisper model: its folder, its name (`tiny.en`) or its id on the Hub.

    Raises:
        DataError: There is no such model.
    """
    whisper = load_model(model)
    words: list[Word] = []
    language = None if whisper.model.is_multilingual else "en"
    for piece in pieces_between_pauses(chunks):
        segments, found = whisper.transcribe(
            piece.samples,
            language=language,
            word_timestamps=True,
            vad_filter=True,  # or words are made up where nobody speaks
            condition_on_previous_text=False,
            temperature=0,  # nothing is drawn at random, and no piece is decoded again and again
        )
        for segment in segments:
            language = found.language
            for word in segment.words or ():
                found_words = _words(word, piece.start, words[-1].end if words else 0.0, piece.end)
                if words and found_words and word.word.startswith(_JOINED):  # the rest of one: "self" and "-made"
                    rest, last = found_words.pop(0), words.pop()
                    words.append(Word(last.text + rest.text, last.start, rest.end))
                words += found_words
    return words


def _words(word: Any, offset: float, earliest: float, latest: float) -> list[Word]:
    """What the recogniser takes for a word, which in scripts without blanks may be several; they share its time."""
    texts = words_of_text(word.word)
    start = min(max(offset + float(word.start), earliest), latest)
    end = min(max(offset + float(word.end), start), latest)
    borders = np.linspace(start, end, len(texts) + 1)
    return [Word(*values) for values in zip(texts, map(float, borders), map(float, borders[1:]), strict=False)]


@functools.cache
def load_model(model: str) -> Any:
    """A faster-whisper model, which stays in memory; only one named by its size or its id may be fetched from the Hub.

    Raises:
        DataError: There is no such model.
    """
    faster_whisper = extras.load("faster_whisper")
    check_path_or_hub_id(model)
    folder = Path(model).is_dir()
    if folder and not Path(model, "model.bin").is_file():
        raise DataError(
            f"{model}: no model.bin in it, so no model of faster-whisper; convert it with ct2-transformers-converter"
        )
    try:
        return faster_whisper.WhisperModel(model, compute_type="int8", cpu_threads=1, local_files_only=folder)
    except Exception as error:  # of CTranslate2, of the Hub, of a broken file
        raise DataError(
            f"{model}: the model cannot be loaded ({one_line(error)[:200]}); give --asr the folder of a "
            "faster-whisper model, or a name such as tiny.en, which is fetched from the Hub"
        ) from None
