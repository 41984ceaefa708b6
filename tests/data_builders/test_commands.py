import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpsl import main
from data_builders import DataError, load_aligned_dataset
from data_builders.inspection import inspect


def test_the_command_line(mag_data, write_pickle, tmp_path):
    path = write_pickle(mag_data())
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cli")}

    def run(*arguments):
        command = [sys.executable, "-m", "data_builders", *map(str, arguments)]
        repository = Path(__file__).parents[2]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=repository, timeout=300)

    assert "train: 6 samples of 2 videos" in run("inspect", path).stdout
    assert not (tmp_path / "cli").exists()  # it needs no cache
    broken = tmp_path / "broken.pkl"
    broken.write_bytes(path.read_bytes()[:-9])
    result = run("inspect", broken)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.strip().endswith("the download is incomplete, get it again")
    assert run("inspect").returncode == 2


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
        (("convert", "x.jsonl", "out", "--num-proc", "0"), "num_proc=0 must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_one_line(two_rows, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith(f"cpsl {arguments[0]}: error: ") and message in line
    assert not captured.out and {path.name for path in tmp_path.iterdir()} <= {"x.jsonl", "hf"}


def test_a_cache_that_cannot_be_made(two_rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", two_rows)
    assert main(["convert", str(two_rows), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"cpsl convert: error: {two_rows}: no cache can be made here")


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


def test_data_with_a_name_is_inspected_where_it_is(mag_data, write_pickle, capsys):
    assert main(["inspect", "mosi", "--data_dir", str(write_pickle(mag_data()))]) == 0
    assert "train: 6 samples of 2 videos" in capsys.readouterr().out
    assert main(["inspect", "mosi"]) == 1
    assert "mosi: give data_dir" in capsys.readouterr().err


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
