"""Ten minutes of video: memory does not grow with them, and times do not drift."""

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from media_files import FACE_MODEL, SHARED, needs_package, tone, write_clip
from scipy.signal import resample_poly
from shared_run import built_once
from speech import speak

from data_builders.media.contract import SAMPLING_RATE
from data_builders.media.decoding import audio_chunks, video_frames
from data_builders.media.face import face_tracks
from data_builders.media.voice import VOICES
from data_builders.media.words import words_of_clip


needs_package("av")
SENTENCE = "The plot was dull, but the actors were wonderful, and we liked the whole story."
MINUTES = 10


def resident_megabytes():
    ctypes.CDLL(None).malloc_trim(0)  # what was freed, in this test and those before it, does not count
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def growth(blocks):
    """By how many MB memory is larger at any time than when a fifth of the blocks had come."""
    sizes = [resident_megabytes() for number, _ in enumerate(blocks) if number % 20 == 0]
    first = len(sizes) // 5
    return max(sizes[first:]) - sizes[first]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path):
    times = np.arange(0, 60 * MINUTES)
    clip = write_clip(tmp_path / "clip.mp4", sound=tone(60 * MINUTES), times=times, size=(90, 160))
    bound = 25  # MB; the sound alone of what comes after a fifth is 31
    assert growth(audio_chunks(clip)) < bound
    assert growth(VOICES["cpsl"].tracks(audio_chunks(clip), SAMPLING_RATE)) < bound
    assert growth(video_frames(clip)) < bound
    if FACE_MODEL.exists():
        needs_package("mediapipe")
        assert growth(face_tracks(video_frames(clip), FACE_MODEL)) < bound


@pytest.fixture(scope="module")
def long_speech(tmp_path_factory):
    """A clip of ten minutes with a sentence at its beginning and its end, and when their words begin."""
    samples, rate, starts = speak(SENTENCE)
    sentence = resample_poly(samples / 32768, 44_100, rate)
    sound = np.zeros(60 * MINUTES * 44_100, np.float32)
    later = len(sound) - 10 * 44_100
    for start in (0, later):
        sound[start : start + len(sentence)] = sentence
    clip = write_clip(
        tmp_path_factory.mktemp("long") / "speech.m4a", sound=sound, sampling_rate=44_100, pictures=False
    )
    return clip, np.concatenate([starts, np.array(starts) + later / 44_100])


def assert_no_drift(words, starts, bound=0.08):
    assert len(words) == len(starts)
    early, late = np.split(np.array([word.start for word in words]) - starts, 2)
    assert np.median(np.abs(early)) < bound and np.median(np.abs(late)) < bound
    assert abs(np.median(late) - np.median(early)) < bound / 2


@pytest.mark.slow
def test_aligned_words_do_not_drift(long_speech, tmp_path):
    needs_package("pocketsphinx")
    clip, starts = long_speech
    transcript = tmp_path / "speech.txt"
    transcript.write_text(f"{SENTENCE} {SENTENCE}")
    words, num_timed = words_of_clip(clip, 60.0 * MINUTES, transcript=transcript, asr=None)
    assert num_timed == len(words)
    assert_no_drift(words, starts)


@pytest.fixture(scope="module")
def recogniser():
    """Whisper tiny.en: the folder that CPSL_WHISPER names, or what the script of the reference files fetches."""
    needs_package("faster_whisper")
    if folder := os.environ.get("CPSL_WHISPER"):
        return folder
    script = SHARED / "tools" / "get_asr.sh"
    if not script.exists():
        pytest.skip("the recogniser is not here")

    def fetch(folder):
        result = subprocess.run([script, folder], capture_output=True, text=True, timeout=300)
        if result.returncode:
            (folder / "failed").write_text(result.stderr)

    folder = built_once("recogniser", fetch)
    if (folder / "failed").exists():
        pytest.skip(f"the recogniser cannot be fetched: {(folder / 'failed').read_text()[-200:]}")
    return str(folder / "whisper-tiny.en")


@pytest.mark.slow
def test_recognised_words_do_not_drift(long_speech, recogniser):
    clip, starts = long_speech
    words, num_timed = words_of_clip(clip, 60.0 * MINUTES, transcript=None, asr=recogniser)
    assert num_timed == len(words)
    heard = [word.text.lower().strip(",.") for word in words]
    said = [word.lower().strip(",.") for word in f"{SENTENCE} {SENTENCE}".split()]
    # The smallest recogniser takes a word of a synthetic voice for another now and then.
    assert sum(one != other for one, other in zip(heard, said, strict=True)) <= len(said) / 5
    assert_no_drift(words, starts, bound=0.25)
    assert words_of_clip(clip, 60.0 * MINUTES, transcript=None, asr=recogniser).words == words
