"""Labels of tables that are no sentiments: classes, several classes, several numbers, other ranges."""

import csv
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from table_cases import write_jsonl

from data_builders import DataError, load_aligned_dataset
from data_builders.arrow_rows import label_format_of
from data_builders.conversion import write_parquet
from data_builders.distributions import plot
from data_builders.inspection import inspect
from data_builders.labels import LabelFormat


ROWS = [{"id": f"v_{k}", "text": f"word {k}", "split": ("train", "dev")[k % 2]} for k in range(4)]


def labelled(*labels, name="label"):
    return [row | {name: label} for row, label in zip(ROWS, labels, strict=True)]


def write_table(folder, kind, rows):
    path = folder / f"mine.{kind}"
    if kind == "jsonl":
        return write_jsonl(path, rows)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_names_are_classes(tmp_path, cache, kind, streaming, caplog):
    path = write_table(tmp_path, kind, labelled("悲しい", "happy", "happy", "悲しい"))
    with caplog.at_level(logging.WARNING):
        splits = load_aligned_dataset(path, cache_dir=cache, streaming=streaming)
        assert [row["label"] for row in splits["train"]] == [1, 0]
    assert [row["label"] for row in splits["validation"]] == [0, 1]
    assert splits["validation"].features["label"] == ClassLabel(names=["happy", "悲しい"])
    assert any("a label is one of 2 classes: happy, 悲しい" in record.message for record in caplog.records)
    assert "labels: happy: 1, 悲しい: 1" in inspect(path) and "v_0 [悲しい] 'word 0'" in inspect(path)


def test_a_class_that_training_does_not_have_is_refused_or_left_out(tmp_path, cache):
    path = write_table(tmp_path, "csv", labelled("sad", "Sad", "happy", "sad"))
    with pytest.raises(DataError, match=r"mine\.csv: sample v_1: label 'Sad' is not one of 2 classes: happy, sad"):
        load_aligned_dataset(path, cache_dir=cache)
    assert len(load_aligned_dataset(path, cache_dir=cache, on_error="skip")["validation"]) == 1
    merged = load_aligned_dataset(path, cache_dir=cache, labels_of_all_splits=True)  # as for folds
    assert merged["train"].features["label"].names == ["Sad", "happy", "sad"] and len(merged["validation"]) == 2
    assert "v_1: label 'Sad' is not one of 2 classes" in inspect(path)


def test_classes_that_differ_in_case_are_said(tmp_path, cache, caplog):
    path = write_table(tmp_path, "csv", labelled("sad", "Sad", "Sad", "sad"))
    with caplog.at_level(logging.WARNING):
        load_aligned_dataset(path, cache_dir=cache)
    assert any("'Sad' and 'sad' differ in case" in record.message for record in caplog.records)
    assert "'Sad' and 'sad' differ in case" in inspect(path)


@pytest.mark.parametrize(
    ("kind", "labels", "options"),
    [
        ("csv", ('["sad", "happy"]', "[]", '["happy"]', '["sad"]'), {}),
        ("csv", ("sad; happy", "[]", "happy", "sad"), {"label_kind": "classes"}),
        ("jsonl", (["sad", "happy"], [], ["happy"], ["sad"]), {}),
        ("parquet", (["sad", "happy"], [], ["happy"], ["sad"]), {}),
    ],
)
def test_lists_are_several_classes(tmp_path, cache, kind, labels, options):
    path = write_table(tmp_path, kind, labelled(*labels))
    splits = load_aligned_dataset(path, cache_dir=cache, **options)
    assert splits["train"].features["label"] == List(ClassLabel(names=["happy", "sad"]))
    assert splits["train"]["label"] == [[0, 1], [0]] and splits["validation"]["label"] == [[], [1]]
    assert "labels: happy: 2, sad: 1" in inspect(path, **options)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_numbers_are_classes_where_that_is_said(tmp_path, cache, kind):
    path = write_table(tmp_path, kind, labelled(0, 1, 1, 0))
    assert load_aligned_dataset(path, cache_dir=cache)["train"]["label"] == [0.0, 1.0]
    train = load_aligned_dataset(path, cache_dir=cache, label_kind="class")["train"]
    assert train.features["label"] == ClassLabel(names=["0", "1"]) and train["label"] == [0, 1]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_several_columns_are_several_numbers(tmp_path, cache, kind):
    rows = [row | {"happy": k, "sad": k / 2, "note": "x"} for k, row in enumerate(labelled(*"abcd"))]
    path = write_table(tmp_path, kind, rows)
    train = load_aligned_dataset(path, cache_dir=cache, labels=["sad", "happy"], label_range=[0, 2, 0, 3])["train"]
    assert train["label"] == [{"sad": 0.0, "happy": 0.0}, {"sad": 1.0, "happy": 2.0}]
    assert label_format_of(train.features) == LabelFormat("numbers", ("sad", "happy"), ((0.0, 2.0), (0.0, 3.0)))
    assert train.column_names == ["id", "video_id", "words", "label"]
    with pytest.raises(DataError, match=r"sample v_3: label happy 3 is outside of \[0, 2\]"):
        load_aligned_dataset(path, cache_dir=cache, labels=["sad", "happy"], label_range=[0, 2])
    classes = load_aligned_dataset(path, cache_dir=cache, labels=["happy", "sad"], label_kind="classes")["train"]
    assert classes["label"] == [[], [0, 1]]
    assert "columns left out: label (the label is sad, happy); note (text)" in inspect(path, labels=["sad", "happy"])
    assert "label happy: mean 1.000, deviation 1.000, zero 1" in inspect(path, labels=["sad", "happy"])


