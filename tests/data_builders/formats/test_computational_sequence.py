import json

import h5py
import numpy as np
import pytest

from data_builders import DataError, load_aligned_dataset, make_builder
from data_builders.folds import CMU_MOSI_FOLDS


def test_a_small_folder(small_corpus, cache):
    splits = load_aligned_dataset(small_corpus, cache_dir=cache)
    assert splits["train"].info.config_name == "computational_sequence"
    again = load_aligned_dataset(small_corpus, cache_dir=cache)
    for loaded in (splits, again, load_aligned_dataset(small_corpus, streaming=True)):
        assert loaded["test"].features["acoustic"].id == "COVAREP"
    assert {name: split["id"] for name, split in splits.items()} == {
        "train": ["one_1", "one_2"],
        "validation": ["two_1", "two_2"],
        "test": ["three_1", "three_2"],
    }
    first, second = splits["train"].with_format("numpy")
    assert list(first["words"]) == ["a", "bad"] and list(second["words"]) == ["film"]
    assert first["label"] == 1 and second["label"] == -2
    np.testing.assert_allclose(first["word_start"], [0.0, 0.6])
    np.testing.assert_allclose([first["start"], first["end"]], [0.0, 1.1])
    with h5py.File(small_corpus / "COVAREP.csd") as file:
        frames = file["COVAREP/data/one/features"][()]
    # "a" lies in the first frame, "bad" in the second; "film" has .3 s of the third and .4 s of the last.
    np.testing.assert_allclose(first["acoustic"], frames[:2], rtol=1e-6)
    np.testing.assert_allclose(second["acoustic"], (0.3 * frames[2:3] + 0.4 * frames[3:4]) / 0.7, rtol=1e-6)


def test_timing_only_when_named(small_corpus, cache):
    assert "timing" not in load_aligned_dataset(small_corpus, cache_dir=cache)["train"].features
    split = load_aligned_dataset(small_corpus, cache_dir=cache, modalities=["text", "timing"])["train"]
    assert "acoustic" not in split.features and split.with_format("numpy")[0]["timing"].shape == (2, 6)
    # The dropped pause from .4 to .6 stays as timing: "a" is followed by .2 s.
    assert split.with_format("numpy")[0]["timing"][0, 2] == pytest.approx(np.log(0.21), rel=1e-4)
    with pytest.raises(DataError, match="no modality 'visual' in it; its modalities are: text, acoustic, timing"):
        load_aligned_dataset(small_corpus, cache_dir=cache, modalities=["visual"])


def test_non_finite_frames_are_zero_before_they_are_averaged(small_corpus, cache, caplog):
    with h5py.File(small_corpus / "COVAREP.csd", "r+") as file:
        frames = file["COVAREP/data/one/features"]
        frames[2, 0], frames[3, 1], frames[0, 2] = -np.inf, np.nan, np.inf
        expected = np.nan_to_num(frames[()], nan=0, posinf=0, neginf=0)
    split = load_aligned_dataset(small_corpus, cache_dir=cache)["train"].with_format("numpy")
    np.testing.assert_allclose(split[1]["acoustic"][0], (0.3 * expected[2] + 0.4 * expected[3]) / 0.7, rtol=1e-5)
    for _ in range(2):
        assert [r.message for r in caplog.records if "non-finite" in r.message] == [
            f"{small_corpus}: 3 non-finite acoustic values were replaced with 0"
        ]
        caplog.clear()
        load_aligned_dataset(small_corpus, cache_dir=cache)


def test_segments_without_words_or_time_are_left_out_and_named(small_corpus, write_csd, cache, caplog):
    segments = [(0.0, 1.1), (1.5, 1.5), (5.0, 6.0), (1.1, 2.0)]
    videos = {video: (np.array([[1.0], [0.0], [0.0], [-2.0]]), segments) for video in ("one", "two", "three")}
    write_csd("Opinion_Labels.csd", "Opinion Labels", videos)
    split = load_aligned_dataset(small_corpus, cache_dir=cache)["train"]
    assert split["id"] == ["one_1", "one_4"] and split["label"] == [1, -2]
    assert "left out 6 samples: one_2 and 2 more: zero duration; one_3 and 2 more: no words" in caplog.text


