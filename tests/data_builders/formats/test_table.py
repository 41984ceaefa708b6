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
from table_cases import GOOD, as_lists, check, example_rows, write_jsonl

from data_builders import DataError, load_aligned_dataset
from data_builders import rows as rows_module


def test_jsonl(tmp_path, cache):
    rows = example_rows()
    check(load_aligned_dataset(write_jsonl(tmp_path / "mine.jsonl", map(as_lists, rows)), cache_dir=cache), rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_column_that_samples_are_grouped_by_is_kept_as_text(tmp_path, suffix, cache):
    table = pd.DataFrame({"id": ["a", "b"], "text": "so it is", "label": 1.0, "speaker": [7, 8], "shelf": "north"})
    file = tmp_path / f"data.{suffix}"
    if suffix == "jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        {"csv": table.to_csv, "parquet": table.to_parquet}[suffix](file, index=False)
    split = load_aligned_dataset(file, cache_dir=cache, group="speaker")["train"]
    assert split["speaker"][:] == ["7", "8"] and "shelf" not in split.column_names
    stream = load_aligned_dataset(file, streaming=True, group="speaker")["train"]
    assert [row["speaker"] for row in stream] == ["7", "8"]
    assert "speaker" not in load_aligned_dataset(file, cache_dir=cache)["train"].column_names
    assert "place" not in load_aligned_dataset(file, cache_dir=cache, group="place")["train"].column_names


def test_an_empty_cell_of_the_column_that_samples_are_grouped_by_is_refused(tmp_path, cache):
    file = tmp_path / "data.csv"
    file.write_text("id,text,label,speaker\na,so it is,1,ann\nb,so it is,1,\n")
    with pytest.raises(DataError, match="sample b: column speaker is empty, by which samples are grouped; fill it in"):
        load_aligned_dataset(file, cache_dir=cache, group="speaker")


def test_weights_are_read_where_there_are_any(tmp_path, cache):
    rows = [row | {"weight": weight} for row, weight in zip(example_rows(4), (0.5, None, 0, 2), strict=True)]
    file = write_jsonl(tmp_path / "mine.jsonl", map(as_lists, rows))
    splits = load_aligned_dataset(file, cache_dir=cache)
    read = {
        name: weight for split in splits.values() for name, weight in zip(split["id"], split["weight"], strict=True)
    }
    assert [read[row["id"]] for row in rows] == [0.5, 1.0, 0.0, 2.0]
    assert "weight" not in load_aligned_dataset(file, labels=False, cache_dir=cache)["train"].column_names


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-1, "weight -1 is not a finite number, at least 0"),
        ("inf", "weight inf is"),
        ("much", "weight 'much' is not a"),
    ],
)
def test_a_wrong_weight_is_named(tmp_path, cache, weight, message):
    rows = [row | {"weight": weight} for row in example_rows()]
    file = write_jsonl(tmp_path / "mine.jsonl", map(as_lists, rows))
    with pytest.raises(DataError, match=f"v0_0.*{message}"):
        load_aligned_dataset(file, cache_dir=cache)


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


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "label": "much"}, "label 'much' is not a number"),
        ({**GOOD, "label": None}, "its label is missing"),
        ({**GOOD, "label": 4}, "label 4 is outside"),
        ({**GOOD, "words": [1, 2]}, "words .* are not a list of strings"),
        ({**GOOD, "words": {"a": 1}}, "is not a list"),
        ({**GOOD, "acoustic": [[1.0], [2.0, 3.0]]}, "acoustic is not a list of rows of numbers"),
        ({**GOOD, "acoustic": [[1.0], ["x"]]}, "acoustic is not a list of rows of numbers"),
        ({**GOOD, "acoustic": [[1.0]]}, "1 rows of acoustic for 2 words"),
        ({**GOOD, "acoustic": "absent.npy"}, r"absent\.npy: no such file"),
        ({**GOOD, "acoustic": "../secret.npy"}, "outside of"),
        ({**GOOD, "acoustic": "a\0.npy"}, r"'a.x00\.npy' is not a path"),
        ({**GOOD, "acoustic": "loop.npy"}, r"'loop\.npy' is not a path"),
        ({**GOOD, "acoustic": "a" * 5000 + ".npy"}, r"a\.npy: cannot be read"),
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
    (folder / "loop.npy").symlink_to("loop.npy")
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
    with pytest.raises(DataError, match=r"no column label among acoustic, id, words; .*--no_labels"):
        load_aligned_dataset(path, cache_dir=cache)


