"""Measures faces: expression, pose of the head and gaze in each picture, by MediaPipe's FaceLandmarker.

Each picture is measured by itself, on the CPU, so the values depend on nothing but the picture.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..files import DataError, broken_files_are_data_errors, read_head
from . import extras
from .contract import Frame, Track


FACE_EXTRACTOR = "cpsl-face 1"  # goes into the data, and changes whenever the values do
_ONE_SIDED = (
    *("browDown", "browOuterUp", "cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp"),
    *("eyeSquint", "eyeWide", "jaw", "mouth", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress"),
    *("mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer"),
)
_BLENDSHAPES = (
    *("_neutral", "browInnerUp", "cheekPuff", "jawForward", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker"),
    *("mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *(f"{name}{side}" for name in _ONE_SIDED for side in ("Left", "Right")),
)
# The name and the unit of each value, and what it is; docs/features.md has the table. "Right" is that of the picture.
FACE_DESCRIPTORS = (
    *((name, "0 to 1", "how far this movement of the face has gone, as MediaPipe names it") for name in _BLENDSHAPES),
    ("head_pitch", "degrees", "the head looks up (above 0) or down"),
    ("head_yaw", "degrees", "the head is turned to the right (above 0) or to the left"),
    ("head_roll", "degrees", "the head leans to the left (above 0) or to the right"),
    ("head_x", "cm", "the head's place, to the right of the picture's middle; for a camera of usual width"),
    ("head_y", "cm", "the head's place, above the picture's middle"),
    ("head_z", "cm", "minus the head's distance from the camera"),
    ("gaze_x", "-1 to 1", "the eyes are turned to the right (above 0) or to the left, within the head"),
    ("gaze_y", "-1 to 1", "the eyes are turned up (above 0) or down, within the head"),
)
FACE_FEATURES: tuple[str, ...] = tuple(name for name, _, _ in FACE_DESCRIPTORS)
_MODEL_NAME = "face_landmarker.task"
_GET_IT = "docs/own_clips.md says where to get it"
_MOST_FACES = 5  # of those that are seen in a picture
_BLOCK = 100  # pictures of a track that are given at a time


def find_face_model(path: Path | None) -> Path:
    """The file of MediaPipe's FaceLandmarker: the one that is given, or `~/.cache/cpsl/face_landmarker.task`.

    Raises:
        DataError: There is none, or it is something else.
    """
    usual = Path.home() / ".cache" / "cpsl" / _MODEL_NAME
    if path is None and not usual.exists():
        raise DataError(
            f"~/.cache/cpsl/{_MODEL_NAME}: no such file, and faces need it; {_GET_IT}, or name it (--face_model)"
        )
    path = path or usual
    if b"PK\3\4" not in read_head(path)[:8]:
        raise DataError(f"{path}: not a model of MediaPipe's FaceLandmarker; {_GET_IT}")
    return path


def face_tracks(frames: Iterable[Frame], model: Path) -> Iterator[Track]:
    """What the face shows in each picture, in blocks of pictures.

    The face is the largest one; it is followed until it is lost, and then it is the largest one again.

    Args:
        frames: The pictures, in the order of time.
        model: The file of MediaPipe's FaceLandmarker.

    Yields:
        Values of shape (n, len(FACE_FEATURES)), float32, NaN where there is no face.

    Raises:
        DataError: MediaPipe is not installed or lacks a library, or the model cannot be read.
    """
    mediapipe, landmarker = _load(model)
    place = None  # of the face that is followed
    times: list[float] = []
    rows: list[np.ndarray] = []
    with landmarker:
        for frame in frames:
            image = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(frame.image))
            found = landmarker.detect(image)
            row = np.full(len(FACE_FEATURES), np.nan, np.float32)
            boxes = [_box(landmarks) for landmarks in found.face_landmarks]
            if boxes:
                chosen = _choose(boxes, place)
                place = boxes[chosen]
                row[:] = _measure(found.face_blendshapes[chosen], found.facial_transformation_matrixes[chosen])
            times.append(frame.time)
            rows.append(row)
            if len(rows) == _BLOCK:
                yield Track(np.array(times), np.stack(rows))
                times, rows = [], []
    if rows:
        yield Track(np.array(times), np.stack(rows))


def _load(model: Path) -> tuple[Any, Any]:
    """The package MediaPipe, and its landmarker, which has looked at a first picture.

    MediaPipe tells what it loads on the standard error of the process, from threads of its own, whatever is asked of
    it; so nothing is heard from the process until that is over.
    """
    with _silent_errors():
        try:
            mediapipe = extras.load("mediapipe")
            vision = extras.load("mediapipe.tasks.python.vision")
            base = extras.load("mediapipe.tasks.python").BaseOptions
        except OSError as error:  # a shared library of the system is missing
            raise DataError(f"mediapipe cannot be loaded ({error}); install Debian's libegl1 and libgles2") from None
        with broken_files_are_data_errors(model, "model of MediaPipe's FaceLandmarker", _GET_IT):
            landmarker = vision.FaceLandmarker.create_from_options(
                vision.FaceLandmarkerOptions(
                    base_options=base(model_asset_path=str(model), delegate=base.Delegate.CPU),
                    num_faces=_MOST_FACES,
                    output_face_blendshapes=True,
                    output_facial_transformation_matrixes=True,
                )
            )
            landmarker.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, np.zeros((64, 64, 3), np.uint8)))
    return mediapipe, landmarker


@contextlib.contextmanager
def _silent_errors() -> Iterator[None]:
    """Nothing that is written to the standard error by code outside Python is seen within the block."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _box(landmarks: list[Any]) -> np.ndarray:
    """The left, upper, right and lower border of a face, as shares of the picture."""
    points = np.array([(point.x, point.y) for point in landmarks])
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _choose(boxes: list[np.ndarray], place: np.ndarray | None) -> int:
    """The face whose box overlaps most with the one that is followed; else the largest."""
    if place is not None:
        overlaps = [
            _area(np.concatenate([np.maximum(box[:2], place[:2]), np.minimum(box[2:], place[2:])])) for box in boxes
        ]
        if max(overlaps) > 0:
            return int(np.argmax(overlaps))
    return int(np.argmax([_area(box) for box in boxes]))


def _area(box: np.ndarray) -> float:
    return float(np.prod(np.maximum(box[2:] - box[:2], 0)))


def _measure(blendshapes: list[Any], matrix: np.ndarray) -> np.ndarray:
    """The values of a face, from MediaPipe's blendshapes and the matrix that moves a face to its place."""
    scores = {shape.category_name: shape.score for shape in blendshapes}
    # The columns of the matrix are where the head's right, up and front point: to the right, up, to the camera.
    pitch = np.arcsin(np.clip(matrix[1, 2], -1, 1))
    yaw = np.arctan2(matrix[0, 2], matrix[2, 2])
    roll = np.arctan2(matrix[1, 0], matrix[1, 1])
    # The left eye of the person is to the right in the picture.
    gaze_x = scores["eyeLookOutLeft"] - scores["eyeLookInLeft"] + scores["eyeLookInRight"] - scores["eyeLookOutRight"]
    gaze_y = sum(scores[f"eyeLookUp{side}"] - scores[f"eyeLookDown{side}"] for side in ("Left", "Right"))
    return np.array(
        [
            *(scores[name] for name in _BLENDSHAPES),
            *np.degrees([pitch, yaw, roll]),
            *matrix[:3, 3],
            gaze_x / 2,
            gaze_y / 2,
        ]
    )
