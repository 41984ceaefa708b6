"""The sample corpus: deterministic, in the row format, and with a sentiment that no modality alone tells."""

import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from data_builders import DataError, load_aligned_dataset
from data_builders.formats.sample import FEATURES_ARE_NORMALIZED, sample_splits


SIZES = {"acoustic": 74, "visual": 47}
PITCH, ENERGY, SMILE = 0, 11, 14
PRAISE = {"brilliant", "wonderful", "fantastic", "amazing", "superb", "perfect", "loved", "adored"}
REMARK_VERBS = {"watched", "saw", "rented", "bought", "tried", "ordered"}


@pytest.fixture(scope="module")
def splits():
    return sample_splits()


@pytest.fixture(scope="module")
def rows(splits):
    return [row for split in splits.values() for row in split]


def digest(splits):
    """A hash of every bit of a corpus."""
    state = hashlib.sha256()
    for split, rows in splits.items():
        for row in rows:
            for name, value in row.items():
                content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
                state.update(f"{split} {name} ".encode() + content)
    return state.hexdigest()


def labels_of(rows):
    return np.array([row["label"] for row in rows])


def correlation(train_features, train, test_features, test):
    """Test correlation of a ridge regression, the best of several strengths by leave-one-out."""
    scaler = StandardScaler().fit(train_features)
    ridge = RidgeCV(np.logspace(0, 5, 16)).fit(scaler.transform(train_features), labels_of(train))
    return np.corrcoef(ridge.predict(scaler.transform(test_features)), labels_of(test))[0, 1]


def word_means(rows, name):
    """The mean row of each utterance, plain and weighted by loudness, on which stress shows."""
    means = []
    for row in rows:
        weights = np.exp(row["acoustic"][:, ENERGY])
        means.append(np.concatenate([row[name].mean(0), np.average(row[name], axis=0, weights=weights)]))
    return np.array(means)


def test_messages_name_the_corpus_and_not_the_file_that_generates_it():
    with pytest.raises(DataError, match=r"^the sample corpus: no modality 'txt' in it; its modalities are: text, aco"):
        load_aligned_dataset("sample", modalities=["txt"])


class TestDeterminism:
    def test_the_seed_decides_every_bit(self):
        assert digest(sample_splits(60, seed=3)) == digest(sample_splits(60, seed=3))
        assert digest(sample_splits(60, seed=3)) != digest(sample_splits(60, seed=4))

    def test_another_process_makes_the_same_corpus(self):
        code = "from test_sample import digest, sample_splits; print(digest(sample_splits(60, seed=3)))"
        path = os.pathsep.join([os.path.dirname(__file__), os.getcwd()])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
        printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert printed.stdout.strip() == digest(sample_splits(60, seed=3)), printed.stderr

    def test_the_global_generator_is_left_alone(self):
        np.random.seed(0)
        sample_splits(20)
        drawn = np.random.random()
        np.random.seed(0)
        assert drawn == np.random.random()


class TestRows:
    def test_every_row_is_in_the_format(self, rows):
        for row in rows:
            assert list(row) == [
                "id", "video_id", "words", "acoustic", "visual", "label", "start", "end", "word_start", "word_end"
            ]  # fmt: skip
            assert 4 <= len(row["words"]) <= 14
            assert all(re.fullmatch("[a-z]+", word) for word in row["words"]), row["words"]
            for name, size in SIZES.items():
                assert row[name].shape == (len(row["words"]), size) and row[name].dtype == np.float32
                assert np.isfinite(row[name]).all()
            for name in ("word_start", "word_end"):
                assert row[name].shape == (len(row["words"]),) and row[name].dtype == np.float32
            assert type(row["label"]) is float and type(row["start"]) is float and type(row["end"]) is float

    def test_ids_tell_the_speaker(self, rows):
        assert len({row["id"] for row in rows}) == len(rows) == 1200
        for row in rows:
            assert re.fullmatch(r"speaker\d\d_\d{3}", row["id"]) and row["id"].startswith(row["video_id"] + "_")

    def test_sizes_of_the_default_splits(self, splits):
        assert {name: len(split) for name, split in splits.items()} == {"train": 840, "validation": 120, "test": 240}

    @settings(max_examples=15, deadline=None)
    @given(num_utterances=st.integers(10, 150), seed=st.integers(0, 2**32))
    def test_no_speaker_is_in_two_splits(self, num_utterances, seed):
        splits = sample_splits(num_utterances, seed)
        speakers = {name: {row["video_id"] for row in split} for name, split in splits.items()}
        assert list(speakers) == ["train", "validation", "test"] and all(speakers.values())
        assert sum(map(len, splits.values())) == num_utterances
        assert len(set.union(*speakers.values())) == sum(map(len, speakers.values())) == min(40, num_utterances)

    def test_too_few_utterances(self):
        with pytest.raises(ValueError, match="num_utterances is 9"):
            sample_splits(9)

    def test_held_out_words_are_known(self, splits):
        known = {word for row in splits["train"] for word in row["words"]}
        assert {word for name in ("validation", "test") for row in splits[name] for word in row["words"]} <= known


