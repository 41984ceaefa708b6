import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_builders import DataError, features_are_normalized, load_aligned_dataset
from data_builders.__main__ import main
from data_builders.conversion import write_parquet
from data_builders.inspection import inspect


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def test_inspect_says_everything(mag_data, write_pickle):
    data = mag_data((6, 3, 3))
    data["train"][0][0][2][0, :3] = np.nan
    data["train"][1] = (data["train"][1][0], 9.0, "bad_1")
    data["train"][2] = (data["train"][2][0], 0.0, "same_1")
    data["test"][2] = (data["test"][2][0], 0.0, "same_1")
    report = inspect(write_pickle(data))
    for line in (
        "data.pkl: mag_pickle",
        "train: 5 samples of 3 videos",
        "acoustic: 5 values a word, missing in 0 samples",
        "non-finite values replaced with 0: acoustic: 3",
        "left out: 1 samples",
        "bad_1: label 9 is outside of [-3, 3]",
        "ids that occur more than once: 1 same_1",
        "videos in more than one split: 1 same",
    ):
        assert line in report
    labels = [float(np.squeeze(label)) for _, label, _ in data["test"]]
    counts = np.histogram(labels, np.arange(-3.5, 4))[0]
    assert (
        "labels: " + ", ".join(f"{value}: {count}" for value, count in zip(range(-3, 4), counts, strict=True))
        in report
    )
    lengths = sorted(len(words) for (words, _, _), _, _ in data["test"])
    assert f"words: {lengths[0]} to {lengths[-1]}, median {lengths[1]}" in report
    first = data["dev"][0]
    assert first[2] in report and " ".join(first[0][0]) in report


def test_the_command_line(mag_data, write_pickle, tmp_path):
    path = write_pickle(mag_data())
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cli")}

    def run(*arguments):
        command = [sys.executable, "-m", "data_builders", *map(str, arguments)]
        repository = Path(__file__).parents[2]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=repository, timeout=100)

    assert "train: 6 samples of 2 videos" in run("inspect", path).stdout
    broken = tmp_path / "broken.pkl"
    broken.write_bytes(path.read_bytes()[:-9])
    result = run("inspect", broken)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.strip().endswith("the download is incomplete, get it again")
    assert run("inspect").returncode == 2


@pytest.mark.parametrize("shard_megabytes", [64, 0.002])
def test_convert_gives_what_plain_datasets_reads_and_streams(mag_data, write_pickle, tmp_path, shard_megabytes):
    original = load_aligned_dataset(write_pickle(mag_data((60, 9, 9))), cache_dir=tmp_path / "a")
    files = write_parquet(original, tmp_path / "out" / "mine", shard_megabytes=shard_megabytes)
    assert len(files) == 3 if shard_megabytes == 64 else len(files) > 9
    plain = datasets.load_dataset(str(tmp_path / "out" / "mine"), cache_dir=str(tmp_path / "b"))
    streamed = datasets.load_dataset(str(tmp_path / "out" / "mine"), streaming=True)
    ours = load_aligned_dataset(tmp_path / "out" / "mine", cache_dir=tmp_path / "c")
    for name, split in original.items():
        assert plain[name].features == split.features == ours[name].features
        assert plain[name].to_dict() == split.to_dict() == ours[name].to_dict()
        assert [row["id"] for row in streamed[name]] == list(split["id"])
    assert "| train | 60 |" in (tmp_path / "out" / "mine" / "README.md").read_text()
    with pytest.raises(DataError, match="exists already"):
        write_parquet(original, tmp_path / "out" / "mine")


def test_converted_data_remembers_what_it_was(mag_data, small_corpus, write_pickle, tmp_path):
    """Else features that are z-scored already would be standardised again."""
    for index, source in enumerate((write_pickle(mag_data()), small_corpus, "sample")):
        first = load_aligned_dataset(source, cache_dir=tmp_path / "a")
        write_parquet(first, tmp_path / f"once{index}")
        second = load_aligned_dataset(tmp_path / f"once{index}", cache_dir=tmp_path / "b")
        write_parquet(second, tmp_path / f"twice{index}", shard_megabytes=0.002)
        third = load_aligned_dataset(tmp_path / f"twice{index}", streaming=True)
        names = {splits["train"].info.config_name for splits in (first, second, third)}
        assert names == {("mag_pickle", "computational_sequence", "sample")[index]}
        assert features_are_normalized(names.pop()) is (index != 1)
    files = sorted((tmp_path / "once1" / "data").iterdir())
    shutil.copy(files[0], tmp_path / "twice0" / "data" / "test-other.parquet")  # of two formats: it is neither
    mixed = load_aligned_dataset(tmp_path / "twice0", modalities=["text"], cache_dir=tmp_path / "b")
    assert mixed["train"].info.config_name == "table"


