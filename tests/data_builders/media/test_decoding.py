import io
import os
import struct
import subprocess
import sys
import tracemalloc
import wave

import numpy as np
import pytest
from media_files import REAL_CLIP, needs, needs_package, tone, write_clip

from data_builders.files import DataError
from data_builders.media.decoding import audio_chunks, probe, video_frames


needs_package("av")


def sound_of(path, **options):
    return np.concatenate(list(audio_chunks(path, **options)))


def test_sound_and_pictures_of_a_made_clip(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", sound=tone(2))
    info = probe(clip)
    assert info.has_audio and info.has_video and info.duration == pytest.approx(2, abs=0.1)
    np.testing.assert_allclose(sound_of(clip), tone(2), atol=1e-3)
    chunks = list(audio_chunks(clip, seconds=0.3))
    assert {len(chunk) for chunk in chunks[:-1]} == {4800} and chunks[0].dtype == np.float32
    np.testing.assert_array_equal(np.concatenate(chunks), sound_of(clip))
    frames = list(video_frames(clip))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(0, 2, 0.1), atol=0.041)
    for frame in frames:
        white = (frame.image[100] > 128).all(axis=1).sum()
        assert frame.image.shape == (120, 160, 3) and abs(white - 20 * frame.time) <= 3


def test_channels_are_mixed_and_rates_converted(tmp_path):
    left, right = tone(1, 300, 44_100), tone(1, 500, 44_100)
    path = tmp_path / "stereo.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes((np.stack([left, right], axis=1) * 32767).astype(np.int16).tobytes())
    expected = (tone(1, 300) + tone(1, 500)) / 2
    found = sound_of(path)
    assert abs(len(found) - 16_000) <= 16
    assert np.corrcoef(found[100:15_900], expected[100:15_900])[0, 1] > 0.99


