"""Small clips that are made for a test, and the packages and files that tests of clips need."""

import importlib
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest


SHARED = Path(__file__).parents[3] / "shared"
REAL_CLIP = SHARED / "assets" / "faces" / "short_hamilton_clip.mp4"
FACE_MODEL = SHARED / "assets" / "face_landmarker.task"
EMODB = SHARED / "data" / "emodb"


def needs_package(module):
    """Imports a package of an extra; without it tests are skipped, and fail in the gate, which installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{module} is not installed", allow_module_level=True)


def needs(path):
    """Skips a test where a reference file is absent."""
    return pytest.mark.skipif(not path.exists(), reason=f"{path.name} is not here")


def tone(seconds, frequency=200, sampling_rate=16_000):
    """A tone with overtones, float32."""
    times = np.arange(int(seconds * sampling_rate)) / sampling_rate
    return sum(0.2 / k * np.sin(2 * np.pi * k * frequency * times) for k in (1, 2, 3)).astype(np.float32)


def picture(time, height=120, width=160):
    """A picture that shows its time: columns up to `20 time` are white; the upper half is red where it is black."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, :, 0] = 255
    image[:, : int(20 * time)] = 255
    return image


def write_clip(
    path, *, seconds=2.0, sound=None, sampling_rate=16_000, pictures=True, times=None, rotation=0, size=(120, 160)
):
    """Writes a clip.

    Args:
        path: The file; its suffix says the container.
        seconds: The length.
        sound: Samples between -1 and 1; None: no track of sound.
        sampling_rate: Of the sound.
        pictures: Whether there is a track of pictures, at 25 a second.
        times: The times of the pictures, where they are others.
        rotation: In degrees, as phones note it.
        size: Height and width of a picture.
    """
    av = needs_package("av")
    with av.open(str(path), "w") as container:
        if pictures:
            video = container.add_stream("mpeg4", rate=25)
            video.height, video.width, video.pix_fmt = *size, "yuv420p"
            video.time_base = video.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                video.set_display_rotation(rotation)
        if sound is not None:
            audio = container.add_stream("pcm_s16le" if path.suffix in (".wav", ".mkv") else "aac", rate=sampling_rate)
            audio.layout = "mono"
        if pictures:
            for time in np.arange(0, seconds, 0.04) if times is None else times:
                frame = av.VideoFrame.from_ndarray(picture(time, *size), format="rgb24")
                frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if sound is not None:
            samples = (np.asarray(sound) * 32767).astype(np.int16)[None]
            for start in range(0, samples.shape[1], sampling_rate):
                piece = np.ascontiguousarray(samples[:, start : start + sampling_rate])
                frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
                frame.sample_rate, frame.pts = sampling_rate, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path
