"""What every reader has, and which reader a file needs."""

import importlib
import os
import pickle
import pkgutil
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_cases import GOOD, write_jsonl

from data_builders import DataError, features_are_normalized, formats, load_aligned_dataset, make_builder
from data_builders.conversion import write_parquet
from data_builders.files import HDF5_SIGNATURE
from data_builders.formats import READERS
from data_builders.formats.contract import Head, ReadOptions
from data_builders.formats.recognition import get_reader, open_source


PACKAGES = [Path(__file__).parents[3] / name for name in ("data_builders", "modeling_cpsl")]


def test_every_module_that_has_a_format_is_a_reader():
    names = [module.name for module in pkgutil.iter_modules(formats.__path__)]
    modules = {name: importlib.import_module(f"data_builders.formats.{name}") for name in names}
    assert {name for name, module in modules.items() if hasattr(module, "FORMAT")} == set(READERS)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_keeps_the_contract(name, tmp_path):
    reader = get_reader(name)
    assert name == reader.FORMAT
    assert reader.FEATURES_ARE_NORMALIZED is features_are_normalized(name)
    assert reader.recognizes(tmp_path, Head(tmp_path)) is False  # an empty folder
    assert name == "sample" or reader.files(tmp_path) == []


def test_nothing_else_lists_formats():
    """A format that is named elsewhere is one that a new format would have to be added to."""
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        named = [name for name in READERS if f'"{name}"' in path.read_text() and name not in ("table", "sample")]
        assert path.parts[-2:] == ("formats", "__init__.py") or named in ([], [path.stem]), path


def test_a_new_format_is_a_module_and_its_name(tmp_path, cache, monkeypatch):
    (tmp_path / "lines.py").write_text(
        """
from data_builders.formats.contract import Head
from data_builders.rows import Source

FORMAT = "lines"
FEATURES_ARE_NORMALIZED = False

def recognizes(path, head):
    return head.first_bytes.startswith(b"#lines")

def files(path):
    return [path] if recognizes(path, Head(path)) else []

def rows(line):
    yield {"id": line, "video_id": line, "words": line.split(), "label": 1.0}

def read(path, options):
    assert options.labels and options.head.first_bytes
    return Source(path, FORMAT, {}, False, {"test": ["b c"], "train": path.read_text().splitlines()[1:]}, rows)
"""
    )
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    monkeypatch.setattr("data_builders.formats.recognition.READERS", (*READERS[:2], "lines", *READERS[2:]))
    (tmp_path / "x").write_text("#lines\na good film\n")
    splits = load_aligned_dataset(tmp_path / "x", cache_dir=cache)
    assert list(splits) == ["train", "test"] and splits["train"].info.config_name == "lines"
    assert list(splits["train"]["words"]) == [["a", "good", "film"]] and features_are_normalized("lines") is False


def test_a_pickle_is_read_once_however_many_readers_look_at_it(write_pickle, monkeypatch):
    data = {key: np.ones((1, 4, 5)) for key in ("text", "audio", "vision")} | {"labels": np.zeros((1, 1, 1))}
    path, loaded = write_pickle({"test": data}), []

    def load(file):
        loaded.append(file)
        return {"test": data}

    monkeypatch.setattr("data_builders.formats.pickles.safe_pickle_load", load)
    assert open_source(path).format == "mult_pickle" and loaded == [path]


