import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest


REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or fills the cache of whoever runs it."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def shared_data():
    """A function that finds a real data set by its name, or skips the test."""

    def find(name):
        folder = REPOSITORY.parent / "shared" / "data" / name
        if not folder.is_dir():
            pytest.skip(f"the real files of {name} are not here")
        return folder

    return find


@pytest.fixture
def real_mosi(shared_data):
    return shared_data("mosi")


@pytest.fixture
def mag_data():
    """A function that makes the object of a MAG pickle: three splits, three samples a video."""

    def make(sizes=(6, 3, 3), visual=4, acoustic=5, seed=0):
        generator = np.random.default_rng(seed)
        data, number = {}, 0
        for split, size in zip(("train", "dev", "test"), sizes, strict=True):
            data[split] = []
            for _ in range(size):
                length = int(generator.integers(1, 9))
                words = [f"word{index}" for index in generator.integers(0, 99, length)]
                features = (words, generator.normal(size=(length, visual)), generator.normal(size=(length, acoustic)))
                label = np.array([[generator.uniform(-3, 3)]], np.float32)
                data[split].append((features, label, f"{split}video{number // 3}_{number % 3 + 1}"))
                number += 1
        return data

    return make


@pytest.fixture
def write_pickle(tmp_path):
    def write(value, name="data.pkl", protocol=4):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(value, protocol=protocol))
        return path

    return write


@pytest.fixture
def write_csd(tmp_path):
    """A function that writes one computational sequence: `{video: (features, intervals)}`; words as strings."""

    def write(name, root, videos, folder=tmp_path / "csd"):
        folder.mkdir(exist_ok=True)
        path = folder / name
        with h5py.File(path, "w") as file:
            for video, (features, intervals) in videos.items():
                if isinstance(features[0], str):
                    features = np.array([[word.encode()] for word in features])
                group = file.create_group(f"{root}/data/{video}")
                group["features"] = np.asarray(features)
                group["intervals"] = np.asarray(intervals, np.float64)
            file.create_group(f"{root}/metadata")[("root name")] = root
        return path

    return write


@pytest.fixture
def small_corpus(tmp_path, write_csd):
    """A folder of three videos, one a split, with words, labels and one acoustic frame every half second."""
    generator = np.random.default_rng(1)
    times = [(0.0, 0.4), (0.4, 0.6), (0.6, 1.0), (1.2, 1.9)]
    segments = [(0.0, 1.1), (1.1, 2.0)]
    frames = [(start / 2, start / 2 + 0.5) for start in range(4)]
    videos = ("one", "two", "three")
    write_csd("words.csd", "words", {video: (["a", "sp", "bad", "film"], times) for video in videos})
    write_csd("Opinion_Labels.csd", "Opinion Labels", {video: ([[1.0], [-2.0]], segments) for video in videos})
    write_csd("COVAREP.csd", "COVAREP", {video: (generator.normal(size=(4, 3)), frames) for video in videos})
    folder = tmp_path / "csd"
    (folder / "folds.json").write_text(json.dumps({"train": ["one"], "valid": ["two"], "test": ["three"]}))
    return folder
