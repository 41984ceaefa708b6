import csv
import json
import re
import subprocess

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_cases import GOOD, as_lists, check, example_rows, write_jsonl

from data_builders import DataError, load_aligned_dataset, make_builder
from data_builders.formats.recognition import open_source, source_files


@pytest.mark.parametrize("row_group_size", [2, 100])
def test_parquet(tmp_path, cache, row_group_size):
    rows = example_rows(40)
    pq.write_table(
        pa.Table.from_pylist([as_lists(row) for row in rows]), tmp_path / "x", row_group_size=row_group_size
    )
    check(load_aligned_dataset(tmp_path / "x", cache_dir=cache), rows)


def test_the_metadata_of_parquet_are_in_memory_once_however_many_row_groups_are_read(tmp_path, monkeypatch):
    """They grow with the number of row groups, and a stream reads ten of them at the same time."""
    reads, read_metadata = [], pq.read_metadata
    monkeypatch.setattr(pq, "read_metadata", lambda source: reads.append(source) or read_metadata(source))
    path = tmp_path / "train.parquet"
    for count in (40, 20):  # a file that was written anew is another one
        table = pa.Table.from_pylist([as_lists(row) | {"split": "train"} for row in example_rows(count)])
        pq.write_table(table, path, row_group_size=2)
        stream = load_aligned_dataset(path, streaming=True)["train"].shuffle(seed=0, buffer_size=8)
        assert len(list(stream)) == count
    assert len(reads) == 2


def test_a_folder_with_a_file_for_each_split(tmp_path, cache):
    rows = example_rows()
    for name in ("train", "dev", "test"):
        split = [as_lists(row) for row in rows if row["split"] == name]
        for row in split:
            del row["split"]
        write_jsonl(tmp_path / f"{name}.jsonl", split)
    check(load_aligned_dataset(tmp_path, cache_dir=cache), rows)
    write_jsonl(tmp_path / "more.jsonl", split)
    with pytest.raises(DataError, match=r"more\.jsonl: its name begins with none of train"):
        load_aligned_dataset(tmp_path, cache_dir=cache)


def test_a_single_table_of_another_name_is_the_training_split(tmp_path, cache):
    rows = [
        {key: value for key, value in as_lists(row).items() if key not in ("split", "id")} for row in example_rows(3)
    ]
    splits = load_aligned_dataset(write_jsonl(tmp_path / "mine.jsonl", rows), cache_dir=cache)
    assert list(splits) == ["train"] and list(splits["train"]["id"]) == ["mine-0", "mine-1", "mine-2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"PAR1" + bytes(100), "not a readable table"),
        ("x.csv", b"words,label\n\xff\xfe,1\n", "the text is not in UTF-8, it has the bytes .* iconv"),
        ("x.tsv", b"id\ttext\tlabel\nv_0\ta b\t1\n", "columns are separated by tabs; separate them by commas"),
        ("x.csv", b"id;text;label\nv_0;a b;1\n", "columns are separated by semicolons; separate them by commas"),
        (
            "x.jsonl",
            b'{"words": ["a"], "label": 1, "\\ud800": [[1.0]]}\n',
            "column '.ud800' has a name that cannot be",
        ),
        ("x.jsonl", b'{"words": ["a"]}\n', "no column label among words; .*--no_labels"),
        ("x.csv", b"id,words\na,good\n", "no column label"),
        ("x.jsonl", b'{"label": 1}\n', "needs a column words .or text. or features; it has: .'label'"),
        ("x.jsonl", b'{"split": "fold7", "label": 1, "words": ["a"]}\n', "split 'fold7' is none of"),
    ],
)
def test_bad_tables(tmp_path, cache, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: .*{message}"):
        load_aligned_dataset(tmp_path / name, cache_dir=cache)


def test_only_a_table_is_read_as_one(tmp_path, cache):
    path = tmp_path / "x.txt"
    path.write_text("name,score\na,1\n")
    with pytest.raises(
        DataError, match=r"x\.txt: not a table: neither Parquet, nor JSON lines .* nor CSV with a column id"
    ):
        load_aligned_dataset(path, cache_dir=cache, format="table")
    with pytest.raises(DataError, match=r"x\.csv: no column label"):
        load_aligned_dataset(path.rename(tmp_path / "x.csv"), cache_dir=cache, format="table")


def test_a_line_that_is_not_json_is_a_bad_sample(tmp_path, cache):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        json.dumps(GOOD) + "\nnot json\n" + "[" * 100_000 + "\n" + json.dumps({**GOOD, "id": "good_2"}) + "\n"
    )
    with pytest.raises(DataError, match="sample mine-1: row 2 cannot be read"):
        load_aligned_dataset(path, cache_dir=cache)
    assert list(load_aligned_dataset(path, cache_dir=cache, on_error="skip")["train"]["id"]) == ["good_1", "good_2"]


