import csv
import io
import json
import struct
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_builders import DataError, load_aligned_dataset


def example_rows(count=7, seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(generator.integers(1, 6))
        rows.append(
            {
                "id": f"v{index // 3}_{index}",
                "words": [f"w{k}" for k in range(length)],
                "acoustic": generator.normal(size=(length, 3)).astype(np.float32),
                "label": float(np.float32(generator.uniform(-3, 3))),
                "split": ["train", "train", "dev", "test"][index % 4],
            }
        )
    rows[2]["acoustic"] = None
    return rows


def check(splits, rows):
    assert splits["train"].info.config_name == "table"
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        expected = [row for row in rows if row["split"] == name]
        assert list(splits[split]["id"]) == [row["id"] for row in expected]
        for row, original in zip(splits[split].with_format("numpy"), expected, strict=True):
            assert list(row["words"]) == original["words"] and row["label"] == np.float32(original["label"])
            wanted = np.zeros((0, 3)) if original["acoustic"] is None else original["acoustic"]
            np.testing.assert_array_equal(row["acoustic"], wanted)


def as_lists(row):
    return {**row, "acoustic": None if row["acoustic"] is None else row["acoustic"].tolist()}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_jsonl(tmp_path, cache):
    rows = example_rows()
    check(load_aligned_dataset(write_jsonl(tmp_path / "mine.jsonl", map(as_lists, rows)), cache_dir=cache), rows)


def test_csv_with_features_by_path(tmp_path, cache):
    rows = example_rows()
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "acoustic", "label", "split"])
        writer.writeheader()
        for row in rows:
            name = ""
            if row["acoustic"] is not None:
                name = f"features/{row['id']}.npy"
                (tmp_path / "features").mkdir(exist_ok=True)
                np.save(tmp_path / name, row["acoustic"])
            cells = {"id": row["id"], "text": " ".join(row["words"]), "acoustic": name}
            writer.writerow({**cells, "label": row["label"], "split": row["split"]})
    check(load_aligned_dataset(tmp_path / "mine.csv", cache_dir=cache), rows)
    # The arrays are part of what the cache is keyed by.
    np.save(tmp_path / "features" / "v0_0.npy", rows[0]["acoustic"] + 1)
    again = load_aligned_dataset(tmp_path / "mine.csv", cache_dir=cache)["train"].with_format("numpy")
    np.testing.assert_array_equal(again[0]["acoustic"], rows[0]["acoustic"] + 1)


def test_csv_with_json_cells(tmp_path, cache):
    rows = example_rows()
    frame = pd.DataFrame(map(as_lists, rows))
    for column in ("words", "acoustic"):
        frame[column] = [json.dumps(cell) if cell is not None else "" for cell in frame[column]]
    frame.to_csv(tmp_path / "mine.csv", index=False)
    check(load_aligned_dataset(tmp_path / "mine.csv", cache_dir=cache), rows)


def test_npz_with_an_array_for_each_modality(tmp_path, cache):
    rows = example_rows(4)
    rows[2]["acoustic"] = np.ones((len(rows[2]["words"]), 3), np.float32)
    lines = []
    for row in rows:
        name = f"{row['id']}.npz"
        np.savez_compressed(tmp_path / name, acoustic=row["acoustic"], visual=np.zeros((len(row["words"]), 2)))
        lines.append(
            {"id": row["id"], "words": row["words"], "features": name, "label": row["label"], "split": row["split"]}
        )
    splits = load_aligned_dataset(write_jsonl(tmp_path / "mine.jsonl", lines), cache_dir=cache)
    check(splits, rows)
    assert splits["train"].features["visual"].shape[1] == 2


@pytest.mark.parametrize("row_group_size", [2, 100])
def test_parquet(tmp_path, cache, row_group_size):
    rows = example_rows(40)
    pq.write_table(
        pa.Table.from_pylist([as_lists(row) for row in rows]), tmp_path / "x", row_group_size=row_group_size
    )
    check(load_aligned_dataset(tmp_path / "x", cache_dir=cache), rows)


def test_a_folder_with_a_file_for_each_split(tmp_path, cache):
    rows = example_rows()
    for name in ("train", "dev", "test"):
        own = [as_lists(row) for row in rows if row["split"] == name]
        for row in own:
            del row["split"]
        write_jsonl(tmp_path / f"{name}.jsonl", own)
    check(load_aligned_dataset(tmp_path, cache_dir=cache), rows)
    write_jsonl(tmp_path / "more.jsonl", own)
    with pytest.raises(DataError, match=r"more\.jsonl: begins with none of train"):
        load_aligned_dataset(tmp_path, cache_dir=cache)


