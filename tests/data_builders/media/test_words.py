import itertools

import numpy as np
import pytest
from media_files import needs_package, tone, write_clip
from scipy.signal import resample_poly
from speech import speak

from data_builders.files import DataError
from data_builders.media.contract import SAMPLING_RATE
from data_builders.media.words import words_of_clip


needs_package("av")
needs_package("pocketsphinx")
FIRST, SECOND = "The plot was dull.", "We should see it again next week."


@pytest.fixture
def spoken(tmp_path):
    """A clip of two sentences with a pause of a second, its length, and when each word begins."""
    parts, starts, length = [], [], 0
    for sentence in (FIRST, SECOND):
        samples, rate, begins = speak(sentence)
        starts += [length / SAMPLING_RATE + begin for begin in begins]
        parts += [resample_poly(samples / 32768, SAMPLING_RATE, rate), np.zeros(SAMPLING_RATE)]
        length += sum(map(len, parts[-2:]))
    return (
        write_clip(tmp_path / "clip.wav", sound=np.concatenate(parts), pictures=False),
        length / SAMPLING_RATE,
        starts,
    )


def transcript(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def subtitles(*captions):
    return "\n\n".join(f"00:00:{start:06.3f} --> 00:00:{end:06.3f}\n{text}" for start, end, text in captions)


def errors(words, starts):
    return np.abs([word.start - start for word, start in zip(words, starts, strict=True)])


def test_a_plain_transcript_is_aligned(tmp_path, spoken):
    clip, seconds, starts = spoken
    words, num_timed = words_of_clip(
        clip, seconds, transcript=transcript(tmp_path, "clip.txt", f"{FIRST} {SECOND}"), asr=None
    )
    assert [word.text for word in words] == f"{FIRST} {SECOND}".split() and num_timed == len(words)
    assert np.median(errors(words, starts)) < 0.08


def test_words_of_captions_are_aligned_within_them(tmp_path, spoken):
    clip, seconds, starts = spoken
    second = starts[len(FIRST.split())]
    captions = subtitles((0, second - 1, FIRST), (second, seconds - 1, SECOND))
    words, num_timed = words_of_clip(clip, seconds, transcript=transcript(tmp_path, "clip.srt", captions), asr=None)
    assert num_timed == len(words) and np.median(errors(words, starts)) < 0.08
    assert words[3].end <= second - 1 + 1e-3 and words[4].start >= second - 1e-3


def test_times_of_words_stay_as_they_are(tmp_path, spoken):
    clip, seconds, _ = spoken
    captions = subtitles((0.25, 0.5, "The"), (0.5, 1.25, "plot"))
    words, num_timed = words_of_clip(clip, seconds, transcript=transcript(tmp_path, "clip.vtt", captions), asr=None)
    assert words == [("The", 0.25, 0.5), ("plot", 0.5, 1.25)] and num_timed == 2


def test_a_clip_without_sound_shares_out_the_times_of_its_captions(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", seconds=2)
    captions = subtitles((0, 1, "a bcd"), (1, 2, "end"))
    words, num_timed = words_of_clip(clip, 0.0, transcript=transcript(tmp_path, "clip.srt", captions), asr=None)
    assert words == [("a", 0, 0.25), ("bcd", 0.25, 1), ("end", 1, 2)] and num_timed == 1


def test_captions_after_the_end_of_the_sound_are_kept(tmp_path):
    clip = write_clip(tmp_path / "clip.wav", sound=tone(1), pictures=False)
    captions = subtitles((0.2, 0.8, "yes"), (3, 5, "so it is"))
    words, num_timed = words_of_clip(clip, 1.0, transcript=transcript(tmp_path, "clip.srt", captions), asr=None)
    assert [word.text for word in words] == ["yes", "so", "it", "is"] and num_timed == 1
    assert words[1].start == 3 and words[-1].end == 5


def test_numbers_share_the_gap_between_their_neighbours_and_are_counted(tmp_path):
    text = "We paid $5 and 20 % more for the film, but it was worth it."
    samples, rate, starts = speak(text)
    sound = resample_poly(samples / 32768, SAMPLING_RATE, rate)
    clip = write_clip(tmp_path / "clip.wav", sound=sound, pictures=False)
    seconds = len(sound) / SAMPLING_RATE
    words, num_timed = words_of_clip(clip, seconds, transcript=transcript(tmp_path, "clip.txt", text), asr=None)
    assert [word.text for word in words] == text.split() and num_timed == len(words) - 3
    assert all(one.end <= other.start + 1e-9 for one, other in itertools.pairwise(words))
    behind = words[5 + 1 :]
    assert np.median(errors(behind, starts[-len(behind) :])) < 0.08


@pytest.mark.parametrize(
    ("seconds", "text", "asr", "message"),
    [
        (1.0, None, None, r"clip\.wav: no transcript of it; give one, or .*--asr tiny\.en.*--words none"),
        (0.0, None, "tiny.en", r"clip\.wav: no sound in which words could be recognised"),
        (
            0.0,
            "some words",
            None,
            r"clip\.wav: no sound to which the transcript could be aligned; give one",
        ),
        (1.0, "", None, r"clip\.txt: the file is empty"),
    ],
)
def test_no_way_to_know_the_words_is_one_line(tmp_path, seconds, text, asr, message):
    clip = write_clip(tmp_path / "clip.wav", sound=tone(1), pictures=False)
    given = None if text is None else transcript(tmp_path, "clip.txt", text)
    with pytest.raises(DataError, match=message):
        words_of_clip(clip, seconds, transcript=given, asr=asr)
