"""Makes the clip that the documentation and the page of `cpsl demo` show: a drawn face and a synthetic voice.

`python docs/pictures/make_clip.py` writes `demo_clip.mp4` and its captions into `modeling_cpsl/experiments/`. It needs
the extra `demo` and Debian's `espeak-ng`. Nobody's face or voice is in it.
"""

import io
import subprocess
import wave
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter


CLIP = Path(__file__).parents[2] / "modeling_cpsl" / "experiments" / "demo_clip.mp4"
PICTURES_PER_SECOND = 15
SIZE = 320, 240
PAUSE = 0.9  # seconds between sentences
FINER = 3  # the drawing is made larger by so much and reduced, for smooth edges

Colour = tuple[int, int, int]
SKIN, SHADE, HAIR, LIPS, MOUTH = (226, 178, 150), (203, 150, 124), (70, 45, 35), (178, 84, 84), (70, 20, 25)
BACKGROUND, SHIRT, WHITE, IRIS, PUPIL = (206, 217, 224), (60, 90, 130), (248, 248, 248), (80, 60, 45), (15, 15, 15)


class Sentence(NamedTuple):
    """What is said and how: `smile` and `brows` go from -1 to 1; the voice is espeak-ng's, its pitch 0 to 99."""

    text: str
    smile: float
    brows: float
    pitch: int
    words_a_minute: int


SENTENCES = (
    Sentence("I loved this movie.", smile=1.0, brows=0.8, pitch=65, words_a_minute=150),
    Sentence(
        "The actors are wonderful, and the music is beautiful.", smile=0.8, brows=0.5, pitch=60, words_a_minute=150
    ),
    Sentence("But the ending was boring, and far too long.", smile=-0.8, brows=-0.5, pitch=40, words_a_minute=135),
)