def test_what_datasets_writes_is_read_back(tmp_path, cache, small_corpus):
    splits = load_aligned_dataset(small_corpus, cache_dir=cache, modalities=["acoustic", "timing"])
    (tmp_path / "out" / "data").mkdir(parents=True)
    for name, split in splits.items():
        split.to_parquet(tmp_path / "out" / "data" / f"{name}-00000-of-00001.parquet")
    again = load_aligned_dataset(tmp_path / "out", cache_dir=cache, modalities=["acoustic", "timing"])
    for name, split in splits.items():
        assert again[name].features == split.features and again[name].to_dict() == split.to_dict()


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ({"id": "COVAREP"}, "COVAREP"),
        ({"id": None}, None),
        ({"id": "openSMILE"}, None),
        ({"id": ["COVAREP"]}, None),
        ({}, None),
        ("COVAREP", None),
    ],
)
def test_the_extractor_that_all_files_agree_on(tmp_path, cache, small_corpus, column, found):
    splits = load_aligned_dataset(small_corpus, cache_dir=cache)
    for name, split in splits.items():
        split.to_parquet(tmp_path / f"{name}.parquet")
    table = pq.read_table(tmp_path / "test.parquet")
    metadata = json.dumps({"info": {"features": {"acoustic": column}}})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "test.parquet")
    (tmp_path / "csd").rename(tmp_path.parent / f"{tmp_path.name}_csd")
    again = load_aligned_dataset(tmp_path, cache_dir=cache)
    assert splits["train"].features["acoustic"].id == "COVAREP"
    assert again["train"].features["acoustic"].id == found


def test_a_single_table_of_another_name_is_the_training_split(tmp_path, cache):
    rows = [
        {key: value for key, value in as_lists(row).items() if key not in ("split", "id")} for row in example_rows(3)
    ]
    splits = load_aligned_dataset(write_jsonl(tmp_path / "mine.jsonl", rows), cache_dir=cache)
    assert list(splits) == ["train"] and list(splits["train"]["id"]) == ["mine-0", "mine-1", "mine-2"]


def test_text_only_and_other_columns(tmp_path, cache):
    path = write_jsonl(
        tmp_path / "mine.jsonl", [{"text": "a good film", "label": 2, "speaker": "x", "age": 5, "note": None}]
    )
    splits = load_aligned_dataset(path, cache_dir=cache)
    assert splits["train"].column_names == ["id", "video_id", "words", "label"]


def test_word_times_give_timing(tmp_path, cache):
    times = {"start": 0.0, "end": 2.0, "word_start": [0.1, 1.0], "word_end": [0.5, 1.5]}
    rows = [
        {"words": ["a", "b"], "label": 1, **times},
        {"words": ["c"], "label": 1, **times, "word_start": [], "word_end": []},
    ]
    path = write_jsonl(tmp_path / "mine.jsonl", rows)
    first, second = load_aligned_dataset(path, cache_dir=cache, modalities=["timing"])["train"].with_format("numpy")
    assert first["timing"].shape == (2, 6) and second["timing"].shape == (0, 6)
    rows[1]["word_start"] = [0.1, 0.2, 0.3]
    with pytest.raises(DataError, match="sample mine-1: 3 values of word_start for 1 words"):
        load_aligned_dataset(write_jsonl(path, rows), cache_dir=cache)