def test_labels_that_are_not_wanted_are_not_checked(tmp_path, cache, mag_data, write_pickle):
    rows = [{**GOOD, "label": "much"}, {**GOOD, "id": "good_2", "label": None}]
    table = write_jsonl(tmp_path / "mine.jsonl", rows)
    data = mag_data()
    data["train"][0] = (data["train"][0][0], 9.0, "trainvideo0_1")
    for path, count in ((table, 2), (write_pickle(data), 6)):
        split = load_aligned_dataset(path, cache_dir=cache, labels=False)["train"]
        assert len(split) == count and "label" not in split.column_names


def test_a_modality_that_begins_late_is_found(tmp_path, cache):
    text = [{"id": f"t_{k}", "text": 'a ": b', "label": 1} for k in range(1100)]
    split = load_aligned_dataset(write_jsonl(tmp_path / "mine.jsonl", [*text, GOOD]), cache_dir=cache)["train"]
    split = split.with_format("numpy")
    assert split[1100]["acoustic"].tolist() == [[1.0], [2.0]] and split[0]["acoustic"].shape == (0, 1)


def test_the_extractor_of_a_modality_that_one_file_has(tmp_path, cache, small_corpus):
    for name, split in load_aligned_dataset(small_corpus, cache_dir=cache).items():
        split.to_parquet(tmp_path / f"{name}.parquet")
        if name == "test":
            split.remove_columns("acoustic").to_parquet(tmp_path / "test.parquet")
    (tmp_path / "csd").rename(tmp_path.parent / f"{tmp_path.name}_csd")
    assert load_aligned_dataset(tmp_path, cache_dir=cache)["test"].features["acoustic"].id == "COVAREP"


def test_an_npz_that_lacks_a_modality_does_not_give_another(tmp_path, cache):
    two = np.ones((2, 3), np.float32)
    np.savez(tmp_path / "0.npz", acoustic=two, features=two, words=np.array(["a", "b"]), label=np.ones((1, 1)))
    np.savez(tmp_path / "1.npz", visual=two * 5)
    np.savez(tmp_path / "2.npz", acoustic=two * 7, visual=two * 9)
    np.savez(tmp_path / "3.npz", two * 2)
    rows = [{"words": ["a", "b"], "label": 1, "features": f"{k}.npz"} for k in range(3)]
    rows.append({"words": ["a", "b"], "label": 1, "acoustic": "3.npz"})
    split = load_aligned_dataset(write_jsonl(tmp_path / "mine.jsonl", rows), cache_dir=cache)["train"]
    firsts = [
        [float(row[name][0, 0]) if len(row[name]) else None for name in ("acoustic", "features", "visual")]
        for row in split.with_format("numpy")
    ]
    assert firsts == [[1, 1, None], [None, None, 5], [7, None, 9], [2, None, None]]
    assert split.column_names == ["id", "video_id", "words", "acoustic", "features", "visual", "label"]


def test_a_modality_called_features_does_not_stand_for_another(tmp_path, cache):
    rows = [{**GOOD, "features": [[3.0], [4.0]]}, {"words": ["a", "b"], "label": 1, "features": [[5.0], [6.0]]}]
    split = load_aligned_dataset(write_jsonl(tmp_path / "mine.jsonl", rows), cache_dir=cache)["train"]
    row = split.with_format("numpy")[1]
    assert row["acoustic"].shape == (0, 1) and row["features"].tolist() == [[5.0], [6.0]]