def test_a_video_without_frames_lacks_the_modality(small_corpus, cache):
    with h5py.File(small_corpus / "COVAREP.csd", "r+") as file:
        del file["COVAREP/data/two"]
    split = load_aligned_dataset(small_corpus, cache_dir=cache)["validation"].with_format("numpy")
    assert split[0]["acoustic"].shape == (0, 3) and list(split[0]["words"]) == ["a", "bad"]


def test_released_ids_are_taken_where_times_tell_them(small_corpus, cache):
    known = [
        {"id": "one_7", "video_id": "one", "start": 1.1, "end": 2.0},
        {"id": "one_9", "video_id": "one", "start": 0.0, "end": 1.1},
    ]
    (small_corpus / "segments.json").write_text(json.dumps({"segments": known}))
    assert load_aligned_dataset(small_corpus, cache_dir=cache)["train"]["id"] == ["one_9", "one_7"]


def test_mosei_labels_of_seven_columns(small_corpus, write_csd, cache):
    labels = np.array([[2.0, 1, 0, 0, 3, 0, 0], [-1.0, 0, 0, 0, 0, 0, 0]])
    (small_corpus / "Opinion_Labels.csd").unlink()
    write_csd("MOSEI.csd", "All Labels", {v: (labels, [(0, 1.1), (1.1, 2)]) for v in ("one", "two", "three")})
    assert load_aligned_dataset(small_corpus, cache_dir=cache)["train"]["label"] == [2, -1]


# Without labels


def ids_and_words(split):
    return {row["id"]: " ".join(row["words"]) for row in split}


def test_without_labels_segments_are_given_or_end_at_pauses(small_corpus, cache, monkeypatch):
    (small_corpus / "Opinion_Labels.csd").unlink()
    with pytest.raises(DataError, match=r"csd: no sequence of labels; .*cpsl predict.*--no_labels.*labels=False"):
        load_aligned_dataset(small_corpus, cache_dir=cache)
    (small_corpus / "segments.json").write_text(json.dumps({"one": [[0.5, 2.0], [0.0, 0.5]], "three": [[0.0, 2.0]]}))
    monkeypatch.setattr("data_builders.segments.WORDS_PER_SEGMENT", 2)
    splits = load_aligned_dataset(small_corpus, cache_dir=cache, labels=False)
    assert ids_and_words(splits["train"]) == {"one_1": "bad film", "one_2": "a"}
    assert ids_and_words(splits["validation"]) == {"two_1": "a bad", "two_2": "film"}
    assert ids_and_words(splits["test"]) == {"three_1": "a bad film"}
    row = splits["train"].with_format("numpy")[0]
    assert "label" not in row and row["acoustic"].shape == (2, 3) and row["start"] == 0.5


@pytest.mark.parametrize("labels", [True, None])
def test_segments_are_counted_before_they_are_read(small_corpus, cache, labels):
    if labels is None:
        (small_corpus / "Opinion_Labels.csd").unlink()
        (small_corpus / "segments.json").write_text(json.dumps({"one": [[0.5, 2.0], [0.0, 0.5]]}))
    num_rows, tables = make_builder(small_corpus, labels=labels, streaming=True, cache_dir=cache).read_once()
    assert num_rows == sum(len(table) for _, table in tables)


def test_without_labels_folds_are_not_needed(small_corpus, cache):
    (small_corpus / "Opinion_Labels.csd").unlink()
    (small_corpus / "folds.json").unlink()
    splits = load_aligned_dataset(small_corpus, cache_dir=cache, labels=False)
    assert {name: split["id"] for name, split in splits.items()} == {"train": ["one_1", "three_1", "two_1"]}


