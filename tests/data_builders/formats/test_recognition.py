"""What every reader has, and which reader a file needs."""

import importlib
import pickle
import pkgutil
from pathlib import Path

import numpy as np
import pytest

from data_builders import DataError, features_are_normalized, formats, load_aligned_dataset
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


def test_nothing_else_lists_formats():
    """A format that is named elsewhere is one that a new format would have to be added to."""
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        named = [name for name in READERS if f'"{name}"' in path.read_text() and name not in ("table", "sample")]
        assert path.parts[-2:] == ("formats", "__init__.py") or named in ([], [path.stem]), path


def test_a_new_format_is_a_module_and_its_name(tmp_path, cache, monkeypatch):
    (tmp_path / "lines.py").write_text(
        """
from data_builders.rows import Source

FORMAT = "lines"
FEATURES_ARE_NORMALIZED = False

def recognizes(path, head):
    return head.first_bytes.startswith(b"#lines")

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


def test_the_format_is_told_from_content_and_can_be_given(mag_data, write_pickle, cache):
    path = write_pickle(mag_data(), name="train.csv")
    assert load_aligned_dataset(path, cache_dir=cache)["train"].info.config_name == "mag_pickle"
    assert len(load_aligned_dataset(path, cache_dir=cache, format="mag_pickle")["train"]) == 6
    with pytest.raises(DataError, match=r"train\.csv: not a misa_pickle"):
        load_aligned_dataset(path, cache_dir=cache, format="misa_pickle")
    with pytest.raises(DataError, match="format='mag' is not one of computational_sequence, table, mag_pickle"):
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
        (b"\x1f\x8babc", "gzip.*unpack"),
        (b"[\n1,\n", "JSON document"),
        (b"\x89HDF\r\n\x1a\nabc", "a single HDF5 file"),
        (b"a,b,c\n1,2,3\n", "names none of id, label, text, words"),
    ],
)
def test_files_that_are_no_data_are_called_by_their_name(tmp_path, cache, content, message):
    path = tmp_path / "mosi.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"mosi\.pkl: .*{message}") as caught:
        load_aligned_dataset(path, cache_dir=cache)
    assert "\n" not in str(caught.value)


def test_a_folder_of_nothing(tmp_path, cache):
    with pytest.raises(DataError, match="the folder holds no"):
        load_aligned_dataset(tmp_path, cache_dir=cache)