def speak(sentence: Sentence) -> tuple[np.ndarray, int]:
    """The samples, int16, and the sampling rate."""
    options = ["-v", "en-us", "-p", str(sentence.pitch), "-s", str(sentence.words_a_minute), "--stdout"]
    said = subprocess.run(["espeak-ng", *options, sentence.text], capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(said)) as file:
        samples = np.frombuffer(file.readframes(2**31 // 2), np.int16)
        return np.trim_zeros(samples), file.getframerate()


class _Canvas:
    """Draws around the middle of a picture, in 360ths of its height."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (SIZE[0] * FINER, SIZE[1] * FINER), BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)
        self.unit = self.image.height / 360
        self.middle = self.image.width / 2, self.image.height / 2 + 10 * self.unit

    def at(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(self.middle[0] + x * self.unit, self.middle[1] + y * self.unit) for x, y in points]

    def ellipse(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        self.draw.ellipse(self.at([(x - width, y - height), (x + width, y + height)]), fill=colour)

    def line(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        self.draw.line(self.at(points), fill=colour, width=round(width * self.unit), joint="curve")

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon(self.at(points), fill=colour)


def draw_face(smile: float, brows: float, mouth: float) -> Image.Image:
    """A face; `mouth` says from 0 to 1 how far it is open."""
    canvas = _Canvas()
    canvas.ellipse(0, 150, 130, 70, SHIRT)
    canvas.polygon([(-32, 70), (32, 70), (32, 120), (-32, 120)], SHADE)
    canvas.ellipse(0, -40, 98, 105, HAIR)
    for side in (-1, 1):
        canvas.ellipse(88 * side, 5, 14, 24, SHADE)
    canvas.ellipse(0, 10, 85, 108, SKIN)
    canvas.draw.pieslice(canvas.at([(-92, -125), (92, 10)]), 180, 360, fill=HAIR)
    canvas.ellipse(0, -35, 78, 40, SKIN)
    for side in (-1, 1):
        _draw_eye(canvas, side, brows)
    canvas.line([(-5, -5), (-9, 28), (-12, 36), (0, 41), (12, 36), (9, 28)], 3, SHADE)
    _draw_mouth(canvas, smile, mouth)
    return canvas.image.filter(ImageFilter.GaussianBlur(1.5 * canvas.unit)).resize(SIZE, Image.Resampling.LANCZOS)


def _draw_eye(canvas: _Canvas, side: int, brows: float) -> None:
    x = 34 * side
    canvas.ellipse(x, -12, 19, 11, SHADE)
    canvas.ellipse(x, -11, 16, 9, WHITE)
    canvas.ellipse(x, -11, 8, 8.5, IRIS)
    canvas.ellipse(x, -11, 4, 4, PUPIL)
    canvas.ellipse(x + 3, -14, 2, 2, WHITE)
    canvas.line([(x - 17, -16), (x - 8, -22), (x + 8, -22), (x + 17, -16)], 3, HAIR)
    height = -38 - 10 * brows
    canvas.line([(x - 20, height + 4 - side), (x, height - 2), (x + 20, height + 4 + side)], 6, HAIR)


def _draw_mouth(canvas: _Canvas, smile: float, mouth: float) -> None:
    half = 26 + 12 * max(smile, -0.5)
    places = np.linspace(-1, 1, 25)
    arch = 1 - places**2
    middle = 66 + 6 * smile - 10 * smile * places**2 + 4 * max(0, -smile) * places**2
    lower = middle + (5 + 18 * mouth) * arch + 2

    def points(heights: np.ndarray) -> list[tuple[float, float]]:
        return list(zip((half * places).tolist(), heights.tolist(), strict=True))

    canvas.polygon([*points(middle - 5 * arch - 1), *reversed(points(lower + 7 * arch))], LIPS)
    if mouth > 0.05:
        canvas.polygon([*points(middle), *reversed(points(lower))], MOUTH)
    canvas.line(points(middle), 2, MOUTH)


def make_clip(path: Path) -> None:
    """Writes the clip, and its captions beside it: `clip.mp4` and `clip.srt`."""
    sound: list[np.ndarray] = []
    expressions: list[tuple[float, float]] = []  # of each picture
    captions = []
    for number, sentence in enumerate(SENTENCES, 1):
        samples, rate = speak(sentence)
        start = sum(map(len, sound)) / rate
        end = start + len(samples) / rate
        captions.append(f"{number}\n{_clock(start)} --> {_clock(end)}\n{sentence.text}\n")
        sound += [samples, np.zeros(int(PAUSE * rate), np.int16)]
        num_pictures = int((end + PAUSE) * PICTURES_PER_SECOND) - len(expressions)
        expressions += [(sentence.smile, sentence.brows)] * num_pictures
    samples = np.concatenate(sound)
    mouths = _loudness(samples, rate, len(expressions))
    steady = np.ones(6) / 6  # expressions change within 0.4 seconds
    smiles, brows = (
        np.convolve(np.pad(values, (3, 2), "edge"), steady, "valid") for values in np.transpose(expressions)
    )
    pictures = [draw_face(*values) for values in zip(smiles, brows, mouths, strict=True)]
    _encode(path, pictures, samples, rate)
    path.with_suffix(".srt").write_text("\n".join(captions), encoding="utf-8")


def _loudness(samples: np.ndarray, rate: int, num_pictures: int) -> np.ndarray:
    """How loud it is during each picture, from 0 to 1."""
    pieces = np.array_split(samples[: int(num_pictures / PICTURES_PER_SECOND * rate)].astype(float), num_pictures)
    levels = np.array([np.sqrt((piece**2).mean()) for piece in pieces])
    return levels / levels.max()


def _encode(path: Path, pictures: list[Image.Image], samples: np.ndarray, rate: int) -> None:
    """Writes H.264 and AAC, which every browser plays."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=PICTURES_PER_SECOND, options={"crf": "27", "preset": "veryslow"})
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        audio = container.add_stream("aac", rate=rate, bit_rate=40_000, layout="mono")
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_image(picture)))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


def _clock(seconds: float) -> str:
    """A time as captions have it."""
    return f"00:00:{seconds:06.3f}".replace(".", ",")


if __name__ == "__main__":
    make_clip(CLIP)