@pytest.mark.parametrize(("rotation", "corner"), [(0, "top"), (90, "left"), (180, "bottom"), (270, "right")])
def test_rotation_is_honoured(tmp_path, rotation, corner):
    clip = write_clip(tmp_path / "phone.mp4", seconds=0.2, rotation=rotation)
    image = next(video_frames(clip)).image.astype(int)
    halves = {
        "top": image[: len(image) // 2],
        "bottom": image[len(image) // 2 :],
        "left": image[:, : image.shape[1] // 2],
        "right": image[:, image.shape[1] // 2 :],
    }
    assert image.shape == ((120, 160, 3) if rotation % 180 == 0 else (160, 120, 3))
    assert max(halves, key=lambda half: halves[half][..., 0].mean()) == corner


def test_pictures_of_a_variable_rate_have_their_own_times(tmp_path):
    times = [0, 0.04, 0.08, 0.12, 1.0, 1.04, 2.5, 2.52, 2.54, 2.9]
    clip = write_clip(tmp_path / "screen.mkv", times=times)
    assert [frame.time for frame in video_frames(clip)] == pytest.approx([0, 0.12, 1.0, 2.5, 2.9], abs=0.002)


def test_large_pictures_are_made_smaller(tmp_path):
    clip = write_clip(tmp_path / "large.mp4", times=[0, 0.1], size=(2160, 3840))
    assert [frame.image.shape for frame in video_frames(clip)] == [(720, 1280, 3)] * 2


def test_a_gap_in_the_sound_is_silence(tmp_path):
    av = needs_package("av")
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000)
        stream.layout = "mono"
        for start in (0, 24_000):
            frame = av.AudioFrame.from_ndarray(np.full((1, 8000), 8000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    sound = sound_of(path)
    assert len(sound) == pytest.approx(32_000, abs=200)
    assert abs(sound[9000:23_000]).max() == 0 and abs(sound[25_000:31_000]).min() > 0.2


def test_a_track_that_is_missing_is_said(tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", seconds=0.2)
    with pytest.raises(DataError, match=r"silent.mp4: no sound in it; .* leave the modality acoustic out"):
        list(audio_chunks(silent))
    voice = write_clip(tmp_path / "voice.wav", sound=tone(0.2), pictures=False)
    assert probe(voice)[1:] == (True, False)
    with pytest.raises(DataError, match=r"voice.wav: no pictures in it"):
        list(video_frames(voice))


def test_broken_files_are_one_line(tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", sound=tone(2)).read_bytes()
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"this is not a film\n" * 50,
        "cut.mp4": whole[: len(whole) // 2],
        "zeros.wav": bytes(4096),
        "page.mp4": b"<!DOCTYPE html><html></html>",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"^{tmp_path / name}: [^\n]+$"):
            list(audio_chunks(tmp_path / name))
    with pytest.raises(DataError, match="no such file"):
        probe(tmp_path / "none.mp4")


def test_a_damaged_clip_gives_what_is_whole_or_one_line(tmp_path):
    whole = write_clip(tmp_path / "whole.mkv", sound=tone(2)).read_bytes()
    generator = np.random.default_rng(0)
    for seed in range(int(os.environ.get("CPSL_DAMAGED_INPUTS", 20)) // 2):
        content = np.frombuffer(whole, np.uint8).copy()
        places = generator.integers(0, len(content), 1 + seed * 5)
        content[places] = generator.integers(0, 256, len(places))
        path = tmp_path / "damaged.mkv"
        path.write_bytes(content.tobytes())
        for read in (audio_chunks, video_frames):
            try:
                assert sum(1 for _ in read(path)) < 100
            except DataError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.wav\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile secret.wav\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>secret.wav</BaseURL></MPD>",
    ],
    ids=["hls", "concat", "sdp", "dash"],
)
def test_lists_of_other_files_are_refused(tmp_path, content):
    write_clip(tmp_path / "secret.wav", sound=tone(1), pictures=False)
    path = tmp_path / "list.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable video or audio file"):
        list(audio_chunks(path))


def test_ten_hours_in_a_header_are_not_believed(tmp_path):
    """A WAV header of ten hours before a hundred samples."""
    path = tmp_path / "long.wav"
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(200))
    header = bytearray(content.getvalue())
    header[40:44] = struct.pack("<I", 10 * 3600 * 32_000)
    path.write_bytes(header)
    assert len(sound_of(path)) == 100


def test_a_far_time_stamp_does_not_make_hours_of_silence(tmp_path):
    av = needs_package("av")
    path = tmp_path / "far.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000)
        stream.layout = "mono"
        for start in (0, 10 * 3600 * 16_000):
            frame = av.AudioFrame.from_ndarray(np.full((1, 400), 8000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert len(sound_of(path)) < 16_000


def test_memory_does_not_grow_with_the_length(tmp_path):
    """Ten minutes of sound and of small pictures."""
    clip = write_clip(tmp_path / "long.mkv", sound=tone(600), times=np.arange(0, 600, 0.2), size=(48, 64))
    tracemalloc.start()
    try:
        assert sum(map(len, audio_chunks(clip))) == 600 * 16_000
        assert sum(1 for _ in video_frames(clip)) == 3000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6  # the whole sound has 38 MB


def test_odd_paths(tmp_path):
    folder = os.fsdecode(os.fsencode(str(tmp_path)) + b"/pipe|x:\xff %d\n'")
    os.mkdir(folder)
    path = write_clip(tmp_path / "plain.wav", sound=tone(0.5), pictures=False)
    odd = os.path.join(folder, "-http:clip#1?.wav")
    os.rename(path, odd)
    assert len(sound_of(type(path)(odd))) == 8000


@needs(REAL_CLIP)
def test_the_real_clip():
    assert probe(REAL_CLIP).duration == pytest.approx(10.02, abs=0.01)
    assert len(sound_of(REAL_CLIP)) == pytest.approx(10.0 * 16_000, rel=0.01)
    frames = list(video_frames(REAL_CLIP))
    assert 90 <= len(frames) <= 95 and frames[0].image.shape == (360, 640, 3)


def test_without_the_extra_it_is_one_line(tmp_path):
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from pathlib import Path\n"
        "from data_builders.media.decoding import probe\n"
        f"probe(Path({str(tmp_path)!r}, 'clip.mp4'))"
    )
    (tmp_path / "clip.mp4").write_bytes(b"x")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.splitlines()[-1].endswith("av is not installed; clips need it: pip install .[media]")
