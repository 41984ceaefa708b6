import itertools

import numpy as np
import pytest
from media_files import needs_package
from scipy.signal import resample_poly
from speech import speak

from data_builders.media.contract import SAMPLING_RATE
from data_builders.media.forced_alignment import align, share_out


needs_package("pocketsphinx")
TEXT = (
    "The plot was dull, but the actors were wonderful and I laughed the whole time. We should see it again next week."
)


def spoken(text):
    samples, rate, starts = speak(text)
    return resample_poly(samples / 32768, SAMPLING_RATE, rate).astype(np.float32), starts


def test_words_are_found_where_they_are_spoken():
    sound, starts = spoken(TEXT)
    words, found = align(TEXT, [sound[:50_000], sound[50_000:]], 5.0, 5.0 + len(sound) / SAMPLING_RATE)
    assert [word.text for word in words] == TEXT.split() and found == len(words) == len(starts)
    assert np.median(np.abs([word.start - 5 - start for word, start in zip(words, starts, strict=True)])) < 0.08
    again, _ = align(TEXT, [sound], 5.0, 5.0 + len(sound) / SAMPLING_RATE)
    assert again == words


def test_a_long_text_is_followed_through_pieces():
    sound, starts = spoken(TEXT)
    starts = np.concatenate([np.array(starts) + repeat * len(sound) / SAMPLING_RATE for repeat in range(7)])
    words, found = align(" ".join([TEXT] * 7), [sound] * 7, 0.0, 7 * len(sound) / SAMPLING_RATE)
    assert found == len(words) == len(starts)
    assert np.median(np.abs([word.start - start for word, start in zip(words, starts, strict=True)])) < 0.08


def test_unknown_words_are_pronounced_or_share_the_gap():
    text = "The film Blorptastic was loved by everyone 😀"
    sound, _ = spoken(text)
    words, found = align(text, [sound], 0.0, len(sound) / SAMPLING_RATE)
    assert found == len(words) - 1 and [word.text for word in words] == text.split()
    assert all(one.end <= other.start + 1e-9 for one, other in itertools.pairwise(words))


def test_another_script_and_silence_share_out_the_time():
    for text, sound in (("это хороший фильм", np.zeros(48_000, np.float32)), ("yes no", np.zeros(1600, np.float32))):
        words, found = align(text, [sound], 0.0, len(sound) / SAMPLING_RATE)
        assert found == 0 or text.isascii()
        assert words[0].start == 0.0 and words[-1].end == pytest.approx(len(sound) / SAMPLING_RATE)


def test_shares_follow_the_lengths_of_words():
    assert share_out("a bcd", 1.0, 3.0) == [("a", 1.0, 1.5), ("bcd", 1.5, 3.0)]