GOOD = {"id": "good_1", "words": ["a", "b"], "acoustic": [[1.0], [2.0]], "label": 1.0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "label": "much"}, "label 'much' is not a number"),
        ({**GOOD, "label": None}, "label 'None' is not a number"),
        ({**GOOD, "label": 4}, "label 4 is outside"),
        ({**GOOD, "words": [1, 2]}, "words .* are not a list of strings"),
        ({**GOOD, "words": {"a": 1}}, "is not a list"),
        ({**GOOD, "acoustic": [[1.0], [2.0, 3.0]]}, "acoustic is not a list of rows of numbers"),
        ({**GOOD, "acoustic": [[1.0], ["x"]]}, "acoustic is not a list of rows of numbers"),
        ({**GOOD, "acoustic": [[1.0]]}, "1 rows of acoustic for 2 words"),
        ({**GOOD, "acoustic": "absent.npy"}, r"absent\.npy: no such file"),
        ({**GOOD, "acoustic": "../secret.npy"}, "outside of"),
        ({**GOOD, "acoustic": "/etc/passwd"}, "'/etc/passwd' is outside of"),
        ({**GOOD, "acoustic": "link.npy"}, "outside of"),
        ({**GOOD, "acoustic": "objects.npy"}, r"objects\.npy: not a readable"),
        ({**GOOD, "acoustic": "huge.npy"}, r"huge\.npy: not a readable .* in \d+ bytes"),
        ({**GOOD, "acoustic": "bomb.npz"}, r"bomb\.npz"),
        ({**GOOD, "acoustic": "text.npy"}, r"text\.npy: not a readable"),
        ({**GOOD, "acoustic": "two.npz"}, r"two\.npz: holds no array 'acoustic'; it holds: x, y"),
    ],
)
def test_bad_cells(tmp_path, cache, caplog, row, message):
    folder = tmp_path / "table"
    folder.mkdir()
    np.save(tmp_path / "secret.npy", np.ones((2, 1)))
    (folder / "link.npy").symlink_to(tmp_path / "secret.npy")
    np.save(folder / "objects.npy", np.array([{}, {}], object), allow_pickle=True)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000, 1), }"
    (folder / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n")
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_BZIP2) as archive:
        stream = io.BytesIO()
        np.save(stream, np.zeros((2_000_000, 1)))
        archive.writestr("acoustic.npy", stream.getvalue())
    (folder / "text.npy").write_text("hello")
    np.savez(folder / "two.npz", x=np.ones(1), y=np.ones(1))
    path = write_jsonl(folder / "mine.jsonl", [GOOD, {**row, "id": "bad_1"}])
    with pytest.raises(DataError, match=rf"mine\.jsonl: sample bad_1: .*{message}.*on_error='skip'"):
        load_aligned_dataset(path, cache_dir=cache)
    assert list(load_aligned_dataset(path, cache_dir=cache, on_error="skip")["train"]["id"]) == ["good_1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"PAR1" + bytes(100), "not a readable table"),
        ("x.csv", b"words,label\n\xff\xfe,1\n", "not a readable table"),
        ("x.csv", b'words,label\n"' + b"a" * 200_000 + b'",1\n', "not a readable table.*field limit"),
        ("x.jsonl", b'{"words": ["a"]}\n', "no column label; data to predict on is loaded with labels=False"),
        ("x.csv", b"id,words\na,good\n", "no column label"),
        ("x.jsonl", b'{"label": 1}\n', "needs a column words .or text. or features; it has: .'label'"),
        ("x.jsonl", b'{"split": "fold7", "label": 1, "words": ["a"]}\n', "split 'fold7' is none of"),
    ],
)
def test_bad_tables(tmp_path, cache, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: .*{message}"):
        load_aligned_dataset(tmp_path / name, cache_dir=cache)


def test_a_line_that_is_not_json_is_a_bad_sample(tmp_path, cache):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        json.dumps(GOOD) + "\nnot json\n" + "[" * 100_000 + "\n" + json.dumps({**GOOD, "id": "good_2"}) + "\n"
    )
    with pytest.raises(DataError, match="sample mine-1: row 2 cannot be read"):
        load_aligned_dataset(path, cache_dir=cache)
    assert list(load_aligned_dataset(path, cache_dir=cache, on_error="skip")["train"]["id"]) == ["good_1", "good_2"]


def write_unlabelled(folder, kind, rows):
    path = folder / f"mine.{kind}"
    if kind == "jsonl":
        return write_jsonl(path, rows)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    cells = [{**row, "words": json.dumps(row["words"]), "acoustic": json.dumps(row["acoustic"] or [])} for row in rows]
    pd.DataFrame(cells).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("streaming", [False, True])
def test_data_to_predict_on_needs_no_labels(tmp_path, cache, kind, streaming):
    rows = [{name: as_lists(row)[name] for name in ("id", "words", "acoustic")} for row in example_rows()]
    path = write_unlabelled(tmp_path, kind, rows)
    splits = load_aligned_dataset(path, cache_dir=cache, labels=False, streaming=streaming)
    assert list(splits) == ["train"]
    found = list(splits["train"].with_format("numpy"))
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    for row, original in zip(found, rows, strict=True):
        assert "label" not in row and list(row["words"]) == original["words"]
        np.testing.assert_array_equal(row["acoustic"], np.float32(original["acoustic"] or np.zeros((0, 3))))
    with pytest.raises(DataError, match="no column label; data to predict on is loaded with labels=False"):
        load_aligned_dataset(path, cache_dir=cache)


def test_labels_that_are_not_wanted_are_not_checked(tmp_path, cache, mag_data, write_pickle):
    rows = [{**GOOD, "label": "much"}, {**GOOD, "id": "good_2", "label": None}]
    table = write_jsonl(tmp_path / "mine.jsonl", rows)
    data = mag_data()
    data["train"][0] = (data["train"][0][0], 9.0, "trainvideo0_1")
    for path, count in ((table, 2), (write_pickle(data), 6)):
        split = load_aligned_dataset(path, cache_dir=cache, labels=False)["train"]
        assert len(split) == count and "label" not in split.column_names


def test_a_line_that_is_no_row_is_never_lost_in_silence(tmp_path, cache):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(GOOD) + "\nnot json\n")
    with pytest.raises(DataError, match="sample mine-1: row 2 cannot be read as a line of this table"):
        load_aligned_dataset(path, cache_dir=cache, labels=False)
