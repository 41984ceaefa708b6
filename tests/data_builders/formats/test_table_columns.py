"""Which columns of a table are read as what, and that none is left out in silence."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_cases import GOOD, as_arrays, write_jsonl

from data_builders import DataError, load_aligned_dataset
from data_builders.inspection import inspect


# Columns of which no cell is right are said, and not taken for something else than features.


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("typo/a.npy", r"typo/a\.npy: no such file"),
        ("../secret.npy", "'../secret.npy' is outside of"),
        ("objects.npy", r"objects\.npy: not a readable"),
        (
            "vector.npy",
            r"acoustic has shape \(3,\), and a modality needs one row a word; repeat a vector of the whole",
        ),
        ([1.0, 2.0, 3.0], r"acoustic has shape \(3,\), and a modality needs one row a word; repeat"),
        ([[[1.0]], [[2.0]]], r"acoustic has shape \(2, 1, 1\)"),
        ([[1.0], [2.0, 3.0]], "acoustic is not a list of rows of numbers"),
        ([[10**400], [1]], "acoustic is not a list of rows of numbers"),
        ("[[1. 2.]", "is how Python or NumPy prints a list"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_column_of_bad_features_alone_is_not_lost_in_silence(tmp_path, cache, cell, message, on_error):
    folder = tmp_path / "table"
    folder.mkdir()
    np.save(tmp_path / "secret.npy", np.ones((2, 3)))
    np.save(folder / "objects.npy", np.array([[1], [2]], object), allow_pickle=True)
    np.save(folder / "vector.npy", np.ones(3))
    rows = [{**GOOD, "id": "v_0", "acoustic": None}, *({**GOOD, "id": f"v_{k}", "acoustic": cell} for k in (1, 2))]
    path = write_jsonl(folder / "mine.jsonl", rows)
    with pytest.raises(
        DataError, match=rf"mine\.jsonl: sample v_1: column acoustic: .*{message}.*name the modalities to read"
    ):
        load_aligned_dataset(path, cache_dir=cache, on_error=on_error)


def test_a_column_of_bad_paths_is_not_lost_where_some_cells_are_words(tmp_path, cache):
    rows = [{**GOOD, "id": f"v_{k}", "pose": cell} for k, cell in enumerate(("n/a", "typo/a.npy"))]
    path = write_jsonl(tmp_path / "mine.jsonl", rows)
    with pytest.raises(DataError, match=r"sample v_1: column pose: .*typo/a\.npy: no such file"):
        load_aligned_dataset(path, cache_dir=cache)


def test_a_column_features_needs_arrays_with_names(tmp_path, cache):
    np.save(tmp_path / "0.npy", np.ones((2, 3)))
    path = write_jsonl(tmp_path / "mine.jsonl", [{"words": ["a", "b"], "label": 1, "features": "0.npy"}])
    with pytest.raises(DataError, match=r"0\.npy: .* column features .*\.npz.* give the column the name of"):
        load_aligned_dataset(path, cache_dir=cache)


@pytest.mark.parametrize(
    "cell",
    [
        "[array([0.1, 0.2]), array([0.3, 0.4])]",
        "np.array([[0.1], [0.2]])",
        "[tensor([0.1]), tensor([0.2])]",
        "((0.1, 0.2), (0.3, 0.4))",
        "(0.1, 0.2)",
        "{'f0': [0.1, 0.2]}",
        {"f0": [0.1, 0.2]},
        [None, [0.1]],
        "[null, [0.1]]",
        "0.1 0.2 -3e-1",
        "features/a.pt",
        "a.NPY",
        ["0.npy", "1.npy"],
        "clips/a b.mp4",
    ],
)
@pytest.mark.parametrize("column", ["acoustic", "pose"])
def test_what_looks_like_features_is_not_lost_unless_asked_for(tmp_path, cache, cell, column):
    rows = [{"id": f"v_{k}", "text": "a b", "label": 1, "visual": [[1.0], [2.0]], column: cell} for k in range(2)]
    path = write_jsonl(tmp_path / "mine.jsonl", rows)
    with pytest.raises(DataError, match=rf"mine\.jsonl: sample v_0: column {column}: .*--modalities a,b") as caught:
        load_aligned_dataset(path, cache_dir=cache)
    assert "\n" not in str(caught.value)
    split = load_aligned_dataset(path, cache_dir=cache, modalities=["text", "visual"])["train"]
    assert split.column_names == ["id", "video_id", "words", "visual", "label"]
    with pytest.raises(DataError, match=f"column {column}: "):
        load_aligned_dataset(path, cache_dir=cache, modalities=["text", column])
    with pytest.raises(DataError, match="no modality 'absent' in it; its modalities are: text, visual"):
        load_aligned_dataset(path, cache_dir=cache, modalities=["text", "absent"])


@pytest.mark.parametrize("cell", ["n/a", 5, {"a": 1}, "very loud"])
def test_a_column_that_is_called_like_a_modality_is_not_lost(tmp_path, cache, cell):
    path = write_jsonl(tmp_path / "mine.jsonl", [{"text": "a b", "label": 1, "Voice": cell}])
    with pytest.raises(DataError, match=r"sample mine-0: column Voice: .*name the modalities to read"):
        load_aligned_dataset(path, cache_dir=cache)


def test_every_column_that_is_left_out_is_named_once(tmp_path, cache, caplog):
    plain = {"tags": ["x", "y"], "meta": {"a": 1}, "note": "[laughs] see a list", "who": "[12] me", "none": [], "n": 5}
    rows = [{**GOOD, "id": f"v_{k}", "start": 0, "day": "2020-01-01", **plain} for k in range(3)]
    rows[1]["who"] = "me"
    path = write_jsonl(tmp_path / "mine.jsonl", rows)
    said = (
        "columns left out: day, note, who (text); meta (records); n (numbers); none (empty); start (times are "
        "read where all files have end, start, word_end, word_start); tags (lists)"
    )
    for streaming in (False, True):
        caplog.clear()
        split = load_aligned_dataset(path, cache_dir=cache, streaming=streaming)["train"]
        assert len(list(split)) == 3 and split.column_names == ["id", "video_id", "words", "acoustic", "label"]
        assert caplog.messages == [f"{path}: {said}"]
    assert said in inspect(path)


@pytest.mark.parametrize(
    ("column", "cell"), [("sentence", "Great"), ("note", "a good film"), ("Text", "好"), ("tokens", ["a", "film"])]
)
def test_words_in_another_column_are_not_lost(tmp_path, cache, column, cell):
    rows = [{"id": f"v_{k}", "label": 1, "acoustic": [[1.0], [2.0]], column: cell} for k in range(2)]
    path = write_jsonl(tmp_path / "mine.jsonl", rows)
    with pytest.raises(DataError, match=rf"mine\.jsonl: no column words .*column {column} .*rename it to text"):
        load_aligned_dataset(path, cache_dir=cache)
    with pytest.raises(DataError, match="rename it to text"):
        load_aligned_dataset(path, cache_dir=cache, modalities=["text", "acoustic"])
    assert load_aligned_dataset(path, cache_dir=cache, modalities=["acoustic"])["train"][0]["words"] == []
    rows = [{"text" if name == column else name: value for name, value in row.items()} for row in rows]
    assert load_aligned_dataset(write_jsonl(path, rows), cache_dir=cache, modalities=[])["train"][0]["words"]


def test_an_array_of_an_npz_that_is_no_modality_is_not_lost(tmp_path, cache):
    np.savez(tmp_path / "0.npz", acoustic=np.ones((2, 3)), visual=np.ones(3))
    path = write_jsonl(tmp_path / "mine.jsonl", [{"text": "a b", "label": 1, "features": "0.npz"}])
    with pytest.raises(DataError, match=r"column features: visual has shape \(3,\).*name the modalities"):
        load_aligned_dataset(path, cache_dir=cache)


@pytest.mark.parametrize("cell", ["n/a", 5, "missing.npy", [1.0]])
def test_a_first_cell_that_is_wrong_does_not_hide_the_others(tmp_path, cache, cell):
    path = write_jsonl(tmp_path / "mine.jsonl", [{**GOOD, "id": "bad_1", "acoustic": cell}, GOOD])
    with pytest.raises(DataError, match="sample bad_1: "):
        load_aligned_dataset(path, cache_dir=cache)
    split = load_aligned_dataset(path, cache_dir=cache, on_error="skip")["train"].with_format("numpy")
    assert list(split["id"]) == ["good_1"] and split[0]["acoustic"].tolist() == [[1.0], [2.0]]


# What some files or rows have and others have not is missing in those, and there in these.


def test_a_modality_of_one_file_is_missing_in_the_other(tmp_path, cache):
    write_jsonl(tmp_path / "train.jsonl", [GOOD])
    pq.write_table(pa.table({"words": [["a"]], "label": [1.0]}), tmp_path / "validation.parquet")
    visual = [{"words": ["a"], "label": 1, "visual": [[7.0, 8.0]], "split": "test"}]
    write_jsonl(tmp_path / "other.jsonl", visual)
    splits = load_aligned_dataset(tmp_path, cache_dir=cache)
    shapes = {name: (split[0]["acoustic"].shape, split[0]["visual"].shape) for name, split in as_arrays(splits)}
    assert shapes == {"train": ((2, 1), (0, 2)), "validation": ((0, 1), (0, 2)), "test": ((0, 1), (1, 2))}
    write_jsonl(tmp_path / "other.jsonl", [{"words": ["a"], "split": "test"}])
    with pytest.raises(DataError, match=r"other\.jsonl: no column label"):
        load_aligned_dataset(tmp_path, cache_dir=cache)


def test_times_of_one_file_alone_are_none(tmp_path, cache, caplog):
    times = {"start": 0.0, "end": 2.0, "word_start": [0.1, 1.0], "word_end": [0.5, 1.5]}
    write_jsonl(tmp_path / "train.jsonl", [{**GOOD, **times}])
    write_jsonl(tmp_path / "test.jsonl", [GOOD])
    split = load_aligned_dataset(tmp_path, cache_dir=cache)["test"]
    assert split.column_names == ["id", "video_id", "words", "acoustic", "label"]
    assert "columns left out: end, start, word_end, word_start (times are read where all files have" in caplog.text
