"""Opens a container of video or sound, and reads its sound and its pictures piece by piece."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .contract import FRAMES_PER_SECOND, SAMPLING_RATE, Frame, MediaInfo


def probe(path: Path) -> MediaInfo:
    """What is in a file, without decoding it.

    Raises:
        DataError: It is missing, or no audio or video that can be read.
    """
    raise NotImplementedError


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
    raise NotImplementedError


def video_frames(path: Path, *, frames_per_second: float = FRAMES_PER_SECOND) -> Iterator[Frame]:
    """The pictures of a clip at equal distances, by their time stamps, upright; large ones are made smaller.

    Raises:
        DataError: There are no pictures, or they cannot be decoded.
    """
    raise NotImplementedError