@pytest.mark.parametrize(
    "value", ['{"info": {"config_name": "no such"}}', '{"info": {"config_name": []}}', "[1]", "{"]
)
def test_a_format_that_is_none_is_not_believed(tmp_path, value):
    table = pa.Table.from_pylist([{"id": "a", "words": ["x"], "label": 1.0}])
    pq.write_table(table.replace_schema_metadata({"huggingface": value}), tmp_path / "x.parquet")
    splits = load_aligned_dataset(tmp_path / "x.parquet", cache_dir=tmp_path / "c")
    assert splits["train"].info.config_name == "table"


@pytest.fixture
def two_rows(tmp_path):
    rows = [{"id": f"v_{k}", "words": ["a", "b"], "acoustic": [[1, 2], [3, 4]], "label": k} for k in range(2)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plot", "x.jsonl", "x.xyz"), "x.xyz: the plot is a PNG file; give a name that ends in .png"),
        (("plot", "x.jsonl", "x"), "x: the plot is a PNG file; give a name that ends in .png"),
        (("plot", "x.jsonl", "x.jsonl/x.png"), "x.jsonl"),
        (("convert", "x.jsonl", "out", "--shard-megabytes", "0"), "shard_megabytes=0 is not the size of a file"),
        (("convert", "x.jsonl", "out", "--shard-megabytes", "-1"), "shard_megabytes=-1 is not the size of a file"),
        (("convert", "x.jsonl", "x.jsonl/out"), "x.jsonl"),
        (("convert", "x.jsonl", "out", "--num-proc", "0"), "num_proc=0 is less than one process"),
    ],
)
def test_what_cannot_be_done_is_one_line(two_rows, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    *progress, line = captured.err.splitlines()
    assert line.startswith("error: ") and message in line and all("Generating" in bar for bar in progress if bar)
    assert not captured.out and {path.name for path in tmp_path.iterdir()} <= {"x.jsonl", "hf"}


def test_a_cache_that_cannot_be_made(two_rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", two_rows)
    assert main(["convert", str(two_rows), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {two_rows}: no cache can be made here")


def test_the_folder_of_a_plot_is_made(two_rows, tmp_path):
    assert main(["plot", str(two_rows), str(tmp_path / "new" / "x.PNG")]) == 0
    assert (tmp_path / "new" / "x.PNG").read_bytes().startswith(b"\x89PNG")


def test_data_without_labels(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "v_0", "words": ["a", "b"], "acoustic": [[1, 2], [3, 4]]}\n')
    report = inspect(path)
    assert "labels: none (" in report and "no column label" in report and "labels: mean" not in report
    assert "words: 2 to 2, median 2" in report and "v_0 'a b' acoustic (2, 2)" in report
    assert main(["inspect", str(path), "--no-labels"]) == 0
    assert "labels: not read" in capsys.readouterr().out
    assert main(["convert", str(path), str(tmp_path / "out")]) == 1
    assert main(["plot", str(path), str(tmp_path / "x.png")]) == 1
    assert "labels=False" in capsys.readouterr().err
    assert main(["convert", str(path), str(tmp_path / "out"), "--no-labels"]) == 0
    assert main(["plot", str(path), str(tmp_path / "x.png"), "--no-labels"]) == 0
    converted = load_aligned_dataset(tmp_path / "out", labels=False, cache_dir=tmp_path / "c")["train"]
    assert converted["words"] == [["a", "b"]] and "label" not in converted.features
    assert "`label`" not in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(DataError, match="no such file"):
        inspect(tmp_path / "nothing.jsonl")


def test_convert_and_plot_from_the_command_line(mag_data, write_pickle, tmp_path, capsys):
    data = mag_data()
    data["train"][2] = (data["train"][2][0], 9.0, "bad_1")
    path = write_pickle(data)
    assert main(["convert", str(path), str(tmp_path / "out")]) == 1
    assert "error: " in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert (
        main(["convert", str(path), str(tmp_path / "out"), "--on-error", "skip", "--modalities", "text,visual"]) == 0
    )
    converted = load_aligned_dataset(tmp_path / "out", cache_dir=tmp_path / "c")
    assert len(converted["train"]) == 5 and "acoustic" not in converted["train"].features
    assert main(["plot", str(tmp_path / "out"), str(tmp_path / "plot.png")]) == 0
    with Image.open(tmp_path / "plot.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert image.format == "PNG" and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 3


def test_a_failed_conversion_leaves_nothing(mag_data, write_pickle, tmp_path, monkeypatch):
    splits = load_aligned_dataset(write_pickle(mag_data()), cache_dir=tmp_path / "a")
    monkeypatch.setattr(
        pq.ParquetWriter, "write_table", lambda *_, **__: (_ for _ in ()).throw(OSError("disk is full"))
    )
    with pytest.raises(OSError, match="disk is full"):
        write_parquet(splits, tmp_path / "out" / "mine")
    assert list((tmp_path / "out").iterdir()) == []
