"""The pickles of MISA, MMIM, MMSA and MulT."""

import pickle

import numpy as np
import pytest

from cpsl import main
from data_builders import DataError, load_aligned_dataset
from data_builders.inspection import inspect


def window_mean(frames, index, count):
    """Word `index` of `count`: the mean of its even share of the frames, whole and part ones."""
    length = len(frames) / count
    start, end = index * length, (index + 1) * length
    weights = [max(0.0, min(end, k + 1) - max(start, k)) for k in range(len(frames))]
    return np.average(frames, axis=0, weights=weights)


# MISA and MMIM


def misa_splits(generator, mmim=False):
    splits = {}
    for split in ("train", "dev", "test"):
        splits[split] = []
        for number in range(1, 4):
            words = ["a", "bad", "film"][:number]
            visual, acoustic = generator.normal(size=(number, 4)), generator.normal(size=(number, 5))
            fields = (list(range(number)), visual, acoustic, words)
            if mmim:
                padded = np.zeros((9, 4)), np.zeros((9, 5))
                padded[0][: number + 1] = generator.normal(size=(number + 1, 4))
                padded[1][:7] = generator.normal(size=(7, 5))
                fields = (list(range(number)), *padded, words, number + 1, np.array(7))
            splits[split].append((fields, np.array([[number - 2.0]]), f"{split}_{number}"))
    return splits


def write_folder(folder, splits):
    folder.mkdir()
    for split, samples in splits.items():
        (folder / f"{split}.pkl").write_bytes(pickle.dumps(samples))
    return folder


def test_misa(tmp_path, cache):
    data = misa_splits(np.random.default_rng(0))
    splits = load_aligned_dataset(write_folder(tmp_path / "misa", data), cache_dir=cache)
    assert set(splits) == {"train", "validation", "test"} and splits["train"].info.config_name == "misa_pickle"
    for row, (fields, label, segment) in zip(splits["validation"].with_format("numpy"), data["dev"], strict=True):
        assert list(row["words"]) == fields[3] and row["id"] == segment and row["label"] == label[0, 0]
        np.testing.assert_array_equal(row["visual"], fields[1].astype(np.float32))
        np.testing.assert_array_equal(row["acoustic"], fields[2].astype(np.float32))


def test_mmim_frames_are_shared_out(tmp_path, cache):
    data = misa_splits(np.random.default_rng(0), mmim=True)
    splits = load_aligned_dataset(write_folder(tmp_path / "mmim", data), cache_dir=cache)
    for row, (fields, _, _) in zip(splits["test"].with_format("numpy"), data["test"], strict=True):
        count = len(fields[3])
        expected = [window_mean(fields[1][: count + 1], index, count) for index in range(count)]
        np.testing.assert_allclose(row["visual"], expected, rtol=1e-5)
        np.testing.assert_allclose(
            row["acoustic"], [window_mean(fields[2][:7], i, count) for i in range(count)], rtol=1e-5
        )


def test_one_file_of_misa_is_the_split_of_its_name(tmp_path, cache):
    folder = write_folder(tmp_path / "misa", misa_splits(np.random.default_rng(0)))
    assert list(load_aligned_dataset(folder / "dev.pkl", cache_dir=cache)) == ["validation"]
    (folder / "dev.pkl").rename(folder / "data.pkl")
    with pytest.raises(DataError, match=r"data\.pkl: the list of one split; call the file"):
        load_aligned_dataset(folder / "data.pkl", cache_dir=cache)


# MMSA


def mmsa_split(generator, texts, frames, ids, lengths=None):
    """Columns of MMSA; `frames` are the (audio, vision) rows of each sample and `lengths` what they are padded to."""
    count = len(texts)
    split = {
        "raw_text": np.array(texts) if generator.random() < 0.5 else list(texts),
        "id": ids,
        "regression_labels": generator.uniform(-3, 3, count).astype(np.float32),
        "classification_labels": np.zeros(count),
        "annotations": np.array(["Neutral"] * count),
        "text": np.zeros((count, 50, 8), np.float32),
        "text_bert": np.zeros((count, 3, 50), np.float32),
    }
    for key, column in (("audio", 0), ("vision", 1)):
        arrays = [sample[column] for sample in frames]
        length = lengths[column] if lengths else 50
        split[key] = np.zeros((count, length, arrays[0].shape[1]))
        for index, (offset, array) in enumerate(zip([sample[2] for sample in frames], arrays, strict=True)):
            split[key][index, offset : offset + len(array)] = array
        if lengths:
            split[f"{key}_lengths"] = [len(array) for array in arrays]
    return split