def test_text_that_begins_with_a_bracket_is_text(tmp_path, cache):
    texts = ["[laughs] that was great", "[", '["a", "b c"]', "[12:30] ok"]
    path = write_jsonl(tmp_path / "mine.jsonl", [{"text": text, "label": 1} for text in texts])
    words = load_aligned_dataset(path, cache_dir=cache)["train"]["words"]
    assert list(words) == [["[laughs]", "that", "was", "great"], ["["], ["a", "b c"], ["[12:30]", "ok"]]
    for cell in ("['a', 'b']", '["a", "b'):  # how Python prints a list, and JSON that is cut
        write_jsonl(path, [{"words": cell, "label": 1}])
        with pytest.raises(DataError, match="save the table as Parquet or JSON lines, or write lists"):
            load_aligned_dataset(path, cache_dir=cache)


@pytest.mark.parametrize(
    "lines", ["id,acoustic,label\nv_0,0.npy,1\n", '{ "id": "v_0", "acoustic": "0.npy", "label": 1 }\n']
)
def test_features_without_words(tmp_path, cache, lines):
    np.save(tmp_path / "0.npy", np.ones((2, 3)))
    (tmp_path / "mine").write_text(lines)
    row = load_aligned_dataset(tmp_path / "mine", cache_dir=cache)["train"].with_format("numpy")[0]
    assert row["id"] == "v_0" and list(row["words"]) == [] and row["acoustic"].shape == (2, 3)


@pytest.mark.parametrize("field", ["words", "id", "video_id"])
def test_strings_that_are_no_text_are_bad_samples(tmp_path, cache, field):
    broken = {"words": ["a", "\ud83d"], "id": "v\ud83d", "video_id": "\ud83d"}[field]
    path = write_jsonl(tmp_path / "mine.jsonl", [GOOD, {**GOOD, "id": "bad_1", field: broken}])
    with pytest.raises(
        DataError, match=r"sample (bad_1|v.ud83d): .*'v?.ud83d' is not valid text.*on_error='skip'"
    ) as caught:
        load_aligned_dataset(path, cache_dir=cache)
    str(caught.value).encode()
    assert list(load_aligned_dataset(path, cache_dir=cache, on_error="skip")["train"]["id"]) == ["good_1"]


def test_texts_that_are_printed_as_missing_are_missing(tmp_path, cache, caplog):
    rows_module._say_that_printed_texts_are_missing.cache_clear()
    texts = ["NaN", "None", "nan", "None", "none of it", "null"]
    rows = [{"text": text, "acoustic": [[1.0]], "label": 1} for text in texts]
    words = load_aligned_dataset(write_jsonl(tmp_path / "x.jsonl", rows[:4] + rows[5:]), cache_dir=cache)["train"]
    assert list(words["words"]) == [[]] * 5
    assert (
        caplog.messages.count(
            "a text that is only 'None' is taken for a missing one; if it was said, give it as a list of words"
        )
        == 1
    )
    rows = [{"text": "none of it", "label": 1}, {"words": ["None"], "label": 1}]
    words = load_aligned_dataset(write_jsonl(tmp_path / "y.jsonl", rows), cache_dir=cache)["train"]
    assert list(words["words"]) == [["none", "of", "it"], ["None"]]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("[[0.1 0.2]\n [0.3 0.4]]", "how Python or NumPy prints a list"),
        ("[0.1 ... 0.4]", "how Python or NumPy prints a list"),
        ("[[0.1, nan]]", "how Python or NumPy prints a list"),
        ("[[0.1, 0.2], [0.3", "not a JSON list, or a part of one"),
    ],
)
def test_printed_arrays_are_called_so(tmp_path, cache, cell, message):
    path = tmp_path / "x.csv"
    pd.DataFrame([{"id": "a", "text": "b", "acoustic": cell, "label": 1}]).to_csv(path, index=False)
    with pytest.raises(DataError, match=message) as caught:
        load_aligned_dataset(path, cache_dir=cache)
    assert "Expecting" not in str(caught.value) and "save the table as Parquet or JSON lines" in str(caught.value)