@pytest.mark.parametrize(
    "content", [[1], {"one": [[0.0]]}, {"one": [["a", 1]]}, {"one": [[0, float("nan")]]}, {"segments": [{"id": "x"}]}]
)
def test_segments_that_cannot_be_read(small_corpus, cache, content):
    (small_corpus / "segments.json").write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r'segments\.json: needs \{"video": \[\[start, end\], \.\.\.\]\}, or segments with'
    ):
        load_aligned_dataset(small_corpus, cache_dir=cache)


@pytest.mark.parametrize("labels", [True, False])
def test_sequences_that_are_aligned_already(small_corpus, write_csd, cache, labels):
    """The SDK gives each segment of a video its own entry."""
    for path in small_corpus.glob("*.csd"):
        path.unlink()
    keys = ["one[0]", "one[1]", "two[10]"]
    write_csd("words.csd", "words", {key: (["a", "sp", "film"], [(1, 2), (2, 3), (3, 4)]) for key in keys})
    write_csd("COVAREP.csd", "COVAREP", {key: (np.eye(3), [(1, 2), (2, 3), (3, 4)]) for key in keys})
    if labels:
        write_csd("Labels.csd", "Opinion Labels", {key: ([[1.0]], [(1, 4)]) for key in keys})
    splits = load_aligned_dataset(small_corpus, cache_dir=cache, labels=labels)
    assert splits["train"]["id"] == keys[:2] and splits["validation"]["id"] == keys[2:]
    assert splits["train"]["video_id"] == ["one", "one"] and splits["train"][0]["words"] == ["a", "film"]
    assert splits["train"][1]["acoustic"] == [[1, 0, 0], [0, 0, 1]] and splits["train"][0]["end"] == 4


def test_which_sequence_is_which(small_corpus, write_csd, cache):
    frames = {video: (np.ones((4, 2)), np.ones((4, 2)) * [0, 1]) for video in ("one", "two", "three")}
    write_csd("mystery.csd", "x", frames)
    with pytest.raises(DataError, match=r"cannot tell which modality mystery\.csd \(x\) is.*feature_sequences ac"):
        load_aligned_dataset(small_corpus, cache_dir=cache)
    without = load_aligned_dataset(small_corpus, cache_dir=cache, modalities=["text", "acoustic"])
    assert without["train"].features["acoustic"].shape[1] == 3
    with pytest.raises(DataError, match=r"cannot tell which modality mystery\.csd"):
        load_aligned_dataset(small_corpus, cache_dir=cache, modalities=["visual"])
    named = load_aligned_dataset(small_corpus, cache_dir=cache, feature_sequences={"visual": "mystery"})
    assert named["train"].features["visual"].shape[1] == 2 and "acoustic" not in named["train"].features
    (small_corpus / "mystery.csd").unlink()
    write_csd("openSMILE.csd", "OpenSMILE", frames)
    with pytest.raises(DataError, match=r"one sequence of acoustic is needed.*COVAREP\.csd.*openSMILE\.csd"):
        load_aligned_dataset(small_corpus, cache_dir=cache)
    with pytest.raises(DataError, match="names 'absent' for acoustic, which is not one of"):
        load_aligned_dataset(small_corpus, cache_dir=cache, feature_sequences={"acoustic": "absent"})
    write_csd("FACET_4.2.csd", "FACET_4.2", frames)
    write_csd("TimestampedWordVectors.csd", "glove_vectors", frames)
    both = load_aligned_dataset(
        small_corpus, cache_dir=cache, feature_sequences={"a": "OpenSMILE", "b": "FACET_4.2.csd"}
    )
    assert {"a", "b"} <= set(both["train"].features)
    (small_corpus / "openSMILE.csd").unlink()
    assert {"acoustic", "visual"} <= set(load_aligned_dataset(small_corpus, cache_dir=cache)["train"].features)