TEXTS = ["a bad film", "good", "the movie was not so very bad"]


@pytest.mark.parametrize("offset", [0, 1, 20])
def test_mmsa_aligned(write_pickle, cache, offset):
    generator = np.random.default_rng(offset)
    frames = [(generator.normal(size=(n, 5)), generator.normal(size=(n, 20)), offset) for n in (3, 1, 9)]
    split = mmsa_split(generator, TEXTS, frames, ["v1$_$1", "v1$_$2", "v2$_$10"])
    splits = load_aligned_dataset(write_pickle({"train": split, "valid": split}), cache_dir=cache)
    assert set(splits) == {"train", "validation"} and splits["train"].info.config_name == "mmsa_pickle"
    first, second, third = splits["validation"].with_format("numpy")
    assert first["id"] == "v1$_$1" and first["video_id"] == "v1" and list(first["words"]) == ["a", "bad", "film"]
    assert first["label"] == split["regression_labels"][0]
    np.testing.assert_array_equal(first["acoustic"], frames[0][0].astype(np.float32))
    np.testing.assert_array_equal(second["visual"], frames[1][1].astype(np.float32))
    # Nine token rows for seven words.
    expected = [window_mean(frames[2][0], index, 7) for index in range(7)]
    np.testing.assert_allclose(third["acoustic"], expected, rtol=1e-5)


