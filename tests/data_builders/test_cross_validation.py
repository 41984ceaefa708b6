"""Cross-validation by group: every sample is tested once, and no group is in two splits."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builders import load_aligned_dataset
from data_builders.cross_validation import cross_validation_splits, share_of_groups
from data_builders.files import DataError


SPLITS = ("train", "validation", "test")


def corpus(videos):
    """Samples of these videos, in two splits."""
    rows = [
        {"id": f"s{number}", "video_id": video, "speaker": f"p{number % 3}"} for number, video in enumerate(videos)
    ]
    half = len(rows) // 2
    return DatasetDict({"train": Dataset.from_list(rows[:half]), "test": Dataset.from_list(rows[half:])})


@settings(max_examples=8)
@given(videos=st.lists(st.sampled_from("abcdefgh"), min_size=8, max_size=40), num_folds=st.integers(3, 5))
def test_each_sample_is_in_one_split_and_tested_once(videos, num_folds):
    videos = [*"abcdefgh", *videos]
    tested = []
    for fold in range(num_folds):
        splits = cross_validation_splits(corpus(videos), fold, num_folds)
        assert list(splits) == list(SPLITS)
        assert sorted(name for split in splits.values() for name in split["id"]) == sorted(
            f"s{number}" for number in range(len(videos))
        )
        groups = [set(splits[name]["video_id"]) for name in SPLITS]
        assert groups[0] and not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
        following = cross_validation_splits(corpus(videos), (fold + 1) % num_folds, num_folds)
        assert splits["validation"]["id"] == following["test"]["id"]
        tested += splits["test"]["id"]
    assert sorted(tested) == sorted(f"s{number}" for number in range(len(videos)))


def test_a_seed_is_another_assignment_of_groups_and_the_same_one_again():
    videos = [*"abcdefghijklmnop"] * 2

    def tested(fold, seed):
        return cross_validation_splits(corpus(videos), fold, 4, seed=seed)["test"]["video_id"]

    assignments = [[tested(fold, seed) for fold in range(4)] for seed in (None, 0, 1)]
    assert assignments[0] != assignments[1] != assignments[2] != assignments[0]
    for assignment in assignments:
        assert sorted(video for fold in assignment for video in fold) == sorted(videos)
        assert all(len({*fold}) == 4 for fold in assignment)
    assert [tested(fold, 1) for fold in range(4)] == assignments[2]


def test_another_column_can_be_the_group():
    splits = cross_validation_splits(corpus([*"abcdefghij"]), 0, 3, group="speaker")
    assert all(len(set(split["speaker"])) == 1 for split in splits.values())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((5, 5), {}, "fold 5/5: name a fold from 0"),
        ((0, 2), {}, "at least 3"),
        ((0, 4), {"group": "speaker"}, "3 different values in the column 'speaker' cannot fill 4 folds"),
        ((0, 4), {"group": "room"}, "no column 'room' to group by; the data has id, video_id, speaker"),
    ],
)
def test_what_cannot_be_cut_is_refused(arguments, options, message):
    with pytest.raises(DataError, match=message):
        cross_validation_splits(corpus([*"abcdefghij"]), *arguments, **options)


@pytest.mark.parametrize("several", [False, True])
def test_classes_that_a_training_split_lacks_are_named(several, caplog):
    names = ClassLabel(names=["happy", "sad", "calm"])
    features = Features(
        {"id": Value("string"), "video_id": Value("string"), "label": List(names) if several else names}
    )
    labels = [0, 1, 0, 1, 0, 1, 2]  # a sample a video, of which a fold holds out two
    rows = [
        {"id": f"s{number}", "video_id": f"v{number}", "label": [label] if several else label}
        for number, label in enumerate(labels)
    ]
    data = DatasetDict({"train": Dataset.from_list(rows, features=features)})
    for fold in range(7):
        caplog.clear()
        has_calm = "v6" in cross_validation_splits(data, fold, 7)["train"]["video_id"]
        expected = f"fold {fold}/7: no sample of the training split has the label calm, which cannot be learned then"
        messages = [record.getMessage().partition(";")[0] for record in caplog.records]
        assert messages == ([] if has_calm else [expected])
    assert cross_validation_splits(data, 0, 3)["test"].features["label"] == features["label"]


def test_features_and_format_of_the_data_are_kept():
    own = load_aligned_dataset("sample")
    splits = cross_validation_splits(own, 1, 4)
    assert splits["train"].features == own["train"].features
    assert splits["train"].info.config_name == own["train"].info.config_name
    sizes = [len(splits[name]) for name in ("validation", "test")]
    assert np.ptp(sizes) < 0.1 * sum(len(split) for split in own.values())


def test_a_share_has_whole_groups_and_is_part_of_every_larger_one():
    train = load_aligned_dataset("sample")["train"]
    whole = {name: train["video_id"][:].count(name) for name in set(train["video_id"])}
    smaller = set()
    for share in (0.1, 0.25, 0.5, 1):
        part = share_of_groups(train, share)
        counts = {name: part["video_id"][:].count(name) for name in set(part["video_id"])}
        assert counts == {name: whole[name] for name in counts}
        assert share * len(train) <= len(part) <= share * len(train) + max(whole.values())
        assert smaller < set(part["id"])
        smaller = set(part["id"])
        assert part["id"] == [name for name in train["id"] if name in smaller]
    assert train.features == part.features and len(part) == len(train)
    with pytest.raises(DataError, match="train_share=0 must lie above 0"):
        share_of_groups(train, 0)
    with pytest.raises(DataError, match="no column 'room'"):
        share_of_groups(train, 0.5, group="room")
