"""Boundaries that take data: valid files of every format, read to their last row as a build reads them."""

import contextlib
import pickle
from pathlib import Path

import numpy as np
from boundaries import Boundary
from mutations import NESTED_LISTS, ODD_ARRAYS, SHARED_LISTS

from data_builders import DataError, make_builder


def read_data(path: Path) -> None:
    """Reads every row, to predict on and to train on, of a file `data` in a folder or else of the whole folder."""
    path = next(path.glob("data.*"), path)
    for labels in (None, True):
        with contextlib.suppress(DataError) if labels else contextlib.nullcontext():  # there may be none
            builder = make_builder(str(path), labels=labels, on_error="skip", streaming=True)
            for _ in builder.read_once()[1]:
                pass


def _mag(generator):
    return [
        ((["good", "film", "é", "x"][:n], generator.normal(size=(n, 3)), generator.normal(size=(n, 4))), 0.5, f"v_{n}")
        for n in (1, 3, 4)
    ]


def _misa(generator):
    return [
        (
            ([1, 2], generator.normal(size=(2, 3)), generator.normal(size=(2, 4)), ["a", "b"]),
            np.array([[k]]),
            f"v[{k}]",
        )
        for k in (1.0, -1.0)
    ]


def _mmim(generator):
    arrays = generator.normal(size=(9, 3)), generator.normal(size=(7, 4))
    return [((np.array([1, 2]), *arrays, ["a", "b"], np.array(4), 5), np.array([[1.0]]), "v_1")]


def _columns(generator):
    return {"audio": generator.normal(size=(2, 5, 3)), "vision": generator.normal(size=(2, 7, 4)).astype("f4")}


def _mmsa(generator):
    texts = {"raw_text": ["good film", "bad"], "id": ["a$_$1", "a$_$2"], "regression_labels": np.zeros(2)}
    return texts | _columns(generator) | {"audio_lengths": [4, 5], "vision_lengths": np.array([4, 5])}


def _mult(generator):
    texts = {"labels": np.zeros((2, 1, 1)), "id": np.array(["a", "b"]), "text": generator.normal(size=(2, 5, 6))}
    return texts | _columns(generator)


def _sequences(generator):
    words = np.array([[b"good"], [b"sp"], [b"film"]])
    sequences = {
        "words": (words, [[0, 1], [1, 2], [2, 3]]),
        "Opinion Labels": (np.array([[1.0], [-1.0]], "f4"), [[0, 1.5], [1.5, 3]]),
        "COVAREP": (generator.normal(size=(6, 4)), [[k / 2, k / 2 + 0.5] for k in range(6)]),
    }
    files = {
        f"{name}.csd": {
            name: {
                "data": {
                    video: {"features": features, "intervals": np.array(intervals, float)} for video in ("one", "two")
                }
            }
        }
        for name, (features, intervals) in sequences.items()
    }
    segments = [{"id": "one_1", "video_id": "one", "start": 0.0, "end": 1.5}]
    return files | {"folds.json": {"train": ["one"], "test": ["two"]}, "segments.json": {"segments": segments}}


def _rows(count=6, **cells):
    features = [[0.5, 1.0], [1.0, 2.0]]
    return [
        {"id": f"v_{k}", "words": ["a", "b"], "acoustic": features, "label": k / 2 - 1, "split": "train"} | cells
        for k in range(count)
    ]


def _pickles(name):
    """Folders of a format: in two protocols, with a file for each split where that is its habit, and unlabelled."""
    generator = np.random.default_rng(0)
    make = {
        **{"mag_pickle": _mag, "misa_pickle": _misa, "mmim_pickle": _mmim},
        **{"mmsa_pickle": _mmsa, "mult_pickle": _mult},
    }
    train, dev = make[name](generator), make[name](generator)
    folders = [{"data.pkl": {"train": train, "dev": dev}}, {"data.pkl": pickle.dumps({"train": train}, protocol=0)}]
    if isinstance(train, list):
        return [*folders, {"train.pkl": train, "dev.pkl": dev}, {"test.pkl": [sample[::2] for sample in train]}]
    unlabelled = {column: values for column, values in train.items() if "labels" not in column}
    unlabelled["audio"] = [rows.tolist() for rows in unlabelled["audio"]]
    return [*folders, {"data.pkl": unlabelled if name == "mmsa_pickle" else {"test": unlabelled}}]


def _tables(name):
    timed = {"start": 0.0, "end": 2.0, "word_start": [0.0, 1.0], "word_end": [1.0, 2.0], "video_id": "v"}
    text = {"words": '["a", "b"]', "acoustic": "[[1, 2], [3, 4]]"}
    references = [*_rows(2, acoustic="x.npz"), *_rows(2, acoustic="y.npy"), *_rows(2, features="x.npz", acoustic=None)]
    arrays = {"x.npz": {"acoustic": np.ones((2, 3)), "visual": np.ones((2, 2))}, "y.npy": np.ones((2, 3), "f4")}
    return {
        "labels": [
            {"data.jsonl": [*_rows(2, label="a"), *_rows(2, label=["a", "b"]), *_rows(2, label="b")]},
            {"data.jsonl": _rows(3, label={"valence": 1, "arousal": 0.5})},
        ],
        "csv": [{"data.csv": _rows(3, **text)}, {"data.csv": _rows(3, text="a b", **text)}],
        "jsonl": [{"data.jsonl": _rows()}, {"data.jsonl": _rows(2, **timed)}],
        "parquet": [{"data.parquet": _rows()}, {"data.parquet": _rows(2, **timed)}],
        "arrays": [{"data.jsonl": references, **arrays}],
    }[name]


def _corpora(name):
    meld = [
        {"Utterance": "So it is", "Speaker": "Ross", "Emotion": emotion, "Dialogue_ID": 1, "Utterance_ID": k}
        for k, emotion in enumerate(("joy", "anger", "joy"))
    ]
    sst = [{"id": f"sst_train_{k}", "text": "a good film", "sentiment": k} for k in range(5)]
    trees = b"(3 (2 It) (4 (2 's) (3 good)))\n(0 (1 Bad) (2 film))\n"
    return {
        "meld": [{"train_sent_emo.csv": meld, "dev_sent_emo.csv": meld}, {"test_sent_emo.csv": meld[1:]}],
        "sst": [{"train.csv": sst}, {"train.csv": sst, "dev.csv": sst[::2]}],
        "trees": [{"train.txt": trees, "dev.txt": trees}, {"test.txt": trees}],
    }[name]


def boundary(name):
    """The boundary of a format, or of the arrays beside a table."""
    if name.endswith("_pickle"):
        odd_values = (*ODD_ARRAYS, SHARED_LISTS, NESTED_LISTS, (1, 2), {1, 2}, np.float32(2.5))
        return Boundary(_pickles(name), read_data, odd_values)
    if name in ("meld", "sst", "trees"):
        return Boundary(_corpora(name), read_data)
    if name == "csd":
        whole = _sequences(np.random.default_rng(0))
        unlabelled = {file: value for file, value in whole.items() if file != "Opinion Labels.csd"}
        return Boundary([whole, unlabelled], read_data, tuple(ODD_ARRAYS))
    return Boundary(_tables(name), read_data, tuple(ODD_ARRAYS))
