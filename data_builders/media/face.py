"""Measures faces: expression, pose of the head and gaze in each picture."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from .contract import Frame, Track


FACE_EXTRACTOR = "cpsl-face 1"  # goes into the data, and changes whenever the values do
FACE_FEATURES: tuple[str, ...] = ()


def find_face_model(path: Path | None) -> Path:
    """The file of MediaPipe's FaceLandmarker: the one that is given, or the one at the documented place.

    Raises:
        DataError: There is none.
    """
    raise NotImplementedError


def face_tracks(frames: Iterable[Frame], model: Path) -> Iterator[Track]:
    """What the face shows in each picture, as values of shape (n, len(FACE_FEATURES)), NaN where there is no face.

    Of several faces the largest is taken, and followed through the clip.
    """
    raise NotImplementedError