def test_a_line_that_is_no_row_is_never_lost_in_silence(tmp_path, cache):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(GOOD) + "\nnot json\n")
    with pytest.raises(DataError, match="sample mine-1: row 2 cannot be read as a line of this table"):
        load_aligned_dataset(path, cache_dir=cache, labels=False)


def test_arrow_tensors_are_features(tmp_path, cache):
    storage = pa.array([[1.0, 2.0, 3.0, 4.0], None], pa.list_(pa.float32(), 4))
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (2, 2)), storage)
    table = pa.table({"words": [["a", "b"]] * 2, "label": [1.0, 2.0], "acoustic": tensors})
    pq.write_table(table, tmp_path / "x.parquet")
    first, second = load_aligned_dataset(tmp_path / "x.parquet", cache_dir=cache)["train"].with_format("numpy")
    assert first["acoustic"].tolist() == [[1.0, 2.0], [3.0, 4.0]] and second["acoustic"].shape == (0, 2)


def test_csv_cells_may_be_long(tmp_path, cache):
    features = np.random.default_rng(0).normal(size=(120, 74))
    frame = pd.DataFrame({"text": ["w " * 120], "acoustic": [json.dumps(features.tolist())], "label": [1]})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    limit = csv.field_size_limit(1 << 17)
    split = load_aligned_dataset(tmp_path / "mine.csv", cache_dir=cache)["train"].with_format("numpy")
    np.testing.assert_array_equal(split[0]["acoustic"], features.astype(np.float32))
    csv.field_size_limit(limit)


def test_other_csv_files_beside_the_tables_of_a_folder(tmp_path, cache):
    write_jsonl(tmp_path / "train.jsonl", [GOOD])
    (tmp_path / "predictions.csv").write_text("id,score,label\ngood_1,1,positive\n")
    (tmp_path / "notes.csv").write_text("id;who\n1;me\n")
    assert list(load_aligned_dataset(tmp_path, cache_dir=cache)) == ["train"]
    (tmp_path / "test.csv").write_text("id;text;label\nv_0;a b;1\n")
    with pytest.raises(DataError, match=r"test\.csv: .* separated by semicolons"):
        load_aligned_dataset(tmp_path, cache_dir=cache)


def test_rows_of_many_values_are_read_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("data_builders.formats.table_files._VALUES_OF_BATCH", 1 << 18)
    values = pa.array(np.zeros(1 << 19, np.float32))
    rows = pa.ListArray.from_arrays([0, 1 << 18, 1 << 19], values)
    table = pa.table({"words": [["a", "b"]], "label": [1.0], "acoustic": pa.ListArray.from_arrays([0, 2], rows)})
    pq.write_table(pa.concat_tables([table] * 20), tmp_path / "x.parquet", compression="zstd")
    source = open_source(tmp_path / "x.parquet")
    before = pa.total_allocated_bytes()
    for row in source.rows(source.splits["train"][0]):
        assert row["acoustic"].shape == (2, 1 << 18) and pa.total_allocated_bytes() - before < 8 * values.nbytes


