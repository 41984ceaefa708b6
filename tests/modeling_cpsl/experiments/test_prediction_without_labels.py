"""`predict` takes the research formats without labels, and with the gaps that they have."""

import pickle

import h5py
import numpy as np
import pandas as pd
import pytest
from prediction_cases import corpus, run, write_jsonl

from cpsl import main


@pytest.fixture
def data(tmp_path):
    """A folder with a file or folder of each format."""
    generator = np.random.default_rng(0)
    frames = {"audio": generator.normal(size=(2, 8, 74)), "vision": generator.normal(size=(2, 8, 47))}
    features = np.ones((2, 47)), np.ones((2, 74))
    mmsa = {"id": ["a", "b"], "raw_text": ["great", None], **frames}
    for name, content in {
        "mag": {"test": [((["the", "movie"], *features), "a"), ((None, *features), "b")]},
        "mmsa": {"train": {column: values[:0] for column, values in mmsa.items()}, "valid": {}, "test": mmsa},
        "mult": {"test": {"id": ["a", "b"], "text": generator.normal(size=(2, 3, 300)), **frames}},
        "clip": {"raw_text": "great", **{column: values[0] for column, values in frames.items()}},
    }.items():
        (tmp_path / name).write_bytes(pickle.dumps(content))
    (tmp_path / "csd").mkdir()
    for name, values in {"words": np.array([[b"the"], [b"movie"]]), "COVAREP": np.ones((2, 74))}.items():
        with h5py.File(tmp_path / "csd" / f"{name}.csd", "w") as file:
            file[f"{name}/data/video/features"] = values
            file[f"{name}/data/video/intervals"] = [[0.0, 1.0], [1.0, 2.0]]
    return tmp_path


def test_every_utterance_has_a_score(trained_folder, data):
    expected = {"mag": ["a", "b"], "mmsa": ["a", "b"], "mult": ["a", "b"], "clip": ["clip"], "csd": ["video_1"]}
    for name, ids in expected.items():
        out = data / f"{name}.csv"
        assert main(["predict", str(trained_folder), str(data / name), str(out), "--device", "cpu"]) == 0
        table = pd.read_csv(out)
        assert list(table["id"]) == ids and table["score"].notna().all(), name


def test_labels_that_cannot_be_used_are_left_empty_and_told(trained_folder, tmp_path, caplog):
    labels = [1.0, 50, "good", None]
    rows = [row | {"label": label} for row, label in zip(corpus(4), labels, strict=True)]
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    assert run(trained_folder, data, tmp_path / "out.csv") == 0
    first = "sample 00001: label 50 is outside of [-3, 3]; correct or remove the sample, or scale all labels to"
    (message,) = [message for message in caplog.messages if "left empty" in message]
    assert message.startswith(f"{data}: 2 labels left empty, the first: {first}")
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["score"].notna().all() and table["label"].tolist()[0] == 1.0 and table["label"].isna().sum() == 3


def test_true_labels_may_be_in_a_column_of_another_name(trained_folder, tmp_path):
    data = write_jsonl([row | {"mood": 1.5, "label": "good"} for row in corpus(3)], tmp_path / "data.jsonl")
    assert run(trained_folder, data, tmp_path / "out.csv", "--labels", "mood") == 0
    assert pd.read_csv(tmp_path / "out.csv")["label"].tolist() == [1.5] * 3
