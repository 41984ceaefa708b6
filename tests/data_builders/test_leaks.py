import pytest
from datasets import Dataset

from data_builders.leaks import repeated_ids, shared_videos


@pytest.mark.parametrize("make", [dict, Dataset.from_dict])
def test_repeated_ids_and_shared_videos_of_splits(make):
    ids = {"train": ["b_1", "a_1", "b_1"], "validation": ["c_1"], "test": ["a_1", "a_2", "b_2"]}
    splits = {name: make({"id": split, "video_id": [sample[0] for sample in split]}) for name, split in ids.items()}
    assert repeated_ids(splits) == ["b_1", "a_1"]
    assert shared_videos(splits) == {("train", "test"): ["a", "b"]}
