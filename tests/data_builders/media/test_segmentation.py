import numpy as np
import pytest

from data_builders.media.contract import SAMPLING_RATE, Word
from data_builders.media.pauses import pieces_between_pauses
from data_builders.media.segmentation import cut_into_utterances, units, utterances_of_spans


def spoken(text, *, pauses=None, length=0.3):
    """Words one after the other; `pauses` has the seconds before some of them, by their index."""
    words, time = [], 0.0
    for index, word in enumerate(text.split()):
        time += (pauses or {}).get(index, 0.05)
        words.append(Word(word, time, time + length))
        time += length
    return words


def texts(utterances):
    return [" ".join(word.text for word in utterance.words) for utterance in utterances]


def test_no_words_are_no_utterance():
    assert cut_into_utterances([]) == []


def test_a_recording_is_cut_at_sentences_and_pauses():
    words = spoken("I met Dr. Who in the U.S. today. He smiled! Then nothing and more", pauses={12: 1.0})
    found = cut_into_utterances(words)
    assert texts(found) == ["I met Dr. Who in the U.S. today.", "He smiled!", "Then nothing", "and more"]
    assert [(utterance.start, utterance.end) for utterance in found] == [
        (utterance.words[0].start, utterance.words[-1].end) for utterance in found
    ]


def test_what_has_no_sentences_is_cut_at_its_longest_pauses():
    words = spoken("word " * 50, pauses={20: 0.5})
    assert [len(utterance.words) for utterance in cut_into_utterances(words)] == [20, 30]


def test_spans_take_the_words_whose_middle_they_hold():
    words = spoken("one two three")
    found = utterances_of_spans(words, [(0.0, 0.5), (0.5, 2.0), (2.0, 3.2)])
    assert texts(found)[:2] == ["one", "two three"]
    assert found[2].words == units(2.0, 3.2)


def test_units_are_half_seconds():
    assert [word[1:] for word in units(1.0, 2.6)] == [(1.0, 1.5), (1.5, 2.0), (2.0, 2.6)]
    assert [word[1:] for word in units(0.0, 0.1)] == [(0.0, 0.1)]


@pytest.mark.parametrize("at_once", [1000, 48_000, 10**6])
def test_sound_is_cut_where_it_is_quiet_and_nothing_is_lost(at_once):
    sound = np.random.default_rng(0).normal(size=50 * SAMPLING_RATE).astype(np.float32)
    for second in (8, 14, 25):
        sound[second * SAMPLING_RATE :][: SAMPLING_RATE // 2] *= 0.01 * second
    chunks = [sound[start : start + at_once] for start in range(0, len(sound), at_once)]
    pieces = list(pieces_between_pauses(chunks, seconds=15))
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), sound)
    assert all(len(piece.samples) <= 15 * SAMPLING_RATE for piece in pieces)
    assert pieces[1].start == pytest.approx(8.25, abs=0.2) and pieces[1].start == pieces[0].end
