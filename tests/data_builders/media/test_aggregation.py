import numpy as np
import pytest

from data_builders.media.aggregation import face_rows, voice_rows
from data_builders.media.contract import Track, Utterance, Word


NAN = float("nan")


def utterance(*spans):
    return Utterance(spans[0][0], spans[-1][1], tuple(Word("w", *span) for span in spans))


def blocks(times, values, size):
    times, values = np.array(times, float), np.array(values, np.float32).reshape(len(times), -1)
    return [Track(times[i : i + size], values[i : i + size]) for i in range(0, len(times), size)]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_words_have_mean_and_deviation(size):
    generator = np.random.default_rng(0)
    times, values = np.arange(0.005, 3, 0.01), generator.normal(5, 1, (300, 2))
    utterances = [utterance((0.1, 0.35), (0.35, 0.9)), utterance((2.0, 2.5))]
    rows = voice_rows(blocks(times, values, size), utterances, 2)
    for found, of in zip(np.concatenate(rows), [(0.1, 0.35), (0.35, 0.9), (2.0, 2.5)], strict=True):
        inside = values[(times >= of[0]) & (times < of[1])].astype(np.float32)
        np.testing.assert_allclose(found, [*inside.mean(0), *inside.std(0)], rtol=1e-4)


def test_a_voiceless_word_has_the_utterances_pitch():
    rows = voice_rows(blocks([0.1, 0.2, 0.3, 0.4], [NAN, NAN, 100, 102], 2), [utterance((0, 0.25), (0.25, 0.5))], 1)
    np.testing.assert_allclose(rows[0], [[101, 1], [101, 1]])
    nothing = voice_rows(blocks([0.1, 0.2], [[NAN, 1], [NAN, 3]], 2), [utterance((0, 0.25))], 2)
    np.testing.assert_allclose(nothing[0], [[0, 2, 0, 1]])
    assert voice_rows(iter(()), [utterance((0, 1))], 2) == [None]


def test_faces_are_averaged_where_they_are_seen():
    times = np.arange(0, 1.0, 0.1)
    values = [1, 3, NAN, NAN, NAN, NAN, 7, 8, NAN, NAN]
    utterances = [utterance((0.0, 0.3), (0.3, 0.55), (0.56, 0.58), (0.62, 0.64)), utterance((0.75, 0.95))]
    rows = face_rows(blocks(times, values, 4), utterances, 1)
    # Three pictures with two faces; none; shorter than a picture: the nearest, at 0.6 s; the same.
    np.testing.assert_allclose(rows[0], [[2, 2 / 3], [11 / 3, 0], [7, 1], [7, 1]], rtol=1e-5)
    assert rows[1] is None
