import numpy as np
import pytest

from data_builders import DataError, load_aligned_dataset


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_every_sample_comes_back(mag_data, write_pickle, cache, protocol):
    data = mag_data()
    splits = load_aligned_dataset(write_pickle(data, protocol=protocol), cache_dir=cache)
    assert set(splits) == {"train", "validation", "test"}
    assert splits["train"].info.config_name == "mag_pickle"
    for name, original in (("train", "train"), ("validation", "dev"), ("test", "test")):
        split = splits[name].with_format("numpy")
        assert len(split) == len(data[original])
        for row, ((words, visual, acoustic), label, segment) in zip(split, data[original], strict=True):
            assert row["id"] == segment and row["video_id"] == segment[:-2]
            assert list(row["words"]) == words
            np.testing.assert_array_equal(row["visual"], visual.astype(np.float32))
            np.testing.assert_array_equal(row["acoustic"], acoustic.astype(np.float32))
            assert row["label"] == label[0, 0]


@pytest.mark.parametrize("label", [0.5, np.array(0.5), np.array([0.5]), np.array([[0.5, 1, 0, 0, 2, 0, 0]])])
def test_labels_and_bytes_words(write_pickle, cache, label):
    words = [b"caf\xc3\xa9", np.str_("good")]
    sample = ((words, np.ones((2, 4)), np.ones((2, 5))), label, b"video_1")
    splits = load_aligned_dataset(write_pickle({"train": [sample]}), cache_dir=cache)
    assert splits["train"][0]["label"] == 0.5
    assert splits["train"][0]["words"] == ["café", "good"] and splits["train"][0]["id"] == "video_1"


WORDS, VISUAL, ACOUSTIC = ["a", "b"], np.ones((2, 4)), np.ones((2, 5))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (((WORDS, VISUAL[1:], ACOUSTIC), 1.0, "v_9"), "v_9: 1 rows of visual for 2 words"),
        (((WORDS, VISUAL[:, 1:], ACOUSTIC), 1.0, "v_9"), r"v_9: visual has shape \(2, 3\)"),
        (((WORDS, VISUAL, ACOUSTIC), 3.5, "v_9"), r"v_9: label 3\.5 is outside"),
        (((WORDS, VISUAL, ACOUSTIC), np.nan, "v_9"), "v_9: its label is missing"),
        (((np.array("good"), VISUAL, ACOUSTIC), 1.0, "v_9"), "train-2: its words are not strings"),
        (((WORDS, VISUAL), 1.0, "v_9"), "train-2: its first part does not have 3 fields"),
        (((WORDS, VISUAL, "x"), 1.0, "v_9"), "train-2: acoustic is not rows of numbers, all of one length"),
        (((WORDS, VISUAL, [[1.0] * 5, [1.0]]), 1.0, "v_9"), "train-2: acoustic is not rows of numbers"),
        (((WORDS, VISUAL, ACOUSTIC), "v_9"), "v_9: its label is missing"),
        ((WORDS, VISUAL, ACOUSTIC, 1.0), r"train-2: it is not \(features, label, segment\)"),
    ],
)
def test_a_bad_sample_is_named_or_left_out(mag_data, write_pickle, cache, caplog, sample, message):
    data = mag_data()
    data["train"][2] = sample
    path = write_pickle(data)
    with pytest.raises(DataError, match=rf"data\.pkl: sample {message}.*on_error='skip'"):
        load_aligned_dataset(path, cache_dir=cache)
    splits = load_aligned_dataset(path, cache_dir=cache, on_error="skip")
    assert len(splits["train"]) == len(data["train"]) - 1
    assert "left out 1 sample: " in caplog.text


def test_what_a_sample_lacks_is_missing(mag_data, write_pickle, cache):
    data = mag_data()
    data["train"][:3] = [
        ((WORDS, VISUAL, None), 1.0, "v_1"),
        ((float("nan"), VISUAL, ACOUSTIC), 1.0, "v_2"),
        ((WORDS, VISUAL.tolist(), ACOUSTIC), 1.0),
    ]
    train = load_aligned_dataset(write_pickle(data), cache_dir=cache)["train"].with_format("numpy")
    assert list(train["id"][:3]) == ["v_1", "v_2", "train-2"]
    assert [train[index]["acoustic"].shape for index in range(3)] == [(0, 5), (2, 5), (2, 5)]
    assert [list(train[index]["words"]) for index in range(3)] == [WORDS, [], WORDS]
    for split in data.values():
        split[:] = [((words, visual, None), *others) for (words, visual, _), *others in split]
    assert "acoustic" not in load_aligned_dataset(write_pickle(data), cache_dir=cache)["train"].features