def test_mmsa_unaligned(write_pickle, cache, caplog):
    generator = np.random.default_rng(0)
    frames = [
        (generator.normal(size=(a, 5)), generator.normal(size=(v, 20)), 0) for a, v in ((30, 12), (7, 1), (3, 0))
    ]
    frames[0][0][4, 1] = -np.inf
    split = mmsa_split(generator, TEXTS, frames, ["v1$_$1", "v1$_$2", "v2$_$10"], lengths=(40, 25))
    path = write_pickle({"test": split}, protocol=2)
    splits = load_aligned_dataset(path, cache_dir=cache)
    assert f"{path}: 1 non-finite acoustic values were replaced with 0" in caplog.text
    first, second, third = splits["test"].with_format("numpy")
    audio = np.where(np.isfinite(frames[0][0]), frames[0][0], 0)
    np.testing.assert_allclose(first["acoustic"], audio.reshape(3, 10, 5).mean(axis=1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(first["visual"], frames[0][1].reshape(3, 4, 20).mean(axis=1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(second["acoustic"], frames[1][0].mean(axis=0, keepdims=True), rtol=1e-5, atol=1e-7)
    # Three frames for seven words: each word has the frames in its window; there is no vision at all.
    expected = [window_mean(frames[2][0], index, 7) for index in range(7)]
    np.testing.assert_allclose(third["acoustic"], expected, rtol=1e-5, atol=1e-7)
    assert third["visual"].shape == (0, 20) and len(third["words"]) == 7


def test_mmsa_files_that_are_not_whole(write_pickle, cache):
    generator = np.random.default_rng(0)
    frames = [(generator.normal(size=(3, 5)), generator.normal(size=(3, 20)), 0)] * 3
    split = mmsa_split(generator, TEXTS, frames, ["a", "b", "c"])
    for change, message in (
        ({"regression_labels": np.zeros(2)}, r"its columns differ in length \(audio 3, .*regression_labels 2\)"),
        ({"audio_lengths": [1, 2]}, "its columns differ in length .*audio_lengths 2"),
        ({"id": "abc"}, "id is not a list or an array"),
        ({"raw_text": np.array("abc")}, "raw_text is not a list or an array"),
    ):
        with pytest.raises(DataError, match=rf"data\.pkl: split train: {message}"):
            load_aligned_dataset(write_pickle({"train": {**split, **change}}), cache_dir=cache)
    for change, message in (
        ({"audio": np.zeros((3, 5))}, "sample a: acoustic is not rows of numbers, all of one length, and no other"),
        ({"vision": [[[1, 2], [3]]] * 3}, "sample a: visual is not rows of numbers"),
        ({"audio_lengths": [1, 2, "x"], "vision": None}, "sample c: x is not a number of frames"),
        ({"audio_lengths": [1, -2, 3], "vision": None}, "sample b: -2 is not a number of frames"),
        ({"audio": [np.ones((3, 5)), "x", np.ones((3, 5))]}, "sample b: acoustic is not rows of numbers"),
    ):
        with pytest.raises(DataError, match=rf"data\.pkl: {message}"):
            load_aligned_dataset(write_pickle({"train": {**split, **change}}), cache_dir=cache)


def test_mmsa_without_a_modality_or_ids(write_pickle, cache):
    generator = np.random.default_rng(0)
    frames = [(generator.normal(size=(n, 5)), generator.normal(size=(2 * n, 20)), 0) for n in (3, 1, 7)]
    split = mmsa_split(generator, TEXTS, frames, ["v1$_$1", None, float("nan")], lengths=(40, 40))
    del split["vision"], split["vision_lengths"]
    train = load_aligned_dataset(write_pickle({"train": split}), cache_dir=cache)["train"].with_format("numpy")
    assert "visual" not in train.features and list(train["id"]) == ["v1$_$1", "train-1", "train-2"]
    for row, (audio, _, _) in zip(train, frames, strict=True):
        np.testing.assert_array_equal(row["acoustic"], audio.astype(np.float32))


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("make", [list, lambda arrays: [array.tolist() for array in arrays], "objects"])
def test_mmsa_lists_are_read_like_arrays(write_pickle, cache, even, make):
    generator = np.random.default_rng(0)
    frames = [(generator.normal(size=(n, 5)), generator.normal(size=(n, 20)), 4) for n in (3, 1, 9)]
    split = mmsa_split(generator, TEXTS, frames, ["v1$_$1", "v1$_$2", "v2$_$10"])
    expected = load_aligned_dataset(write_pickle({"test": split}), cache_dir=cache)["test"].with_format("numpy")
    for column, index in (("audio", 0), ("vision", 1)):
        arrays = list(split[column]) if even else [sample[index] for sample in frames]
        if make == "objects":
            split[column] = np.empty(3, object)
            split[column][:] = arrays
        else:
            split[column] = make(arrays)
    found = load_aligned_dataset(write_pickle({"test": split}), cache_dir=cache)["test"].with_format("numpy")
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(row["acoustic"], other["acoustic"])
        np.testing.assert_array_equal(row["visual"], other["visual"])


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_a_missing_transcript_is_no_word(write_pickle, cache, missing):
    """Pandas gives NaN for an empty cell, and it became the word `nan`."""
    generator = np.random.default_rng(0)
    frames = [(generator.normal(size=(n, 5)), generator.normal(size=(2 * n, 20)), 0) for n in (3, 1, 4)]
    split = mmsa_split(generator, TEXTS, frames, ["v1$_$1", "v1$_$2", "v2$_$10"], lengths=(40, 30))
    split["raw_text"] = np.array([TEXTS[0], TEXTS[1], missing], object)
    *_, row = load_aligned_dataset(write_pickle({"test": split}), cache_dir=cache)["test"].with_format("numpy")
    assert list(row["words"]) == []
    np.testing.assert_array_equal(row["visual"], frames[2][1].astype(np.float32))
    np.testing.assert_array_equal(row["acoustic"], np.repeat(frames[2][0], 2, axis=0).astype(np.float32))


def test_text_without_blanks_has_a_word_a_character(write_pickle, cache):
    """As in CH-SIMS."""
    generator = np.random.default_rng(0)
    frames = [(generator.normal(size=(14, 5)), np.ones((7, 20)), 0)]
    split = mmsa_split(generator, ["我不想嫁给李茶"], frames, ["v$_$1"], lengths=(20, 9))
    [row] = load_aligned_dataset(write_pickle({"test": split}), cache_dir=cache)["test"].with_format("numpy")
    assert list(row["words"]) == list("我不想嫁给李茶")
    expected = frames[0][0].reshape(7, 2, 5).mean(axis=1)
    np.testing.assert_allclose(row["acoustic"], expected, rtol=1e-5, atol=1e-7)


# MMSA's feature extractor


def test_empty_splits_of_a_feature_extractor(write_pickle, cache):
    """It writes splits that a data set lacks as empty arrays or dicts, and labels that are not known as NaN."""
    generator = np.random.default_rng(0)
    split = mmsa_split(generator, TEXTS, [(np.ones((3, 5)), np.ones((3, 20)), 0)] * 3, ["a", "b", "c"])
    split["regression_labels"][:] = np.nan
    empty = {name: np.asarray(values)[:0] for name, values in split.items()}
    for others in ({"train": empty, "valid": empty}, {"train": {}, "valid": {}}):
        path = write_pickle({**others, "test": split})
        splits = load_aligned_dataset(path, cache_dir=cache, labels=False)
        assert list(splits) == ["test"] and splits["test"]["id"] == ["a", "b", "c"]
        assert "label" not in splits["test"].features and splits["test"].features["visual"].shape[1] == 20
        with pytest.raises(DataError, match="sample a: label nan is outside of"):
            load_aligned_dataset(path, cache_dir=cache)


@pytest.mark.parametrize("text", ["a bad film", None])
def test_what_a_feature_extractor_writes_for_one_video(write_pickle, cache, text):
    generator = np.random.default_rng(0)
    result = {"audio": generator.normal(size=(6, 5)), "vision": generator.normal(size=(12, 20))}
    result |= {"text": generator.normal(size=(3, 768)), "text_bert": np.ones((3, 3))}
    result |= {"raw_text": text} if text else {}
    splits = load_aligned_dataset(write_pickle(result, "clip7.pkl"), cache_dir=cache, labels=False)
    [row] = splits["train"].with_format("numpy")
    assert row["id"] == "clip7" and list(row["words"]) == (text.split() if text else [])
    np.testing.assert_allclose(row["acoustic"], result["audio"].reshape(3, 2, 5).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(row["visual"], result["vision"].reshape(3, 4, 20).mean(axis=1), rtol=1e-5)
    columns = {name: np.stack([value] * 2) for name, value in result.items() if name != "raw_text"}
    columns |= {"raw_text": [text] * 2} if text else {}
    [one, other] = load_aligned_dataset(write_pickle(columns, "test.pkl"), cache_dir=cache, labels=False)["test"]
    assert [one["id"], other["id"]] == ["test-0", "test-1"] and one["acoustic"] == other["acoustic"]


# Without labels


def without_labels(name, mag_data, generator):
    """The object of a pickle of each family without labels, and what the error says that it lacks."""
    if name == "mag":
        return {split: [(f, segment) for f, _, segment in samples] for split, samples in mag_data().items()}
    if name == "mmsa":
        split = mmsa_split(generator, TEXTS, [(np.ones((3, 5)), np.ones((3, 20)), 0)] * 3, ["a", "b", "c"])
        return {"test": {column: values for column, values in split.items() if column != "regression_labels"}}
    if name == "misa":
        return {split: [(f, s) for f, _, s in samples] for split, samples in misa_splits(generator).items()}
    return {"test": {key: np.ones((3, 4, 5)) for key in ("text", "audio", "vision")}}


@pytest.mark.parametrize("name", ["mag", "misa", "mmsa", "mult"])
def test_files_without_labels_are_read_where_labels_are_not_wanted(mag_data, write_pickle, tmp_path, cache, name):
    path = write_pickle(without_labels(name, mag_data, np.random.default_rng(0)))
    split = load_aligned_dataset(path, cache_dir=cache, labels=False)["test"]
    assert len(split) == 3 and "label" not in split.features and all(map(len, split["acoustic"]))
    assert "labels: not read" in inspect(path, labels=False)
    assert main(["convert", str(path), str(tmp_path / "converted"), "--no_labels"]) == 0
    with pytest.raises(DataError, match=r"data\.pkl: no .*label.*; .*cpsl predict.*--no_labels.*labels=False"):
        load_aligned_dataset(path, cache_dir=cache)


@pytest.mark.parametrize("name", ["mag", "mmsa", "mult"])
def test_labels_are_read_where_there_are_valid_ones(mag_data, write_pickle, cache, name):
    """As predictions want them: a wrong label is none."""
    data = {"test": without_labels(name, mag_data, np.random.default_rng(0))["test"]}
    labels = [1.5, 9.0, np.nan]
    if name == "mag":
        data["test"] = [(f, label, segment) for (f, segment), label in zip(data["test"], labels, strict=True)]
    else:
        data["test"]["labels" if name == "mult" else "regression_labels"] = np.array(labels)
    assert load_aligned_dataset(write_pickle(data), cache_dir=cache, labels=None)["test"]["label"][:] == [
        1.5,
        None,
        None,
    ]
    unlabelled = write_pickle(without_labels(name, mag_data, np.random.default_rng(0)))
    assert load_aligned_dataset(unlabelled, cache_dir=cache, labels=None)["test"]["label"][:] == [None] * 3


# MulT


def test_mult(write_pickle, cache, caplog):
    generator = np.random.default_rng(0)
    split = {"labels": np.array([[[1.5]], [[-2.0]]]), "id": np.array([b"v_1", b"v_2"])}
    for key, size in (("text", 300), ("audio", 5), ("vision", 20)):
        split[key] = np.zeros((2, 50, size), np.float32)
        split[key][0, 47:] = generator.normal(size=(3, size))
        split[key][1, 40:] = generator.normal(size=(10, size))
    split["audio"][1, 45, 2] = -np.inf
    path = write_pickle({"valid": split})
    splits = load_aligned_dataset(path, cache_dir=cache, modalities=["acoustic", "visual"])
    assert splits["validation"].info.config_name == "mult_pickle"
    assert f"{path}: 1 non-finite acoustic values" in caplog.text
    first, second = splits["validation"].with_format("numpy")
    assert first["id"] == "v_1" and first["label"] == 1.5 and len(first["words"]) == 0
    np.testing.assert_array_equal(first["acoustic"], split["audio"][0, 47:])
    np.testing.assert_array_equal(second["visual"], split["vision"][1, 40:])
    assert second["acoustic"][5, 2] == 0


def test_mult_unaligned(write_pickle, cache):
    generator = np.random.default_rng(0)
    split = {"labels": np.zeros((1, 1, 1)), "id": np.array([["vid", "1.5", "2.5"]])}
    for key, length, used in (("text", 50, 4), ("audio", 375, 40), ("vision", 500, 60)):
        split[key] = np.zeros((1, length, 5))
        split[key][0, length - used :] = generator.normal(size=(used, 5))
    row = load_aligned_dataset(write_pickle({"test": split}), cache_dir=cache)["test"].with_format("numpy")[0]
    assert row["id"] == "vid_1.5_2.5" and len(row["words"]) == 0
    np.testing.assert_allclose(row["acoustic"], split["audio"][0, -40:].reshape(4, 10, 5).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(row["visual"], split["vision"][0, -60:].reshape(4, 15, 5).mean(axis=1), rtol=1e-5)


def test_mult_segments_with_times_are_of_one_video(write_pickle, cache, caplog):
    """MOSEI's ids are (video, start, end)."""
    split = {key: np.ones((2, 4, 5)) for key in ("text", "audio", "vision")} | {"labels": np.zeros((2, 1, 1))}
    data = {
        "train": {**split, "id": np.array([["one", "0.0", "7.25"], ["one", "7.25", "9.5"]])},
        "test": {**split, "id": np.array([["one", "10.0", "12.5"], ["two", "0.0", "1.0"]])},
    }
    splits = load_aligned_dataset(write_pickle(data), cache_dir=cache)
    assert splits["train"]["id"] == ["one_0.0_7.25", "one_7.25_9.5"]
    assert splits["train"]["video_id"] == ["one", "one"] and splits["test"]["video_id"] == ["one", "two"]
    assert "train and test share 1 video, so speakers leak between them; the first is one" in caplog.text


@pytest.mark.parametrize("side", ["left", "right"])
class TestPadding:
    """The same sample, padded on either side, gives the same row."""

    WORDS = ["a", "bad", "film"]

    @pytest.fixture
    def frames(self):
        generator = np.random.default_rng(3)
        return {"acoustic": generator.normal(size=(9, 5)), "visual": generator.normal(size=(6, 4))}

    def padded(self, frames, length, side):
        rows = ((length - len(frames), 0) if side == "left" else (0, length - len(frames)), (0, 0))
        return np.pad(frames, rows)

    def check(self, row, frames, count=3):
        for name, values in frames.items():
            expected = values.reshape(count, -1, values.shape[1]).mean(axis=1)
            np.testing.assert_allclose(row[name], expected, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("with_lengths", [True, False])
    def test_mmsa_unaligned(self, write_pickle, cache, frames, side, with_lengths):
        audio, vision = self.padded(frames["acoustic"], 20, side), self.padded(frames["visual"], 30, side)
        split = {"raw_text": ["a bad film"], "id": ["v$_$1"], "regression_labels": [1.0]}
        split |= {"audio": audio[None], "vision": vision[None]}
        if with_lengths:
            split |= {"audio_lengths": [9], "vision_lengths": [6]}
        splits = load_aligned_dataset(write_pickle({"train": split}), cache_dir=cache)
        self.check(splits["train"].with_format("numpy")[0], frames)

    def test_mmim(self, tmp_path, cache, frames, side):
        visual, acoustic = self.padded(frames["visual"], 30, side), self.padded(frames["acoustic"], 20, side)
        sample = (([0, 1, 2], visual, acoustic, self.WORDS, 6, 9), np.array([[1.0]]), "v_1")
        folder = write_folder(tmp_path / "mmim", {"train": [sample]})
        splits = load_aligned_dataset(folder, cache_dir=cache)
        assert list(splits["train"][0]["words"]) == self.WORDS
        self.check(splits["train"].with_format("numpy")[0], frames)

    def test_mult(self, write_pickle, cache, frames, side):
        split = {"labels": np.ones((1, 1, 1)), "id": ["v_1"], "text": self.padded(np.ones((3, 300)), 50, side)[None]}
        split |= {"audio": self.padded(frames["acoustic"], 20, side)[None]}
        split |= {"vision": self.padded(frames["visual"], 30, side)[None]}
        splits = load_aligned_dataset(write_pickle({"train": split}), cache_dir=cache)
        self.check(splits["train"].with_format("numpy")[0], frames)


def test_a_true_frame_of_zeros_is_kept(tmp_path, cache):
    """Where the length is known, silence at the end is no padding."""
    visual = np.zeros((10, 4))
    visual[:4] = 1.0
    sample = (([0, 1, 2], visual, np.ones((3, 5)), ["a", "bad", "film"], 6, 3), np.array([[1.0]]), "v_1")
    splits = load_aligned_dataset(write_folder(tmp_path / "mmim", {"train": [sample]}), cache_dir=cache)
    np.testing.assert_array_equal(splits["train"].with_format("numpy")[0]["visual"][:, 0], [1, 1, 0])


# Two names of one split


def test_two_names_of_one_split_are_refused(mag_data, write_pickle, tmp_path, cache):
    """One of them would silently replace the other."""
    mag = mag_data()
    mmsa = mmsa_split(np.random.default_rng(0), ["a"], [(np.ones((1, 5)), np.ones((1, 20)), 0)], ["v"])
    mult = {key: np.ones((1, 4, 5)) for key in ("text", "audio", "vision")} | {"labels": np.zeros((1, 1, 1))}
    for split in (mag["dev"], mmsa, mult):
        with pytest.raises(DataError, match=r"data\.pkl: dev and valid are both the validation split; keep one"):
            load_aligned_dataset(write_pickle({"dev": split, "valid": split}), cache_dir=cache)
    folder = write_folder(tmp_path / "misa", misa_splits(np.random.default_rng(0)))
    for name in ("valid.pkl", "dev.pickle"):
        (folder / "dev.pkl").rename(folder / name)
        (folder / "val.pkl").write_bytes((folder / name).read_bytes())
        with pytest.raises(DataError, match=r"misa: (val\.pkl and valid\.pkl|dev\.pickle and val\.pkl) are both"):
            load_aligned_dataset(folder, cache_dir=cache)
        (folder / "val.pkl").unlink()
        (folder / name).rename(folder / "dev.pkl")
    (folder / "dev.pickle").write_bytes((folder / "dev.pkl").read_bytes())
    with pytest.raises(DataError, match=r"misa: dev\.pickle and dev\.pkl are both the validation split"):
        load_aligned_dataset(folder, cache_dir=cache)


def test_other_files_beside_the_pickles_of_the_splits(tmp_path, cache):
    folder = write_folder(tmp_path / "misa", misa_splits(np.random.default_rng(0)))
    (folder / "train.txt").write_text("hello")
    (folder / "test.log").write_text("")
    assert set(load_aligned_dataset(folder, cache_dir=cache)) == {"train", "validation", "test"}
