"""A modality that is not asked for may be unreadable, and what is read of the others does not depend on it."""

import h5py
import numpy as np
import pytest

from data_builders import DataError, load_aligned_dataset


WORDS = ["a", "bad", "film"]
# The last frame of the voice is silence, which only the face shows to be no padding.
ACOUSTIC = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
VISUAL = np.arange(1.0, 13.0).reshape(3, 4)


def sample_of_columns(visual):
    """A sample of MMSA or MulT, without what differs between the two."""
    audio = np.concatenate([ACOUSTIC, np.zeros((2, 2))])
    return {"id": ["v_1"], "audio": audio[None], "vision": visual}


def padded(visual):
    return np.concatenate([visual, np.zeros((2, 4))])[None]


def mag(visual):
    return {"train": [((WORDS, visual, ACOUSTIC), 1.0, "v_1")]}


def misa(visual):
    return {"train": [(([0, 1, 2], visual, ACOUSTIC, WORDS), 1.0, "v_1")]}


def mmsa(visual):
    return {"train": sample_of_columns(visual) | {"raw_text": ["a bad film"], "regression_labels": [1.0]}}


def mult(visual):
    text = np.concatenate([np.ones((3, 6)), np.zeros((2, 6))])
    return {"train": sample_of_columns(visual) | {"text": text[None], "labels": np.ones((1, 1, 1))}}


LAYOUTS = [(mag, VISUAL, "x"), (misa, VISUAL, "x"), (mmsa, padded(VISUAL), ["x"]), (mult, padded(VISUAL), ["x"])]


@pytest.mark.parametrize(("layout", "good", "broken"), LAYOUTS, ids=lambda value: getattr(value, "__name__", None))
def test_of_pickles(write_pickle, caplog, layout, good, broken):
    def read(visual, **options):
        path = write_pickle(layout(visual))
        return next(iter(load_aligned_dataset(path, streaming=True, **options)["train"].with_format("numpy")))

    with pytest.raises(
        DataError, match=r"sample v_1: visual is not rows of numbers.*; get the file again, or name the"
    ):
        read(broken)
    modalities = ["acoustic"] if layout is mult else ["text", "acoustic"]  # what the message says
    row = read(broken, modalities=modalities)
    assert row["acoustic"].shape[1] == 2 and "visual" not in row
    infinite = np.where(good == good.max(), np.inf, good)
    for visual in (good, infinite):
        np.testing.assert_array_equal(read(visual, modalities=modalities)["acoustic"], ACOUSTIC.astype(np.float32))
    assert "visual" not in caplog.text  # of what is not read nothing is replaced
    with pytest.raises(DataError, match=r"no modality 'face' in it; its modalities are: text, acoustic, visual$"):
        read(good, modalities=["face"])


@pytest.mark.parametrize("column", ["abc", np.zeros((2, 3, 4))], ids=["no column", "another length"])
def test_of_columns(write_pickle, column):
    path = write_pickle(mmsa(column))
    with pytest.raises(DataError, match=r"split train: (vision is not a list|its columns differ in length)"):
        load_aligned_dataset(path, streaming=True)
    train = load_aligned_dataset(path, streaming=True, modalities=["text", "acoustic"])["train"]
    assert next(iter(train))["words"] == WORDS


def test_of_a_folder_of_sequences(small_corpus, write_csd, cache):
    frames = ([[1.0, 2.0]], [(0.0, 0.5)])
    path = write_csd("FACET.csd", "FACET", dict.fromkeys(("one", "two", "three"), frames), small_corpus)
    with h5py.File(path, "a") as file:
        del file["FACET/data/one/intervals"]
    with pytest.raises(DataError, match=r"FACET\.csd: .*/one has no 'intervals'"):
        load_aligned_dataset(small_corpus, cache_dir=cache)
    splits = load_aligned_dataset(small_corpus, cache_dir=cache, modalities=["text", "acoustic"])
    assert len(splits["train"]) == 2 and "visual" not in splits["train"].features
    path.write_bytes(path.read_bytes()[:2000])  # a download that was cut short
    for modalities in (None, ["text", "visual"]):
        with pytest.raises(DataError, match=r"FACET\.csd: not a readable HDF5 file"):
            load_aligned_dataset(small_corpus, cache_dir=cache, modalities=modalities)
    expected, splits = splits, load_aligned_dataset(small_corpus, cache_dir=cache, modalities=["text", "acoustic"])
    assert splits["train"].to_dict() == expected["train"].to_dict()
