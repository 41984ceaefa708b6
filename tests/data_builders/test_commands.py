import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from data_builders import DataError, load_aligned_dataset
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
        datasets.Dataset, "to_parquet", lambda *_, **__: (_ for _ in ()).throw(OSError("disk is full"))
    )
    with pytest.raises(OSError, match="disk is full"):
        write_parquet(splits, tmp_path / "out" / "mine")
    assert list((tmp_path / "out").iterdir()) == []
