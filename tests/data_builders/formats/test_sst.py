import pytest

from data_builders import DataError, load_aligned_dataset
from data_builders.arrow_rows import label_format_of
from data_builders.inspection import inspect
from data_builders.labels import SENTIMENT


NAMES = ["very negative", "negative", "neutral", "positive", "very positive"]
TREES = "(3 (2 It) (4 (4 (2 's) (4 lovely)) (2 -LRB-)))\n\n(0 (1 Bad) (2 and\\/or))\n"


@pytest.fixture
def trees(tmp_path):
    folder = tmp_path / "trees"
    folder.mkdir()
    for name in ("train", "dev", "test"):
        (folder / f"{name}.txt").write_text(TREES)
    (folder / "README.txt").write_text("Trees.")
    return folder


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "sst" / "train.csv"
    path.parent.mkdir()
    path.write_text('id,text,sentiment\nsst_train_0,"It is , well , lovely",4\nsst_train_1,Bad,0\nsst_train_2,So,1\n')
    return path


def test_trees(trees, cache):
    splits = load_aligned_dataset(trees, cache_dir=cache)
    assert list(splits) == ["train", "validation", "test"]
    first, second = splits["validation"]
    assert first["id"] == first["video_id"] == "sst_validation_0" and first["words"] == ["It", "'s", "lovely", "("]
    assert second["words"] == ["Bad", "and/or"] and splits["train"].features["label"].names == NAMES
    assert [first["label"], second["label"]] == [3, 0]


def test_a_table_has_five_classes_or_as_many_numbers(table, cache):
    train = load_aligned_dataset(table.parent, cache_dir=cache)["train"]
    assert train.features["label"].names == NAMES and train["label"] == [4, 0, 1]
    assert train["words"][0] == ["It", "is", ",", "well", ",", "lovely"]
    numbers = load_aligned_dataset(table, cache_dir=cache, label_kind="number")["train"]
    assert numbers["label"] == [3.0, -3.0, -1.5] and label_format_of(numbers.features) == SENTIMENT
    predicted = load_aligned_dataset(table, cache_dir=cache, labels=None, label_format=SENTIMENT)["train"]
    assert predicted["label"] == [3.0, -3.0, -1.5]


def test_a_table_of_somebody_else_is_none_of_sst(tmp_path, cache):
    path = tmp_path / "train.csv"
    path.write_text("id,text,sentiment\nclip_0,lovely,2\n")
    with pytest.raises(DataError, match=r"no column label .*; rename sentiment to label, .*--labels sentiment"):
        load_aligned_dataset(path, cache_dir=cache)
    assert load_aligned_dataset(path, cache_dir=cache, labels=["sentiment"])["train"]["label"] == [2.0]


def test_what_is_wrong_is_named(table, cache):
    with pytest.raises(DataError, match="labels=text; of SST it is sentiment, so leave labels out"):
        load_aligned_dataset(table, cache_dir=cache, labels=["text"])
    table.write_text(table.read_text() + "sst_train_3,Well,5\n")
    with pytest.raises(DataError, match="sample sst_train_3: sentiment '5' is not one of 0 to 4"):
        load_aligned_dataset(table, cache_dir=cache)
    assert len(load_aligned_dataset(table, cache_dir=cache, on_error="skip")["train"]) == 3
    table.write_text("id,text,sentiment\nsst_train_0,lovely,\n")
    with pytest.raises(DataError, match=r"train\.csv: no column sentiment; .*--no_labels"):
        load_aligned_dataset(table, cache_dir=cache)
    assert load_aligned_dataset(table, cache_dir=cache, labels=False)["train"]["words"] == [["lovely"]]


def test_what_people_have(shared_data):
    report = inspect(shared_data("sst"))
    for name, count in (("train", 8540), ("validation", 1101), ("test", 2210)):
        assert f"{name}: {count} samples of {count} videos" in report
    assert "labels: very negative: 1092, negative: 2217, neutral: 1623, positive: 2320, very positive: 1288" in report
