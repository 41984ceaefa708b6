import numpy as np
import pytest
from media_files import needs_package, tone, write_clip

from cpsl import main
from data_builders import load_aligned_dataset


needs_package("av")


@pytest.mark.slow
def test_extract_gives_the_same_for_any_number_of_processes_and_shards(tmp_path, capsys):
    clips = tmp_path / "clips"
    clips.mkdir()
    for index in range(3):
        write_clip(clips / f"clip{index}.wav", sound=tone(1 + index, 150 + 50 * index), pictures=False)
    (clips / "broken.mp4").write_bytes(b"no film")
    labels = tmp_path / "labels.csv"
    labels.write_text("clip,label,split\nclip0,1,train\nclip1.wav,-1,dev\nclip2,0.5,test\nbroken,0,train\n")
    options = ["--words", "none", "--modalities", "acoustic", "--labels", str(labels)]
    for out, more in (("one", []), ("two", ["--num_proc", "2"]), ("shards", ["--shard", "0/2"])):
        assert main(["extract", str(clips), str(tmp_path / out), *options, *more]) == 0
    assert "left out: 1 clip\n" in capsys.readouterr().out
    assert main(["extract", str(clips), str(tmp_path / "shards"), *options, "--shard", "1/2"]) == 0
    assert main(["extract", str(clips), str(tmp_path / "one"), *options]) == 1
    assert "exists already; give a new folder" in capsys.readouterr().err
    one, *others = (load_aligned_dataset(tmp_path / out) for out in ("one", "two", "shards"))
    assert {name: list(split["label"]) for name, split in one.items()} == {
        "train": [1.0], "validation": [-1.0], "test": [0.5]
    }  # fmt: skip
    assert "cpsl-voice" in one["train"].features["acoustic"].id
    for other in others:
        for name, split in one.items():
            assert list(other[name]["id"]) == list(split["id"])
            for first, second in zip(split.with_format("numpy"), other[name].with_format("numpy"), strict=True):
                np.testing.assert_array_equal(first["acoustic"], second["acoustic"])


def test_labels_of_clips_may_be_classes(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    labels = tmp_path / "labels.csv"
    labels.write_text("clip,mood,split\nclip0,sad,train\nclip1,joy,train\nclip2,joy,test\n")
    for index in range(3):
        write_clip(clips / f"clip{index}.wav", sound=tone(1, 150 + 50 * index), pictures=False)
    options = ["--words", "none", "--modalities", "acoustic", "--labels", str(labels), "--label_columns", "mood"]
    assert main(["extract", str(clips), str(tmp_path / "out"), *options]) == 0
    splits = load_aligned_dataset(tmp_path / "out")
    assert splits["train"].features["label"].names == ["joy", "sad"]
    assert splits["train"]["label"] == [1, 0] and splits["test"]["label"] == [0]