def test_a_record_is_several_numbers(tmp_path, cache):
    records = [{"valence": k / 2, "arousal": 5} for k in range(4)]
    for kind in ("jsonl", "parquet"):
        train = load_aligned_dataset(write_table(tmp_path, kind, labelled(*records)), cache_dir=cache)["train"]
        assert train["label"] == [records[0], records[2]]


def test_one_column_of_another_name_and_range(tmp_path, cache):
    path = write_table(tmp_path, "csv", labelled(1, 5, 3, 9, name="arousal"))
    with pytest.raises(DataError, match=r"sample v_1: label 5 is outside of \[-3, 3\]; .*give theirs .--label_range"):
        load_aligned_dataset(path, cache_dir=cache, labels=["arousal"])
    splits = load_aligned_dataset(path, cache_dir=cache, labels=["arousal"], label_range=[1, 9])
    assert splits["train"]["label"] == [1.0, 3.0]
    assert label_format_of(splits["train"].features) == LabelFormat("number", ("arousal",), ((1.0, 9.0),))
    with pytest.raises(DataError, match=r"mine\.csv: no column valence among arousal, id, split, text; "):
        load_aligned_dataset(path, cache_dir=cache, labels=["valence"])
    for wrong, message in (("a,b", "is one string; give a list"), (["a", "a"], "names a column twice")):
        with pytest.raises(DataError, match=message):
            load_aligned_dataset(path, cache_dir=cache, labels=wrong)


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (("sad", "happy", "happy", "sad"), {}),
        ((["sad"], [], ["happy", "sad"], ["sad"]), {}),
        (({"a": 1, "b": 0.5},) * 4, {"label_range": [0, 1, 0, 2]}),
        ((0.5, -1, 1, 0), {"label_range": [-1, 1]}),
        ((0.5, -1, 1, 0), {}),
    ],
)
def test_what_is_converted_says_what_labels_are(tmp_path, cache, labels, options):
    path = write_table(tmp_path, "jsonl", labelled(*labels))
    splits = load_aligned_dataset(path, cache_dir=cache, **options)
    write_parquet(splits, tmp_path / "out")
    again = load_aligned_dataset(tmp_path / "out", cache_dir=cache)
    assert again["validation"].features == splits["validation"].features
    assert again["train"]["label"] == splits["train"]["label"]
    assert "a `label` " in (tmp_path / "out" / "README.md").read_text()
    plot(again, tmp_path / "labels.png")
    assert (tmp_path / "labels.png").stat().st_size > 5000


def test_classes_of_other_peoples_parquet_keep_their_order(tmp_path, cache):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "neutral", "joy"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [2, 0]}, features=features).to_parquet(tmp_path / "train.parquet")
    train = load_aligned_dataset(tmp_path / "train.parquet", cache_dir=cache)["train"]
    assert train.features["label"] == features["label"] and train["label"] == [2, 0]


def test_labels_of_a_model_are_known_without_training_data(tmp_path, cache):
    path = write_table(tmp_path, "jsonl", labelled("sad", "furious", None, 7))
    known = LabelFormat("class", ("happy", "sad"), ())
    splits = load_aligned_dataset(path, cache_dir=cache, labels=None, label_format=known)
    assert splits["train"]["label"] == [1, None] and splits["validation"]["label"] == [None, None]
    both = LabelFormat("classes", ("happy", "sad"), ())
    assert load_aligned_dataset(path, cache_dir=cache, labels=None, label_format=both)["train"]["label"] == [[1], None]


def test_all_seven_labels_of_mosei(tmp_path, cache, write_pickle):
    generator = np.random.default_rng(0)
    seven = np.array([[1.5, 0.0, 3.0, 0.0, 1 / 3, 0.0, 2.0]], np.float32)
    sample = (["good"], generator.normal(size=(1, 2)), generator.normal(size=(1, 3)))
    path = write_pickle(
        {"train": [(sample, seven, "v_1")], "dev": [(sample, seven[:, :1], "v_2"), (sample, seven, "v_3")]}
    )
    assert load_aligned_dataset(path, cache_dir=cache)["train"]["label"] == [1.5]
    names = ["sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear"]
    train = load_aligned_dataset(path, cache_dir=cache, labels=names, on_error="skip")["train"]
    assert train[0]["label"] == pytest.approx(dict(zip(names, seven[0].tolist(), strict=True)))
    assert label_format_of(train.features).ranges == ((-3.0, 3.0), *[(0.0, 3.0)] * 6)
    assert load_aligned_dataset(path, cache_dir=cache, labels=["sad"], on_error="skip")["train"]["label"] == [3.0]
    with pytest.raises(DataError, match="sample v_2: its label sad is missing"):
        load_aligned_dataset(path, cache_dir=cache, labels=["sad"])
    with pytest.raises(DataError, match="no label 'joy' in it; of mag_pickle data, labels may be sentiment, happy"):
        load_aligned_dataset(path, cache_dir=cache, labels=["joy"])


def test_classes_in_a_pickle(cache, write_pickle):
    labels = [np.array([[2.0]]), 1, "2"]
    samples = [((["good"], np.ones((1, 2)), np.ones((1, 3))), label, f"v_{k}") for k, label in enumerate(labels)]
    path = write_pickle({"train": samples})
    train = load_aligned_dataset(path, cache_dir=cache, label_kind="class")["train"]
    assert train.features["label"].names == ["1", "2"] and train["label"] == [1, 0, 1]