def test_numbers_in_place_of_texts(tmp_path, cache, caplog):
    path = write_jsonl(tmp_path / "x.jsonl", [{"id": "a", "text": 5, "label": 1}])
    with pytest.raises(DataError, match=r"sample a: the text is the number 5; write texts as strings"):
        load_aligned_dataset(path, cache_dir=cache)
    path = tmp_path / "x.csv"
    pd.DataFrame([{"id": str(k), "text": 100 + k, "label": 1} for k in range(2)]).to_csv(path, index=False)
    assert list(load_aligned_dataset(path, cache_dir=cache)["train"]["words"]) == [["100"], ["101"]]
    assert "x.csv: all texts are numbers, the first is 100; each is taken for a word" in caplog.text


def test_videos_that_ids_name_are_told_once(tmp_path, cache, caplog):
    rows = [{"id": f"video{k // 2}_{k}", "text": "a", "label": 1} for k in range(4)]
    videos = load_aligned_dataset(write_jsonl(tmp_path / "x.jsonl", rows), cache_dir=cache)["train"]["video_id"]
    assert list(videos) == ["video0", "video0", "video1", "video1"]
    assert [message for message in caplog.messages if "video_id" in message] == [
        f"{tmp_path / 'x.jsonl'}: without a column video_id, videos are told by the ids: video0_0 is of video0; add "
        "the column if that is wrong"
    ]
    caplog.clear()
    rows = [{"id": f"sst_test_{k}", "text": "a", "label": 1, "split": "test"} for k in (1, 2)]
    splits = load_aligned_dataset(write_jsonl(tmp_path / "y.jsonl", rows), cache_dir=cache)
    assert list(splits["test"]["video_id"]) == ["sst_test_1", "sst_test_2"] and not caplog.messages


def test_ids_of_other_types(tmp_path, cache):
    path = write_jsonl(tmp_path / "mine.jsonl", [{"id": k, "video_id": k, "text": "a", "label": 1} for k in range(2)])
    split = load_aligned_dataset(path, cache_dir=cache)["train"]
    assert list(split["id"]) == list(split["video_id"]) == ["0", "1"]
    columns = {"id": [b"v_0", b"v1_1"], "video_id": [b"x", None], "words": [[b"a", "é".encode()]] * 2}
    table = pa.table({**columns, "label": [1.0, 2.0], "split": [b"train", b"dev"]})
    pq.write_table(table, tmp_path / "x.parquet")
    splits = load_aligned_dataset(tmp_path / "x.parquet", cache_dir=cache)
    first, second = splits["train"][0], splits["validation"][0]
    assert (first["id"], first["video_id"], first["words"]) == ("v_0", "x", ["a", "é"])
    assert (second["id"], second["video_id"]) == ("v1_1", "v1")


@pytest.mark.parametrize("label", [[1.5], [[1.5]], [1.5, 0, 0, 1, 0, 0, 2], "1.5", "[1.5]", 1.5])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_labels_of_every_shape(tmp_path, cache, label, kind):
    path = tmp_path / "mine"
    if kind == "jsonl":
        write_jsonl(path, [{**GOOD, "label": label}])
    else:
        pq.write_table(pa.Table.from_pylist([{**GOOD, "label": label}]), path)
    assert load_aligned_dataset(path, cache_dir=cache)["train"][0]["label"] == 1.5


@pytest.mark.parametrize("label", [10**400, [1, [2]], [1.0, 2.0], {}, "[1", "x"])
def test_labels_that_are_wrong(tmp_path, cache, label):
    path = write_jsonl(tmp_path / "mine.jsonl", [{**GOOD, "label": label}])
    with pytest.raises(DataError, match=r"sample good_1: .*(label .* is not a number|is not JSON)"):
        load_aligned_dataset(path, cache_dir=cache)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_of_no_values_are_a_missing_modality(tmp_path, cache, kind):
    rows = [{**GOOD, "acoustic": [[], []]}, GOOD, {**GOOD, "acoustic": []}]
    path = write_jsonl(tmp_path / "mine", rows)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    split = load_aligned_dataset(path, cache_dir=cache)["train"].with_format("numpy")
    assert [row["acoustic"].shape for row in split] == [(0, 1), (2, 1), (0, 1)]
    split = load_aligned_dataset(write_jsonl(path, rows[:1]), cache_dir=cache)["train"]
    assert "acoustic" not in split.column_names
