"""Opens a container of video or sound, and reads its sound and its pictures piece by piece.

Only files are read: nothing that a file refers to, and no playlist, which would name other files. Memory, time and
output are bounded by what is in the file, whatever its header claims.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..files import DataError, one_line, open_file, read_head
from . import extras
from .contract import FRAMES_PER_SECOND, SAMPLING_RATE, Frame, MediaInfo


logger = logging.getLogger(__name__)

MAX_PIXELS = 8192 * 4320  # of a picture that is decoded; a header of a few bytes may claim more
LONGEST_SIDE = 1280  # of a picture that is given: no face analysis sees more
MIN_BYTES_PER_SECOND = 50  # of sound: the thriftiest codecs need more, so time stamps that claim less are wrong

# FFmpeg's names of containers that hold their sound and pictures themselves.
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg,mxf,wav,w64,aiff,au,caf,flac,mp3,aac,ac3,amr,wv,mpc8,ape,tta"
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
_LARGEST_GAP = 0.02  # seconds by which time stamps may be off before it is a gap
_WAY_OUT = "give a whole video or audio file, or convert it with ffmpeg"


def probe(path: Path) -> MediaInfo:
    """What is in a file, without decoding it.

    Raises:
        DataError: It is missing, or no audio or video that can be read.
    """
    with _opened(path) as container:
        duration = (container.duration or 0) / 1e6
        return MediaInfo(max(duration, 0.0), _audio(container) is not None, _video(container) is not None)


def audio_chunks(path: Path, *, sampling_rate: int = SAMPLING_RATE, seconds: float = 30) -> Iterator[np.ndarray]:
    """The sound of a clip, all channels mixed into one.

    Args:
        path: The clip.
        sampling_rate: In Hz.
        seconds: The length of a chunk; the last one may be shorter.

    Yields:
        Samples between -1 and 1, float32, of shape (n,). Gaps in the track are silence, so that sample i of the clip
        is heard at i / sampling_rate seconds.

    Raises:
        DataError: There is no sound, or it cannot be decoded.
    """
    size = round(sampling_rate * seconds)
    pieces: list[np.ndarray] = []
    waiting = 0
    for samples in _audio_pieces(path, sampling_rate):
        while waiting + len(samples) >= size:
            split = size - waiting
            yield np.concatenate([*pieces, samples[:split]])
            pieces, waiting, samples = [], 0, samples[split:]
        pieces.append(samples)
        waiting += len(samples)
    if waiting:
        yield np.concatenate(pieces)


def video_frames(path: Path, *, frames_per_second: float = FRAMES_PER_SECOND) -> Iterator[Frame]:
    """The pictures of a clip at equal distances, by their time stamps, upright; large ones are made smaller.

    Where the clip has fewer pictures than that, each is given once.

    Raises:
        DataError: There are no pictures, or they cannot be decoded.
    """
    with _opened(path) as container:
        stream = _video(container)
        if stream is None:
            raise DataError(f"{path}: no pictures in it; give a video, or leave the modality visual out")
        beginning = (container.start_time or 0) / 1e6
        due = 0.0
        for frame in _decoded(path, container, stream, "pictures"):
            time = due if frame.time is None else max(frame.time - beginning, 0.0)
            if time + 1e-6 < due:
                continue
            due = (np.floor(time * frames_per_second + 1e-6) + 1) / frames_per_second
            yield Frame(float(time), _image(frame))


def _audio_pieces(path: Path, sampling_rate: int) -> Iterator[np.ndarray]:
    """The sound of a clip as it is decoded, with silence in its gaps, in pieces of bounded length."""
    av = extras.load("av")
    with _opened(path) as container:
        stream = _audio(container)
        if stream is None:
            raise DataError(f"{path}: no sound in it; give a clip with sound, or leave the modality acoustic out")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=sampling_rate)
        beginning = (container.start_time or 0) / 1e6
        longest = path.stat().st_size / MIN_BYTES_PER_SECOND
        heard = 0.0  # seconds
        for frame in _decoded(path, container, stream, "sound"):
            gap = 0.0 if frame.time is None else frame.time - beginning - heard
            if gap > _LARGEST_GAP and heard + gap <= longest:
                yield from _resampled(resampler, None)
                yield from _silence(round(gap * sampling_rate), sampling_rate)
                resampler = av.AudioResampler(format="flt", layout="mono", rate=sampling_rate)
                heard += gap
            heard += frame.samples / frame.sample_rate
            if heard > longest:
                raise DataError(f"{path}: more sound than the file can hold; {_WAY_OUT}")
            frame.pts = None  # the resampler would fill gaps in its own way
            yield from _resampled(resampler, frame)
        yield from _resampled(resampler, None)


def _resampled(resampler: Any, frame: Any) -> Iterator[np.ndarray]:
    for resampled in resampler.resample(frame):
        samples = resampled.to_ndarray().reshape(-1)
        yield np.clip(np.nan_to_num(samples), -1, 1)


def _silence(count: int, at_once: int) -> Iterator[np.ndarray]:
    for start in range(0, count, at_once):
        yield np.zeros(min(at_once, count - start), np.float32)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a container; the file is opened here, so that FFmpeg opens none."""
    av = extras.load("av")
    read_head(path)  # refuses what is saved in place of data, with a reason
    with open_file(path) as file:
        try:
            container = av.open(file, options=_OPTIONS)
        except (ValueError, OSError, RuntimeError) as error:  # FFmpegError is one of the first two
            reason = getattr(error, "strerror", None) or one_line(error)
            raise DataError(f"{path}: not a readable video or audio file ({reason}); {_WAY_OUT}") from None
        with container:
            yield container


def _audio(container: Any) -> Any | None:
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def _video(container: Any) -> Any | None:
    """The first track of moving pictures: the cover of a song is one picture."""
    cover = extras.load("av").stream.Disposition.attached_pic
    return next(
        (
            stream
            for stream in container.streams.video
            if stream.codec_context is not None and not stream.disposition & cover
        ),
        None,
    )


def _decoded(path: Path, container: Any, stream: Any, what: str) -> Iterator[Any]:
    """The frames of a stream without the packets that are damaged, of which there may be a few.

    Raises:
        DataError: Nothing can be decoded, or more is damaged than whole.
    """
    av = extras.load("av")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    whole = damaged = 0
    cause = "it is empty"
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.FFmpegError, OSError) as error:  # the rest of the file cannot be found
            damaged, cause = damaged + 1, _reason(error)
            break
        try:
            for frame in packet.decode():
                whole += 1
                yield frame
        except av.EOFError:
            break
        except (av.FFmpegError, MemoryError) as error:
            damaged, cause = damaged + 1, _reason(error)
            if damaged > max(whole, 100):
                break
    if damaged >= whole:
        raise DataError(f"{path}: its {what} cannot be decoded ({cause}); {_WAY_OUT}")
    if damaged:
        logger.warning("%s: %d damaged pieces of its %s were left out (%s)", path, damaged, what, cause)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or one_line(error)


def _image(frame: Any) -> np.ndarray:
    """A decoded frame as an upright image of shape (height, width, 3), RGB, uint8."""
    scale = min(LONGEST_SIDE / max(frame.width, frame.height), 1)
    width, height = max(round(frame.width * scale), 1), max(round(frame.height * scale), 1)
    image = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))
