import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_builders.files import DataError
from data_builders.media.contract import Frame
from data_builders.media.decoding import video_frames
from data_builders.media.face import FACE_FEATURES, face_tracks, find_face_model


ASSETS = Path(__file__).parents[4] / "shared" / "assets"
MODEL = ASSETS / "face_landmarker.task"
needs_model = pytest.mark.skipif(not MODEL.is_file(), reason="the model of faces is not here")


def portrait(name, height=600):
    image = Image.open(ASSETS / "faces" / f"{name}.jpg").convert("RGB")
    return image.resize((round(image.width * height / image.height), height))


def head(name, size):
    image = Image.open(ASSETS / "faces" / f"{name}.jpg").convert("RGB")
    margin = image.width * (0.15 if name == "obama" else 0)
    return image.crop((margin, 0, image.width - margin, image.width - 2 * margin)).resize((size, size))


def side_by_side(left, right):
    """Two heads of different sizes in a picture; None: nothing there."""
    picture = Image.new("RGB", (1200, 600), "gray")
    for place, image in ((0, left), (600, right)):
        if image is not None:
            picture.paste(image, (place, 0))
    return picture


def measure(*pictures):
    frames = (Frame(number / 10, np.asarray(picture)) for number, picture in enumerate(pictures))
    blocks = list(face_tracks(frames, MODEL))
    values = np.concatenate([block.values for block in blocks])
    np.testing.assert_allclose(np.concatenate([block.times for block in blocks]), np.arange(len(pictures)) / 10)
    return {name: values[:, index] for index, name in enumerate(FACE_FEATURES)}, values


@needs_model
def test_portraits(capfd):
    plain = [portrait("obama"), portrait("obama2"), portrait("biden")]
    turned, mirrored = plain[1].rotate(15), Image.fromarray(np.asarray(plain[1])[:, ::-1])
    empty = Image.effect_noise((400, 300), 50).convert("RGB")
    tracks, values = measure(*plain, turned, mirrored, empty, portrait("two_people"))
    assert capfd.readouterr().err == ""  # MediaPipe would tell what it loads
    assert values.shape == (7, len(FACE_FEATURES)) and values.dtype == np.float32
    assert np.isnan(values[5]).all() and np.isfinite(np.delete(values, 5, axis=0)).all()
    smiles = tracks["mouthSmileLeft"]
    assert smiles[0] > 0.9 and 0.6 < smiles[1] < 0.9 and smiles[2] < 0.15 and smiles[6] < 0.2
    assert all(((tracks[name] >= 0) & (tracks[name] <= 1))[[0, 1, 2]].all() for name in ("jawOpen", "eyeBlinkLeft"))
    # A turned picture turns the head in its plane; a mirrored one turns head and eyes to the other side.
    assert tracks["head_roll"][3] - tracks["head_roll"][1] == pytest.approx(15, abs=2)
    assert tracks["head_yaw"][3] == pytest.approx(tracks["head_yaw"][1], abs=4)
    for name, tolerance in (("head_yaw", 2), ("head_roll", 2), ("gaze_x", 0.3)):
        assert abs(tracks[name][1]) > tolerance
        assert tracks[name][4] == pytest.approx(-tracks[name][1], abs=tolerance), name
    assert (tracks["head_z"][:3] < -20).all() and tracks["head_y"][0] > 0


@needs_model
def test_the_largest_face_is_followed_until_it_is_lost():
    smiling, earnest = head("obama", 600), head("biden", 600)
    small_smiling, small_earnest = head("obama", 420), head("biden", 420)
    tracks, _ = measure(
        side_by_side(small_earnest, smiling),  # the right one is the largest
        side_by_side(earnest, small_smiling),
        side_by_side(earnest, None),
        side_by_side(small_earnest, smiling),
    )
    is_smiling = tracks["mouthSmileLeft"] > 0.5
    assert is_smiling.tolist() == [True, True, False, False]


@needs_model
def test_frames_of_a_real_clip():
    blocks = list(face_tracks(video_frames(ASSETS / "faces" / "short_hamilton_clip.mp4"), MODEL))
    values = np.concatenate([block.values for block in blocks])
    has_face = np.isfinite(values).all(axis=1)
    assert (has_face == np.isfinite(values).any(axis=1)).all()
    assert 0.35 < has_face.mean() < 0.65


@needs_model
def test_a_broken_model_is_one_line(tmp_path):
    content = MODEL.read_bytes()
    with zipfile.ZipFile(tmp_path / "other.task", "w") as archive:
        for name in zipfile.ZipFile(MODEL).namelist():
            archive.writestr(name, b"not a network" * 100)
    (tmp_path / "truncated.task").write_bytes(content[:200_000])
    for name in ("other.task", "truncated.task"):
        path = find_face_model(tmp_path / name)
        with pytest.raises(DataError, match=rf"{name}: not a readable model of .*docs/own_clips.md says where"):
            next(face_tracks([], path))


def test_where_the_model_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        DataError, match=r"^~/.cache/cpsl/face_landmarker.task: no such file.*docs/own_clips.md.*--face_model"
    ):
        find_face_model(None)
    usual = tmp_path / ".cache" / "cpsl" / "face_landmarker.task"
    usual.parent.mkdir(parents=True)
    usual.write_bytes(b"PK\3\4 and so on")
    assert find_face_model(None) == usual
    for content, reason in ((b"something else", "not a model"), (b"", "empty"), (b"<html>", "web page")):
        (tmp_path / "given.task").write_bytes(content)
        with pytest.raises(DataError, match=reason):
            find_face_model(tmp_path / "given.task")
    with pytest.raises(DataError, match="no such file"):
        find_face_model(tmp_path / "missing.task")


@pytest.mark.parametrize(
    "error, message",
    [
        (
            ModuleNotFoundError("No module named 'mediapipe'", name="mediapipe"),
            r"mediapipe is not installed.*\[media\]",
        ),
        (OSError("libEGL.so.1: cannot open shared object file"), "libEGL.so.1.*install Debian's libegl1 and libgles2"),
    ],
)
def test_what_mediapipe_lacks_is_one_line(error, message, monkeypatch, tmp_path):
    def fail(name):
        raise error

    monkeypatch.setattr("data_builders.media.extras.importlib.import_module", fail)
    with pytest.raises(DataError, match=message):
        next(face_tracks([], tmp_path / "model"))


def test_names_are_those_of_mediapipe():
    assert len(set(FACE_FEATURES)) == len(FACE_FEATURES)
    blendshapes = [name for name in FACE_FEATURES if not name.startswith(("head_", "gaze_"))]
    face_landmarker = pytest.importorskip("mediapipe.tasks.python.vision.face_landmarker")
    of_mediapipe = {shape.name.lower().replace("_", "") for shape in face_landmarker.Blendshapes}
    assert {name.lower().lstrip("_") for name in blendshapes} == of_mediapipe
