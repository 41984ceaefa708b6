"""Finds when the words of a known text are spoken, with pocketsphinx and its model of American English."""

import functools
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..rows import words_of_text
from . import extras
from .contract import SAMPLING_RATE, Word
from .pauses import Piece, pieces_between_pauses


_FRAMES_PER_SECOND = 100
_MOST_WORDS_A_SECOND = 6
_GRAMMAR = "text"
# What letters sound like, longest first: enough to place a name that the dictionary does not have.
_SOUNDS = {
    "tch": "CH", "igh": "AY", "eau": "OW", "sch": "SH",
    "ch": "CH", "sh": "SH", "th": "TH", "ph": "F", "gh": "G", "ck": "K", "ng": "NG", "qu": "K W", "wh": "W",
    "kn": "N", "wr": "R", "ee": "IY", "ea": "IY", "ie": "IY", "ei": "EY", "ai": "EY", "ay": "EY", "ey": "EY",
    "oo": "UW", "ou": "AW", "ow": "OW", "oa": "OW", "oi": "OY", "oy": "OY", "au": "AO", "aw": "AO", "er": "ER",
    "ir": "ER", "ur": "ER", "ar": "AA R", "or": "AO R",
    "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH", "i": "IH", "j": "JH",
    "k": "K", "l": "L", "m": "M", "n": "N", "o": "OW", "p": "P", "q": "K", "r": "R", "s": "S", "t": "T", "u": "AH",
    "v": "V", "w": "W", "x": "K S", "y": "IY", "z": "Z",
}  # fmt: skip
_SPELLING = re.compile("|".join(_SOUNDS))


def align(text: str, chunks: Iterable[np.ndarray], start: float, end: float) -> tuple[list[Word], int]:
    """When the words of a text are spoken.

    A word that cannot be pronounced (digits, other scripts) gets a share of the gap between its neighbours. So does
    every word where the text does not fit the sound.

    Args:
        text: What is said.
        chunks: The sound from `start` to `end`, at `SAMPLING_RATE`, of shape (n,) each.
        start: Where the sound begins.
        end: Where it ends.

    Returns:
        The words, and how many of them were found in the sound.
    """
    words = words_of_text(text)
    spelt = [_spelt(word) for word in words]
    spoken = [index for index, word in enumerate(spelt) if word]
    found: list[tuple[float, float] | None] = [None] * len(words)
    spans = _spoken_spans([spelt[index] for index in spoken], pieces_between_pauses(chunks))
    for index, span in zip(spoken, spans, strict=False):
        found[index] = min(start + span[0], end), min(start + span[1], end)
    return _with_shares(words, found, start, end), sum(span is not None for span in found)


def share_out(text: str, start: float, end: float) -> list[Word]:
    """The words of a text, each with a share of the time between `start` and `end` by its length."""
    words = words_of_text(text)
    return _with_shares(words, [None] * len(words), start, end)


@functools.cache
def _decoder() -> Any:
    # No language model: the text is the grammar. Messages are about the decoder's inside.
    # The beams are wider than usual, for the words are known: what is pruned is lost for the rest of the piece.
    return extras.load("pocketsphinx").Decoder(
        lm=None, loglevel="FATAL", samprate=float(SAMPLING_RATE), beam=1e-80, wbeam=1e-60, pbeam=1e-80
    )


def _spelt(word: str) -> str:
    """A word as the dictionary of the aligner spells it, new ones added; empty where it cannot be pronounced."""
    spelt = re.sub(r"[^a-z'-]", "", word.lower().replace("’", "'")).strip("'-")
    if re.search(r"[^\W_a-zA-Z]", word) or not re.search("[a-z]", spelt):
        return ""
    decoder = _decoder()
    if decoder.lookup_word(spelt) is None:
        parts = [decoder.lookup_word(part) or _sounds(part) for part in re.split("[-']", spelt) if part]
        decoder.add_word(spelt, " ".join(parts), True)
    return spelt


def _sounds(spelling: str) -> str:
    return " ".join(_SOUNDS[match] for match in _SPELLING.findall(spelling))


def _spoken_spans(words: list[str], pieces: Iterable[Piece]) -> list[tuple[float, float]]:
    """Start and end in seconds of the words that are heard, in their order, from the first on.

    The sound is taken piece by piece, for the aligner's time and memory grow with text times sound: of the words that
    are left, each piece has as many as fit it best, and the last one has the rest.
    """
    spans: list[tuple[float, float]] = []
    for piece, is_last in _with_last(pieces):
        left = words[len(spans) :]
        if not left:
            break
        at_most = math.ceil((piece.end - piece.start) * _MOST_WORDS_A_SECOND)
        spans += _spans_in_piece(left[:at_most], piece, all_words=is_last)
    return spans


def _with_last(pieces: Iterable[Piece]) -> Iterator[tuple[Piece, bool]]:
    """Each piece, and whether it is the last one."""
    previous = None
    for piece in pieces:
        if previous is not None:
            yield previous, False
        previous = piece
    if previous is not None:
        yield previous, True


def _spans_in_piece(words: list[str], piece: Piece, *, all_words: bool) -> list[tuple[float, float]]:
    """Start and end of the words that a piece begins with; none where they do not fit it."""
    decoder, last = _decoder(), len(words)
    transitions: list[tuple] = [(index, index + 1, 1.0, word) for index, word in enumerate(words)]
    if not all_words:  # the piece may end after any word
        transitions += [(index, last, 1.0) for index in range(last)]
    decoder.add_fsg(_GRAMMAR, decoder.create_fsg(_GRAMMAR, 0, last, transitions))
    decoder.activate_search(_GRAMMAR)
    decoder.reinit_feat()  # it has adapted to the last piece, and a clip does not depend on the one before
    decoder.start_utt()
    decoder.process_raw((piece.samples * 32767).astype(np.int16).tobytes())
    decoder.end_utt()
    segments = decoder.seg() if decoder.hyp() is not None else None
    return [
        (
            piece.start + segment.start_frame / _FRAMES_PER_SECOND,
            piece.start + (segment.end_frame + 1) / _FRAMES_PER_SECOND,
        )
        for segment in segments or ()
        if not re.match(r"[<[(+]", segment.word)  # silence and noise
    ]


def _with_shares(words: list[str], found: list[tuple[float, float] | None], start: float, end: float) -> list[Word]:
    """Words with the times that were found; those between share out the gap by their lengths."""
    timed: list[Word] = []
    index = 0
    while index < len(words):
        if (span := found[index]) is not None:
            timed.append(Word(words[index], *span))
            index += 1
            continue
        stop = next((later for later in range(index, len(words)) if found[later] is not None), len(words))
        gap_end = end if stop == len(words) else found[stop][0]  # type: ignore[index]
        gap_start = min(timed[-1].end if timed else start, gap_end)
        lengths = np.cumsum([0, *map(len, words[index:stop])])
        borders = (gap_start + (gap_end - gap_start) * lengths / lengths[-1]).tolist()
        timed += [Word(*word) for word in zip(words[index:stop], borders[:-1], borders[1:], strict=True)]
        index = stop
    return timed