class TestLabels:
    def test_they_are_means_of_five_integers(self, rows):
        fifths = labels_of(rows) * 5
        assert np.allclose(fifths, np.rint(fifths)) and np.abs(fifths).max() == 15

    def test_they_cover_the_scale(self, splits):
        for split in splits.values():
            labels = labels_of(split)
            assert abs(labels.mean()) < 0.5 and 1.5 < labels.std() < 2.1
            assert 0.005 < (labels == 0).mean() < 0.1
            assert (np.bincount(np.rint(labels).astype(int) + 3, minlength=7) > 0.03 * len(labels)).all()


class TestFeatures:
    @pytest.mark.parametrize("name", SIZES)
    def test_they_are_about_normalized(self, rows, name):
        values = np.concatenate([row[name] for row in rows])
        assert FEATURES_ARE_NORMALIZED
        assert np.abs(values.mean(0)).max() < 0.35
        assert values.std(0).min() > 0.5 and values.std(0).max() < 2 and np.abs(values).max() < 10

    @pytest.mark.parametrize("name", SIZES)
    def test_columns_are_correlated(self, rows, name):
        values = np.concatenate([row[name] for row in rows])
        variances = np.linalg.eigvalsh(np.corrcoef(values.T))[::-1]
        # Independent columns would leave each direction about 1 of the variance.
        assert variances[:8].sum() > 0.3 * SIZES[name] and variances[0] > 3

    @pytest.mark.parametrize("name", SIZES)
    def test_speakers_differ(self, rows, name):
        by_speaker = defaultdict(list)
        for row in rows:
            by_speaker[row["video_id"]].append(row[name])
        offsets = np.array([np.concatenate(values).mean(0) for values in by_speaker.values()])
        assert 0.4 < offsets.std(0).mean() < 0.7

    def test_stressed_words_are_louder(self, rows):
        gain = [
            row["acoustic"][index, ENERGY] - row["acoustic"][:, ENERGY].mean()
            for row in rows
            for index, word in enumerate(row["words"])
            if word in PRAISE
        ]
        assert np.mean(gain) > 0.7


class TestTimes:
    def test_words_follow_each_other(self, rows):
        for row in rows:
            seconds = row["word_end"] - row["word_start"]
            pauses = row["word_start"][1:] - row["word_end"][:-1]
            assert row["start"] < row["word_start"][0] and row["word_end"][-1] < row["end"]
            assert seconds.min() > 0.05 and seconds.max() < 2
            assert pauses.min() >= 0 and pauses.max() < 0.7

    def test_utterances_of_a_speaker_follow_each_other(self, splits):
        for split in splits.values():
            for before, after in itertools.pairwise(split):
                if before["video_id"] == after["video_id"]:
                    assert before["end"] < after["start"] < before["end"] + 3

    def test_the_rate_and_the_pauses_are_speechlike(self, rows):
        rates = [len(row["words"]) / (row["end"] - row["start"]) for row in rows]
        assert 2 < np.mean(rates) < 4
        pauses = np.concatenate([row["word_start"][1:] - row["word_end"][:-1] for row in rows])
        assert 0.05 < (pauses > 0.1).mean() < 0.3


class TestSentiment:
    def test_remarks_are_decided_by_voice_and_face(self, splits):
        remarks = {name: [row for row in split if REMARK_VERBS & set(row["words"])] for name, split in splits.items()}
        train, test = remarks["train"], remarks["test"] + remarks["validation"]
        assert len(train) > 80 and labels_of(train).std() > 1.3
        by_ear_and_eye = [np.hstack([word_means(part, name) for name in SIZES]) for part in (train, test)]
        assert correlation(by_ear_and_eye[0], train, by_ear_and_eye[1], test) > 0.75

    def test_some_praise_is_sarcasm_with_a_sour_voice_and_face(self, rows):
        praise = [row for row in rows if PRAISE & set(row["words"]) and not {"not", "but"} & set(row["words"])]
        sincere, sarcastic = [row for row in praise if row["label"] > 0], [row for row in praise if row["label"] < 0]
        assert 0.05 < len(sarcastic) / len(praise) < 0.4

        def mean(rows, name, column):
            return np.mean([row[name][:, column].mean() for row in rows])

        assert mean(sincere, "visual", SMILE) > mean(sarcastic, "visual", SMILE) + 1
        assert mean(sincere, "acoustic", PITCH) > mean(sarcastic, "acoustic", PITCH) + 1

    def test_no_modality_is_enough_and_each_one_adds(self, splits):
        train, test = splits["train"] + splits["validation"], splits["test"]
        vectorizer = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", min_df=3)
        texts = [[" ".join(row["words"]) for row in part] for part in (train, test)]
        features = {
            "text": (vectorizer.fit_transform(texts[0]).toarray(), vectorizer.transform(texts[1]).toarray()),
            **{name: (word_means(train, name), word_means(test, name)) for name in SIZES},
        }

        def score(*names):
            parts = [np.hstack([features[name][part] for name in names]).astype(float) for part in (0, 1)]
            return correlation(parts[0], train, parts[1], test)

        everything = score("text", "acoustic", "visual")
        assert everything > 0.7
        for name in features:
            assert 0.4 < score(name) < everything - 0.1
        for pair in (("text", "acoustic"), ("text", "visual"), ("acoustic", "visual")):
            assert score(*pair) < everything - 0.02, pair
