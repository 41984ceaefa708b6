"""Cuts a recording into utterances: at sentences and pauses, or where it is told to."""

import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from ..segments import assign_words, cut_at_pauses
from .contract import Utterance, Word


UNIT = 0.5  # seconds of a unit where words are not known
LONGEST = 15.0  # seconds of an utterance where words are not known
PAUSE = 0.8  # seconds between two utterances, even within a sentence
_SENTENCE_END = re.compile(r"[.?!…。！？؟।]+[\"'”’»)\]]*$")
_ABBREVIATION = re.compile(r"(?:\w|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|(?:\w\.)+\w)\.$", re.IGNORECASE)


def cut_into_utterances(words: Sequence[Word]) -> list[Utterance]:
    """The utterances of a recording: cut after sentences and at pauses, and long ones at their longest pauses.

    Two sentences may differ in sentiment, so a short recording is cut too.

    Args:
        words: All words, in their order.
    """
    sentences: list[list[Word]] = []
    for word in words:
        if not sentences or _ends_before(sentences[-1][-1], word):
            sentences.append([])
        sentences[-1].append(word)
    utterances = []
    for sentence in sentences:
        times = np.array([[word.start, word.end] for word in sentence])
        for indices in assign_words(times, cut_at_pauses(times)):
            part = tuple(sentence[index] for index in indices)
            if part:
                utterances.append(Utterance(part[0].start, max(word.end for word in part), part))
    return utterances


def _ends_before(last: Word, following: Word) -> bool:
    ends_sentence = _SENTENCE_END.search(last.text) and not _ABBREVIATION.match(last.text)
    return bool(ends_sentence) or following.start - last.end >= PAUSE


def utterances_of_spans(words: Sequence[Word], spans: Iterable[tuple[float, float]]) -> list[Utterance]:
    """The utterances of spans of time, each with the words whose middle it holds; without any, with units."""
    utterances = []
    for start, end in spans:
        inside = tuple(word for word in words if start <= (word.start + word.end) / 2 <= end)
        utterances.append(Utterance(start, end, inside or units(start, end)))
    return utterances


def units(start: float, end: float) -> tuple[Word, ...]:
    """Units of half a second without a text; the last one takes what is left, if it is less than half a unit more."""
    count = max(round((end - start) / UNIT), 1)
    borders = [start + UNIT * index for index in range(count)] + [end]
    return tuple(Word("", *times) for times in itertools.pairwise(borders))