def test_words_and_labels_must_be_there(small_corpus, cache):
    (small_corpus / "words.csd").unlink()
    with pytest.raises(DataError, match="one sequence of words is needed and these look like it: none"):
        load_aligned_dataset(small_corpus, cache_dir=cache)


def test_folds(small_corpus, cache):
    (small_corpus / "folds.json").unlink()
    with pytest.raises(DataError, match=r"none of its 3 videos \(the first is one\) is in a split.*put a folds\.json"):
        load_aligned_dataset(small_corpus, cache_dir=cache)
    folds = {"train": ["one", "two", "three", "not here"]}
    assert len(load_aligned_dataset(small_corpus, cache_dir=cache, folds=folds)["train"]) == 6
    (small_corpus / "folds.json").write_text("[1, 2")
    with pytest.raises(DataError, match="not readable JSON"):
        load_aligned_dataset(small_corpus, cache_dir=cache)
    for wrong in ([1, 2], {"train": [["one"]]}, {"train": [{"id": "one"}]}):
        (small_corpus / "folds.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"folds\.json must be"):
            load_aligned_dataset(small_corpus, cache_dir=cache)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_video_outside_of_the_folds_is_left_out_and_named(small_corpus, cache, caplog, num_proc):
    (small_corpus / "folds.json").write_text(json.dumps({"train": ["three"], "test": ["two"]}))
    with h5py.File(small_corpus / "COVAREP.csd", "r+") as file:
        file["COVAREP/data/one/features"][0, 0] = np.nan  # of a video that is left out, so nothing is replaced
    builder = make_builder(small_corpus, cache_dir=cache)
    builder.download_and_prepare(num_proc=num_proc)
    splits = builder.as_dataset()
    assert {name: split["id"] for name, split in splits.items()} == {
        "train": ["three_1", "three_2"],
        "test": ["two_1", "two_2"],
    }
    assert [(skipped.id, skipped.reason) for skipped in builder.skipped] == [
        ("one_1", "its video is not in any split of the folds"),
        ("one_2", "its video is not in any split of the folds"),
    ]
    assert "left out 2 samples: one_1 and 1 more: its video is not in any split of the folds" in caplog.text
    assert not builder.replaced


def test_unrelated_files_beside_the_sequences(small_corpus, cache):
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    (small_corpus / "page.html").write_bytes(b"<!DOCTYPE html>\n<html>")
    (small_corpus / "model.bin").write_bytes(pointer)
    (small_corpus / "empty").write_bytes(b"")
    assert len(load_aligned_dataset(small_corpus, cache_dir=cache)["train"]) == 2
    for content, message in ((pointer, "Git LFS pointer"), (b"<html>", "web page"), (b"", "the file is empty")):
        (small_corpus / "FACET.csd").write_bytes(content)
        with pytest.raises(DataError, match=rf"FACET\.csd: .*{message}"):
            load_aligned_dataset(small_corpus, cache_dir=cache)


def test_the_standard_folds_of_mosi():
    assert [len(CMU_MOSI_FOLDS[split]) for split in ("train", "validation", "test")] == [52, 10, 31]
    assert len({video for videos in CMU_MOSI_FOLDS.values() for video in videos}) == 93


def links(folder, target, kind):
    with h5py.File(folder / "COVAREP.csd", "r+") as file:
        group = file["COVAREP/data/one"]
        shape, dtype = group["features"].shape, group["features"].dtype
        del group["features"]
        if kind == "external link":
            group["features"] = h5py.ExternalLink(str(target), "/data")
        elif kind == "soft link":
            group["features"] = h5py.SoftLink("/COVAREP/data/two/features")
        elif kind == "external storage":
            group.create_dataset("features", shape, dtype, external=[(str(target), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource(str(target), "data", shape)
            group.create_virtual_dataset("features", layout)


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual dataset"])
def test_nothing_outside_of_the_file_is_read(small_corpus, tmp_path, cache, kind):
    target = tmp_path / "secret.h5"
    with h5py.File(target, "w") as file:
        file["data"] = np.full((4, 3), 42.0)
    links(small_corpus, target, kind)
    with pytest.raises(DataError, match=r"COVAREP\.csd: .*(is a link|stored in this file)"):
        load_aligned_dataset(small_corpus, cache_dir=cache)


def test_a_claimed_size_is_refused_before_it_is_read(small_corpus, cache):
    with h5py.File(small_corpus / "COVAREP.csd", "r+") as file:
        group = file["COVAREP/data/one"]
        del group["features"]
        group.create_dataset("features", (10**11, 3), "f8", chunks=(1000, 3))
    assert (small_corpus / "COVAREP.csd").stat().st_size < 100_000
    with pytest.raises(DataError, match="claims 2400000000000 bytes that the file does not hold"):
        load_aligned_dataset(small_corpus, cache_dir=cache)


def test_broken_files(small_corpus, write_csd, cache):
    path = small_corpus / "COVAREP.csd"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"no HDF5"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"COVAREP\.csd: not a readable HDF5 file"):
            load_aligned_dataset(small_corpus, cache_dir=cache)
    frames = {"one": (np.ones((4, 3)), np.ones((3, 2))), "two": (np.ones((4, 3)), np.ones((4, 2)))}
    write_csd("COVAREP.csd", "COVAREP", frames)
    with pytest.raises(DataError, match=r"video one: intervals \(3, 2\) for 4 rows"):
        load_aligned_dataset(small_corpus, cache_dir=cache)
    frames = {"one": (np.ones((4, 3)), np.ones((4, 2))), "two": (np.ones((4, 5)), np.ones((4, 2)))}
    write_csd("COVAREP.csd", "COVAREP", frames)
    with pytest.raises(DataError, match="video two: rows of 5 values, and one has 3"):
        load_aligned_dataset(small_corpus, cache_dir=cache)


def test_real_mosi(real_mosi, cache):
    known = json.loads((real_mosi / "segments.json").read_text())
    segments = {segment["id"]: segment for segment in known["segments"]}
    for split, standard in (("train", "train"), ("valid", "validation")):
        assert sorted(known["splits"][split]) == sorted(CMU_MOSI_FOLDS[standard])
    splits = load_aligned_dataset("mosi", data_dir=real_mosi, cache_dir=cache)
    # 2WGyTLYerpo_44 has zero duration.
    assert {name: len(split) for name, split in splits.items()} == {"train": 1284 - 1, "validation": 229}
    jaccard = []
    for name, split in splits.items():
        for row in split.with_format("numpy"):
            segment = segments[row["id"]]
            assert segment["split"] == {"train": "train", "validation": "valid"}[name]
            assert row["label"] == pytest.approx(segment["label"], abs=1e-6)
            assert row["start"] == pytest.approx(segment["start"], abs=1e-4)
            assert row["acoustic"].shape == (len(row["words"]), 73)
            assert (row["acoustic"] == row["acoustic"][:1]).all()  # one row a segment in this file
            spoken, written = set(row["words"]), set(segment["text"].lower().split())
            jaccard.append(len(spoken & written) / len(spoken | written))
    assert np.mean(jaccard) == pytest.approx(0.985, abs=0.002)


def test_words_of_real_mosi_touch_two_segments(real_mosi):
    touching = two = 0
    with (
        h5py.File(real_mosi / "CMU_MOSI_TimestampedWords.csd") as words,
        h5py.File(real_mosi / "CMU_MOSI_Opinion_Labels.csd") as labels,
    ):
        for video, group in words["words/data"].items():
            segments = labels["Opinion Segment Labels/data"][video]["intervals"][()]
            times = group["intervals"][()][group["features"][:, 0] != b"sp"]
            shared = ((times[:, :1] < segments[:, 1]) & (times[:, 1:] > segments[:, 0])).sum(axis=1)
            touching += int((shared > 0).sum())
            two += int((shared > 1).sum())
    assert (touching, two) == (18137, 993)