@pytest.mark.parametrize(
    "content",
    [
        "\n\nid ,text ,label \nv_0,a good film,1\n",
        "\ufeffid,text,label\r\nv_0,a good film,1\r\n",
        "id,text,label\rv_0,a good film,1\r",
        ",id,text,label,,\n0,v_0,a good film,1,,\n",
    ],
)
def test_headers_as_people_have_them(tmp_path, cache, content):
    path = tmp_path / "mine.csv"
    path.write_bytes(content.encode())
    split = load_aligned_dataset(path, cache_dir=cache)["train"]
    assert split[:] == {"id": ["v_0"], "video_id": ["v_0"], "words": [["a", "good", "film"]], "label": [1.0]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"ID,Text,Label\nv_0,a b,1\n",
            r"none of its columns \(ID, Text, Label\) is id, label, .*; rename Text to text; rename Label to label",
        ),
        (b"id|text|label\nv_0|a b|1\n", "the columns are separated by vertical bars; separate them by commas"),
        ("id,text,label\nv_0,a b,1\n".encode("utf-16"), "the text is UTF-16"),
        ("id,text,label\nv_0,é b,1\n".encode("utf-16-le"), "the text is UTF-16; .* iconv -f UTF-16LE -t UTF-8"),
        ("id,text,label\nv_0,é b,1\n".encode("utf-16-be"), "the text is UTF-16; .* iconv -f UTF-16BE -t UTF-8"),
        (b"id,text,label,label\nv_0,a b,1,2\n", "column label occurs more than once"),
    ],
)
def test_text_that_is_no_table_is_not_taken_for_a_pickle(tmp_path, cache, content, message):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"mine\.csv: .*{message}"):
        load_aligned_dataset(path, cache_dir=cache)