def test_a_format_that_is_named_need_not_be_recognized(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("who,label\nme,1\n")
    with pytest.raises(DataError, match=r"x\.csv: not a folder; give the folder with the \.csd files"):
        open_source(path, format="computational_sequence")
    assert get_reader("sample").read(path, ReadOptions(Head(path))).format == "sample"


@pytest.fixture
def data_of(tmp_path, mag_data, write_pickle, small_corpus):
    """A function that makes data in a format; returns its path and the files that are read."""

    def make(name):
        folder = tmp_path / "data"
        folder.mkdir()
        if name == "computational_sequence":
            (small_corpus / "segments.json").write_text('{"segments": []}')
            return small_corpus, list(small_corpus.iterdir())
        if name == "misa_pickle":
            for split in ("train", "dev", "test"):
                (folder / f"{split}.pkl").write_bytes(pickle.dumps([1]))
            return folder, list(folder.iterdir())
        if name in ("meld", "sst"):
            cells = {"meld": "Utterance,Speaker,Dialogue_ID,Utterance_ID\nHi,A,1,2\n", "sst": "(3 (2 It) (4 is))\n"}
            for split in ("train", "dev"):
                (folder / f"{split}.{'csv' if name == 'meld' else 'txt'}").write_text(cells[name])
            return folder, list(folder.iterdir())
        if name in ("table", "folder of tables"):
            np.save(folder / "0.npy", np.ones((2, 1)))
            rows = [GOOD, {**GOOD, "id": "good_2", "acoustic": "0.npy"}]
            table = write_jsonl(folder / "train.jsonl", rows)
            if name == "table":
                return table, [table, folder / "0.npy"]
            pq.write_table(pa.table({"words": [["a"]], "acoustic": ["x/1.npz"]}), folder / "test.parquet")
            (folder / "dev.csv").write_text("words,acoustic,label\na b,0.npy,1\n")
            (folder / "x").mkdir()
            np.savez(folder / "x" / "1.npz", acoustic=np.ones((1, 1)))
            return folder, [*folder.glob("*.*"), folder / "x" / "1.npz"]
        path = write_pickle(mag_data(), name="data/train.pkl")
        return path, [path]

    return make


@pytest.mark.parametrize("name", [*(name for name in READERS if name != "sample"), "folder of tables"])
def test_a_cache_lives_as_long_as_the_files_that_are_read(data_of, cache, name):
    path, read = data_of(name)

    def key():
        return make_builder(path, cache_dir=cache).cache_dir

    before, folder = key(), path if path.is_dir() else path.parent
    (folder / "clip.mp4").write_bytes(b"1234ftyp")
    np.save(folder / "unrelated.npy", np.ones(3))
    with h5py.File(folder / "unrelated.h5", "w") as file:
        file["weights"] = np.ones(3)
    (folder / "broken link").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    assert key() == before
    for file in read:
        content = file.read_bytes()
        if file.suffix == ".parquet":
            pq.write_table(pa.table({"words": [["b"]], "acoustic": ["x/1.npz"]}), file)
        else:
            file.write_bytes(content + b"\n")
        assert key() != before, file
        file.write_bytes(content)
    assert key() == before


def test_an_array_that_appears_is_read(tmp_path, cache):
    path = write_jsonl(tmp_path / "mine.jsonl", [GOOD, {**GOOD, "id": "good_2", "acoustic": "0.npy"}])
    assert len(load_aligned_dataset(path, cache_dir=cache, on_error="skip")["train"]) == 1
    np.save(tmp_path / "0.npy", np.ones((2, 1)))
    assert len(load_aligned_dataset(path, cache_dir=cache, on_error="skip")["train"]) == 2


def test_hdf5_of_others_does_not_make_a_folder_one_of_computational_sequences(tmp_path, cache, small_corpus):
    for folder in (tmp_path / "tables", small_corpus):
        folder.mkdir(exist_ok=True)
        with h5py.File(folder / "weights.h5", "w") as file:
            file["layer/kernel"] = np.ones(3)
    write_jsonl(tmp_path / "tables" / "train.jsonl", [GOOD])
    (tmp_path / "tables" / "broken.hdf5").write_bytes(HDF5_SIGNATURE)
    assert load_aligned_dataset(tmp_path / "tables", cache_dir=cache)["train"].info.config_name == "table"
    assert load_aligned_dataset(small_corpus, cache_dir=cache)["train"].info.config_name == "computational_sequence"
    (small_corpus / "broken.hdf5").write_bytes(HDF5_SIGNATURE)  # it may have been another sequence
    with pytest.raises(DataError, match=r"broken\.hdf5: not a readable HDF5 file"):
        load_aligned_dataset(small_corpus, cache_dir=cache)


@pytest.mark.parametrize("option", ["feature_sequences", "folds"])
def test_an_option_of_another_format_is_refused(tmp_path, cache, option):
    path = write_jsonl(tmp_path / "mine.jsonl", [GOOD])
    with pytest.raises(DataError, match=rf"mine\.jsonl: table data has no {option}; leave this option out"):
        load_aligned_dataset(path, cache_dir=cache, **{option: {"acoustic": ["one"]}})


def test_a_name_that_is_not_utf8(tmp_path, cache):
    folder = tmp_path / os.fsdecode(b"\xff")
    path = write_jsonl(folder.with_suffix(".jsonl"), [{"text": "a b", "label": 1}])
    splits = load_aligned_dataset(path, cache_dir=cache)
    assert splits["train"]["id"] == [r"\xff-0"]
    [file] = write_parquet(splits, folder)
    path = file.rename(file.with_name(f"train{folder.name}.parquet"))
    assert load_aligned_dataset(path, cache_dir=cache)["train"].to_dict() == splits["train"].to_dict()


def test_what_save_to_disk_writes_can_be_written_as_parquet(tmp_path, cache):
    splits = load_aligned_dataset(write_jsonl(tmp_path / "mine.jsonl", [GOOD]), cache_dir=cache)
    for name, saved in (("both", splits), ("one", splits["train"])):
        saved.save_to_disk(tmp_path / name)
        with pytest.raises(DataError, match=r'save_to_disk .*split\.to_parquet\("train\.parquet"\), and give their'):
            load_aligned_dataset(tmp_path / name, cache_dir=cache)
    (tmp_path / "written").mkdir()
    splits["train"].to_parquet(tmp_path / "written" / "train.parquet")
    again = load_aligned_dataset(tmp_path / "written", cache_dir=cache)
    assert again["train"].to_dict() == splits["train"].to_dict()


def test_the_format_is_told_from_content_and_can_be_given(mag_data, write_pickle, cache):
    path = write_pickle(mag_data(), name="train.csv")
    assert load_aligned_dataset(path, cache_dir=cache)["train"].info.config_name == "mag_pickle"
    assert len(load_aligned_dataset(path, cache_dir=cache, format="mag_pickle")["train"]) == 6
    with pytest.raises(DataError, match=r"train\.csv: not a misa_pickle"):
        load_aligned_dataset(path, cache_dir=cache, format="misa_pickle")
    with pytest.raises(DataError, match="format='mag' is not one of computational_sequence, meld, sst, table"):
        load_aligned_dataset(path, cache_dir=cache, format="mag")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"facet": 1, "covarep": 2, "glove": 3, "label": 4}), "four-field mosi.pkl .*words, visual"),
        (pickle.dumps({"train": {"facet": 1, "covarep": 2, "glove": 3, "label": 4}}), "four-field mosi.pkl"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html>", "web page"),
        (b"", "the file is empty"),
        (pickle.dumps({"train": [1, 2]})[:-3], "download is incomplete"),
        (b"PK\x03\x04abc", "zip archive"),
        (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "an Office document; save the sheet as CSV"),
        (b"PK\x03\x04" + bytes(26) + b"features/data.pkl", "a file of PyTorch; write it as a table"),
        (b"PK\x03\x04" + bytes(26) + b"docProps/app.xml", "an Office document; save the sheet as CSV"),
        (b"PK\x03\x04" + bytes(26) + b"acoustic.npy", "an .npz file of NumPy arrays; make a table with its path"),
        (b"\x93NUMPY\x01\0", "a NumPy array; make a table with its path"),
        (b"%PDF-1.7", "a document"),
        (b"\0\0\0\x20ftypisom", "audio or video; make a data set of it"),
        ("Ein Satz.\nÄh\n".encode() * 99, "a text, and neither a table nor a pickle"),
        (b"just words\n", "a text, and neither a table nor a pickle"),
        (b"\x1f\x8babc", "gzip.*unpack"),
        (b"[\n1,\n", "JSON document"),
        (b"\x89HDF\r\n\x1a\nabc", "a single HDF5 file"),
        (b"a,b,c\n1,2,3\n", "none of its columns \\(a, b, c\\) is id, label, text, words"),
        (pickle.dumps([1], protocol=0), "the list of one split"),
        (pickle.dumps({"train": 1}, protocol=0), "a pickle of none of the known layouts"),
        (pickle.dumps(OrderedDict(train=1), protocol=0), "a pickle of none of the known layouts"),
    ],
)
def test_files_that_are_no_data_are_called_by_their_name(tmp_path, cache, content, message):
    path = tmp_path / "mosi.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"mosi\.pkl: .*{message}") as caught:
        load_aligned_dataset(path, cache_dir=cache)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "header", "rest"),
    [
        (
            "dev_sent_emo.csv",
            "Sr No.,Utterance,Sentiment",
            "; rename Utterance to text; rename Sentiment to label",
        ),
        ("labels.csv", "file,speaker,sentence,emotion", "rename sentence to text; rename emotion to label, if"),
    ],
)
def test_a_folder_with_a_table_of_other_columns(tmp_path, cache, name, header, rest):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / name).write_text(f"{header}\n1,2,3,4\n")
    columns = header.replace(",", ", ")
    with pytest.raises(
        DataError, match=rf"{name}: none of its columns \({columns}\) is id, label, text, words.*{rest}"
    ):
        load_aligned_dataset(tmp_path, cache_dir=cache)


@pytest.mark.parametrize("name", ["sample.py", "setup.cfg"])
def test_programs_are_not_called_tables(tmp_path, cache, name):
    content = {
        "sample.py": '"""The sample: a synthetic stand-in for CMU-MOSI, so that everything runs without data."""\n',
        "setup.cfg": "[metadata]\nname = a, b\n",
    }
    (tmp_path / name).write_text(content[name])
    with pytest.raises(DataError, match="a text, and neither a table nor a pickle; give the data file"):
        load_aligned_dataset(tmp_path / name, cache_dir=cache)


def test_a_folder_of_nothing(tmp_path, cache):
    with pytest.raises(DataError, match="the folder holds no"):
        load_aligned_dataset(tmp_path, cache_dir=cache)
