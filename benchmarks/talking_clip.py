"""Makes the clips of the media benchmark: a drawn face that says new sentences, all of it generated.

The voice is that of espeak-ng, a Debian package. MediaPipe takes the drawing for a face.
"""

import random
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from data_builders.media.contract import SAMPLING_RATE
from data_builders.media.decoding import audio_chunks


PICTURES_PER_SECOND = 30
_GAP = 0.1  # seconds between the turns of a clip: its first packets are decoded a little before it begins
_SUBJECTS = ("the plot", "the young actor", "her second film", "this quiet drama", "the last scene", "his new comedy")
_VERBS = ("was dull", "made us laugh", "felt far too slow", "surprised everyone", "looks beautiful", "left me cold")
_ENDINGS = ("and I would see it again", "so we left early", "although my friends liked it", "when the lights came on")


def write_talking_clip(path: Path, seconds: int, height: int) -> str:
    """Writes a clip of a face that talks: H.264 at 30 pictures a second with grain, and AAC.

    Args:
        path: The file; its suffix says the container.
        seconds: Its length.
        height: Of a picture, which is 16:9.

    Returns:
        What is said.
    """
    said, voice = _speech(seconds)
    images = [_face(height, phase) for phase in np.linspace(0, 2 * np.pi, PICTURES_PER_SECOND, endpoint=False)]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=PICTURES_PER_SECOND, options={"preset": "veryfast"})
        video.height, video.width, video.pix_fmt = height, height * 16 // 9, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        for second in range(seconds):
            for number, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = second * PICTURES_PER_SECOND + number, Fraction(1, PICTURES_PER_SECOND)
                container.mux(video.encode(frame))
            samples = voice[None, second * SAMPLING_RATE : (second + 1) * SAMPLING_RATE]
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = SAMPLING_RATE, second * SAMPLING_RATE
            container.mux(audio.encode(frame))
        for stream in (video, audio):
            container.mux(stream.encode())
    return said


def repeat_clip(source: Path, times: int, target: Path) -> None:
    """Writes a clip several times, one after the other, without encoding it again.

    Args:
        source: An MP4 file; others need not say when a packet is decoded, and the first picture would be lost.
        times: How often.
        target: The file that is written.
    """
    with av.open(str(target), "w") as output:
        streams: dict[int, av.stream.Stream] = {}
        for turn in range(times):
            with av.open(str(source)) as container:
                for stream in container.streams:
                    if stream.index not in streams:
                        streams[stream.index] = output.add_stream_from_template(stream)
                for packet in container.demux():
                    if packet.dts is None:  # the end of a stream
                        continue
                    shift = round(turn * (container.duration / 1e6 + _GAP) / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = streams[packet.stream.index]
                    output.mux(packet)


def _speech(seconds: int) -> tuple[str, np.ndarray]:
    """Whole sentences, the same ones each time, and their sound with silence up to its length of `seconds`."""
    drawn = random.Random(0)
    said: list[str] = []
    voice = np.zeros(0, np.float32)
    with tempfile.TemporaryDirectory(prefix="talking-clip-") as folder:
        file = Path(folder, "voice.wav")
        while True:
            parts = (drawn.choice(choices) for choices in (_SUBJECTS, _VERBS, _ENDINGS))
            sentence = f"{' '.join(parts)}.".capitalize()
            subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", file, sentence], check=True)
            longer = np.concatenate([voice, *audio_chunks(file)])
            if len(longer) > seconds * SAMPLING_RATE:
                return " ".join(said), np.pad(voice, (0, seconds * SAMPLING_RATE - len(voice)))
            said.append(sentence)
            voice = longer


def _face(height: int, phase: float) -> np.ndarray:
    """A drawn face that sways and opens its mouth, with grain."""
    width = height * 16 // 9
    image = Image.new("RGB", (width, height), (90, 110, 130))
    draw = ImageDraw.Draw(image)
    middle, unit = width / 2 + height / 36 * np.sin(phase), height / 4

    def ellipse(x: float, y: float, half_width: float, half_height: float, colour: tuple[int, int, int]) -> None:
        draw.ellipse(
            [
                middle + (x - half_width) * unit,
                height / 2 + (y - half_height) * unit,
                middle + (x + half_width) * unit,
                height / 2 + (y + half_height) * unit,
            ],
            fill=colour,
        )

    ellipse(0, -0.25, 0.95, 1.15, (60, 40, 30))  # hair
    ellipse(0, 1.9, 1.6, 0.75, (40, 60, 120))  # shoulders
    ellipse(0, 1.1, 0.3, 0.5, (200, 160, 135))  # neck
    ellipse(0, 0, 0.78, 1.05, (224, 182, 155))
    for side in (-1, 1):
        ellipse(side * 0.32, -0.42, 0.2, 0.04, (60, 40, 30))
        ellipse(side * 0.32, -0.18, 0.17, 0.085, (250, 250, 250))
        ellipse(side * 0.32, -0.18, 0.08, 0.08, (50, 35, 30))
        ellipse(side * 0.06, 0.27, 0.03, 0.02, (130, 85, 70))
    ellipse(0, 0.1, 0.09, 0.18, (212, 168, 140))  # nose
    opened = 0.05 + 0.04 * np.sin(3 * phase)
    ellipse(0, 0.56, 0.28, 0.06 + opened, (180, 80, 80))
    ellipse(0, 0.56, 0.2, opened, (70, 20, 20))
    grain = np.random.default_rng(round(1000 * phase)).integers(-6, 7, (height, width, 3))
    return np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