def test_a_split_of_bad_samples_alone_says_why_it_is_empty(tmp_path, cache):
    path = write_jsonl(tmp_path / "mine.jsonl", [{**GOOD, "label": "1,5"}] * 3)
    with pytest.raises(DataError, match=r"train split is empty \(3 left out, the first: good_1: .*'1,5' is not a num"):
        load_aligned_dataset(path, cache_dir=cache, on_error="skip")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_broken_row_is_a_bad_sample_of_the_first_split(tmp_path, cache, kind):
    rows = {
        "jsonl": ['{"id": "%s", "text": "a b", "label": 1, "split": "%s"}', "{"],
        "csv": ["%s,a b,1,%s", "x,a,b,1,dev"],
    }
    good, broken = rows[kind]
    lines = ["id,text,label,split"] * (kind == "csv") + [good % ("v_0", "train"), broken, good % ("v_1", "dev")]
    path = tmp_path / f"mine.{kind}"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=rf"mine\.{kind}: sample mine-1: row 2 cannot be read as a line"):
        load_aligned_dataset(path, cache_dir=cache)
    builder = make_builder(path, cache_dir=cache, on_error="skip")
    builder.download_and_prepare()
    assert [(left.id, left.split) for left in builder.skipped] == [("mine-1", "train")]
    assert {name: split["id"][:] for name, split in builder.as_dataset().items()} == {
        "train": ["v_0"],
        "validation": ["v_1"],
    }


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_split_that_is_none_names_its_row(tmp_path, cache, kind):
    path, rows = tmp_path / f"mine.{kind}", [{**GOOD, "split": name} for name in ("train", "fold7")]
    if kind == "jsonl":
        write_jsonl(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(DataError, match=rf"mine\.{kind}: row 2: split 'fold7' is none of train"):
        load_aligned_dataset(path, cache_dir=cache, on_error="skip")


@pytest.mark.parametrize(
    ("encoding", "text"), [("CP1252", "un café"), ("GBK", "你好"), ("UTF-16", "un café"), ("UTF-16LE", "un café")]
)
def test_what_is_said_of_another_encoding_helps(tmp_path, cache, encoding, text):
    path, converted = tmp_path / "old.csv", tmp_path / "new.csv"
    path.write_text(f"id,words,label\na,{text},1\n", encoding=encoding)
    with pytest.raises(DataError, match="convert it: iconv ") as caught:
        load_aligned_dataset(path, cache_dir=cache)
    command = re.search(r"iconv -f \S+ -t UTF-8 OLD\.csv > NEW\.csv", str(caught.value))[0].replace("GBK", encoding)
    command = command.replace("OLD.csv", str(path)).replace("NEW.csv", str(converted))
    subprocess.run(command, shell=True, check=True)
    assert "".join(load_aligned_dataset(converted, cache_dir=cache)["train"]["words"][0]) == text.replace(" ", "")


@pytest.mark.parametrize("header", ["id,text,label", "id,text,label,split", "id,acoustic,label,text"])
@pytest.mark.parametrize("labels", [True, False])
def test_a_table_without_rows_is_refused(tmp_path, cache, header, labels):
    path = tmp_path / "mine.csv"
    path.write_text(f"{header}\n")
    with pytest.raises(DataError, match=r"mine\.csv: a table without rows; write one for each utterance"):
        load_aligned_dataset(path, cache_dir=cache, labels=labels)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_arrays_that_parquet_refers_to_are_known(tmp_path, kind):
    np.save(tmp_path / "0.npy", np.ones((1, 1)))
    paths = pa.array(["0.npy", None, "nowhere.npz"], pa.string()).cast(kind)
    pq.write_table(pa.table({"words": [["a"]] * 3, "acoustic": paths, "label": [1.0] * 3}), tmp_path / "x.parquet")
    assert {file.name for file in source_files(tmp_path / "x.parquet")} == {"x.parquet", "0.npy", "nowhere.npz"}


def claims(kind):
    """A column of a few bytes in a file that stand for many."""
    if kind == "text":
        return pa.array(["x" * (1 << 26)])
    values = pa.array(np.zeros(1 << 23, np.float32))
    rows = pa.ListArray.from_arrays([0, 1 << 22, 1 << 23], values)
    return (
        pa.ListArray.from_arrays([0, len(values)], values)
        if kind == "list"
        else pa.ListArray.from_arrays([0, 2], rows)
    )


@pytest.mark.parametrize("kind", ["text", "list", "rows"])
def test_a_parquet_column_that_is_not_asked_for_is_not_decoded(tmp_path, monkeypatch, kind):
    """A file of 28 kB took 3.6 GB."""
    monkeypatch.setattr("data_builders.formats.table_files.MAX_VALUES", 1 << 22)
    path, pool = tmp_path / "x.parquet", pa.system_memory_pool()  # which nothing else uses
    table = pa.table({"words": [["a", "b"]], "label": [1.0], "acoustic": [[[1.0], [2.0]]], "other": claims(kind)})
    pq.write_table(table, path, compression="zstd", use_dictionary=kind != "text")
    assert path.stat().st_size < 20_000
    default = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        for modalities in (None, ["text", "acoustic"]):
            source = open_source(path, modalities=modalities)
            [row] = source.rows(source.splits["train"][0])
            assert source.left_out == ({} if modalities else {"other": "more data than the file can hold"})
            assert row["words"] == ["a", "b"] and row["acoustic"].shape == (2, 1) and len(source_files(path)) == 1
        with pytest.raises(DataError, match=r"x\.parquet: column other claims more data than the file can hold"):
            open_source(path, modalities=["other"])
    finally:
        pa.set_memory_pool(default)
    assert 0 < pool.max_memory() < 1 << 24


def test_the_name_of_a_file_or_folder_is_no_format(tmp_path, cache):
    (tmp_path / "data.csv").mkdir()
    (tmp_path / "data.csv" / "train.csv").write_text('{"text": "good", "label": 1}\n')
    for path in (tmp_path / "data.csv", tmp_path / "data.csv" / "train.csv"):
        assert load_aligned_dataset(path, cache_dir=cache)["train"]["words"][:] == [["good"]]
