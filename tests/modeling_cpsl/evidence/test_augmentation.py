"""Samples made of others: what each way changes, and what it leaves as it is."""

import numpy as np
import pytest
from datasets import Array2D, Dataset, Features, List, Value

from modeling_cpsl.evidence.augmentation import AUGMENTATIONS, augmented, original_places


SIZES = {"acoustic": 3, "visual": 2}


@pytest.fixture(scope="module")
def split():
    """40 samples: the first of one word, the second without voice, the third with a label of its own."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(40):
        length = 1 if number == 0 else int(generator.integers(5, 12))
        voice = generator.normal(size=(0 if number == 1 else length, 3)) * [1, 10, 0]
        row = {"id": f"s{number}", "words": [f"w{place}" for place in range(length)], "acoustic": voice}
        row |= {"visual": generator.normal(size=(length, 2)), "label": 3.0 if number == 2 else number % 2 - 0.1}
        rows.append(row | {"word_start": np.arange(length, dtype=float).tolist(), "video_id": f"v{number % 5}"})
    features = {name: Array2D((None, size), "float32") for name, size in SIZES.items()}
    features |= {"id": Value("string"), "words": List(Value("string")), "label": Value("float32")}
    features |= {"word_start": List(Value("float32")), "video_id": Value("string")}
    return Dataset.from_list(rows, Features(features))


def pairs(split, made):
    """Each sample that was made, with its original."""
    originals = {row["id"]: row for row in split.with_format("numpy")}
    return [(originals[row["id"].partition("~")[0]], row) for row in made.with_format("numpy")]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_way_keeps_labels_and_columns_and_follows_from_its_seed(split, name):
    made = augmented(split, name)
    assert made.features == split.features and len(made) >= 37
    for original, row in pairs(split, made):
        assert row["id"] == f"{original['id']}~{name}"
        assert (row["label"], row["video_id"]) == (original["label"], original["video_id"])
    assert augmented(split, name)[:] == made[:] != augmented(split, name, seed=1)[:]


def test_dropped_words_go_with_what_was_measured(split):
    made = augmented(split, "word_drop")
    assert len(made) == 39  # of one word nothing would be left
    dropped = 0
    for original, row in pairs(split, made):
        places = [int(word[1:]) for word in row["words"]]
        assert 0 < len(places) < len(original["words"])
        dropped += len(original["words"]) - len(places)
        for name in ("words", "word_start", "visual", *(["acoustic"] if len(original["acoustic"]) else [])):
            np.testing.assert_array_equal(row[name], original[name][places])
    assert 39 <= dropped < 80


def test_jitter_is_a_tenth_of_each_feature_s_deviation(split):
    noise = [
        row["acoustic"] - original["acoustic"] for original, row in pairs(split, augmented(split, "frame_jitter"))
    ]
    deviations = np.concatenate([row["acoustic"] for row in split.with_format("numpy")]).std(axis=0)
    expected = 0.1 * np.where(deviations > 0, deviations, 1)  # as in standardised features, a constant one has 1
    np.testing.assert_allclose(np.concatenate(noise).std(axis=0), expected, rtol=0.12)


def test_an_exchanged_voice_is_another_one_of_the_same_label(split):
    made = augmented(split, "voice_exchange")
    assert {row["id"] for row in made} == {f"s{number}~voice_exchange" for number in range(40) if number not in (1, 2)}
    voices = {row["id"]: row["acoustic"] for row in split.with_format("numpy")}
    labels = dict(zip(split["id"], split["label"], strict=True))
    for original, row in pairs(split, made):
        assert row["acoustic"].shape == original["acoustic"].shape
        np.testing.assert_array_equal(row["visual"], original["visual"])
        (source,) = (name for name, voice in voices.items() if (voice == row["acoustic"][0]).all(axis=1).any())
        assert source != original["id"] and labels[source] == original["label"]
        inside = [np.flatnonzero((voices[source] == frame).all(axis=1))[0] for frame in row["acoustic"]]
        assert inside == sorted(inside)


def test_a_sample_is_told_from_its_original_by_its_id():
    assert original_places(["a", "a~noise", "b~noise", "a~noise~twice"]).tolist() == [-1, 0, -1, 1]
