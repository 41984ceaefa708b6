import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_builders import DataError, features_are_normalized, load_aligned_dataset
from data_builders.conversion import dataset_card, write_parquet


@pytest.mark.parametrize("shard_megabytes", [64, 0.002])
def test_convert_gives_what_plain_datasets_reads_and_streams(mag_data, write_pickle, tmp_path, shard_megabytes):
    original = load_aligned_dataset(write_pickle(mag_data((60, 9, 9))), cache_dir=tmp_path / "a")
    files = write_parquet(original, tmp_path / "out" / "mine", shard_megabytes=shard_megabytes)
    assert len(files) == 3 if shard_megabytes == 64 else len(files) > 9
    plain = datasets.load_dataset(str(tmp_path / "out" / "mine"), cache_dir=str(tmp_path / "b"))
    streamed = datasets.load_dataset(str(tmp_path / "out" / "mine"), streaming=True)
    ours = load_aligned_dataset(tmp_path / "out" / "mine", cache_dir=tmp_path / "c")
    for name, split in original.items():
        assert plain[name].features == split.features == ours[name].features
        assert plain[name].to_dict() == split.to_dict() == ours[name].to_dict()
        assert [row["id"] for row in streamed[name]] == list(split["id"])
    assert "| train | 60 |" in (tmp_path / "out" / "mine" / "README.md").read_text()
    with pytest.raises(DataError, match="exists already"):
        write_parquet(original, tmp_path / "out" / "mine")


def test_converted_data_remembers_what_it_was(mag_data, small_corpus, write_pickle, tmp_path):
    """Else features that are z-scored already would be standardised again."""
    for index, source in enumerate((write_pickle(mag_data()), small_corpus, "sample")):
        first = load_aligned_dataset(source, cache_dir=tmp_path / "a")
        write_parquet(first, tmp_path / f"once{index}")
        second = load_aligned_dataset(tmp_path / f"once{index}", cache_dir=tmp_path / "b")
        write_parquet(second, tmp_path / f"twice{index}", shard_megabytes=(0.002, 0.002, 1)[index])  # several shards
        third = load_aligned_dataset(tmp_path / f"twice{index}", streaming=True)
        names = {splits["train"].info.config_name for splits in (first, second, third)}
        assert names == {("mag_pickle", "computational_sequence", "sample")[index]}
        assert features_are_normalized(names.pop()) is (index != 1)
    files = sorted((tmp_path / "once1" / "data").iterdir())
    shutil.copy(files[0], tmp_path / "twice0" / "data" / "test-other.parquet")  # of two formats: it is neither
    mixed = load_aligned_dataset(tmp_path / "twice0", modalities=["text"], cache_dir=tmp_path / "b")
    assert mixed["train"].info.config_name == "table"


@pytest.mark.parametrize(
    "value", ['{"info": {"config_name": "no such"}}', '{"info": {"config_name": []}}', "[1]", "{"]
)
def test_a_format_that_is_none_is_not_believed(tmp_path, value):
    table = pa.Table.from_pylist([{"id": "a", "words": ["x"], "label": 1.0}])
    pq.write_table(table.replace_schema_metadata({"huggingface": value}), tmp_path / "x.parquet")
    splits = load_aligned_dataset(tmp_path / "x.parquet", cache_dir=tmp_path / "c")
    assert splits["train"].info.config_name == "table"


def test_a_failed_conversion_leaves_nothing(mag_data, write_pickle, tmp_path, monkeypatch):
    splits = load_aligned_dataset(write_pickle(mag_data()), cache_dir=tmp_path / "a")
    monkeypatch.setattr(
        pq.ParquetWriter, "write_table", lambda *_, **__: (_ for _ in ()).throw(OSError("disk is full"))
    )
    with pytest.raises(OSError, match="disk is full"):
        write_parquet(splits, tmp_path / "out" / "mine")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_card_says_what_a_row_is(mag_data, write_pickle, cache):
    splits = load_aligned_dataset(write_pickle(mag_data((6, 3, 2))), cache_dir=cache)
    card = dataset_card(splits).content
    for line in ("- `acoustic`: one row of 5 values a word", "| validation | 3 |", "a `label` in [-3, 3]"):
        assert line in card
