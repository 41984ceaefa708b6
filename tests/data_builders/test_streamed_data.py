import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from data_builders import load_aligned_dataset
from data_builders.conversion import write_parquet


@pytest.fixture
def parquet(mag_data, write_pickle, tmp_path):
    """600 training samples in 13 row groups over several files."""
    splits = load_aligned_dataset(write_pickle(mag_data((600, 20, 20))), cache_dir=tmp_path / "built")
    write_parquet(splits, tmp_path / "parquet", shard_megabytes=0.02)
    return tmp_path / "parquet", splits


def test_a_stream_gives_the_rows_of_the_cache(parquet, tmp_path):
    folder, splits = parquet
    streamed = load_aligned_dataset(folder, streaming=True, cache_dir=tmp_path / "streamed")
    assert isinstance(streamed["train"], IterableDataset) and streamed["train"].num_shards > 3
    assert not list((tmp_path / "streamed").rglob("*.arrow"))
    for name, split in splits.items():
        assert streamed[name].features == split.features
        for row, expected in zip(streamed[name].with_format("numpy"), split.with_format("numpy"), strict=True):
            assert row["id"] == expected["id"] and list(row["words"]) == list(expected["words"])
            np.testing.assert_array_equal(row["acoustic"], expected["acoustic"])


@pytest.mark.parametrize("path", ["data.pkl", "csd"])
def test_other_formats_stream_too(mag_data, write_pickle, small_corpus, tmp_path, path):
    write_pickle(mag_data())
    built = load_aligned_dataset(tmp_path / path, cache_dir=tmp_path / "built")
    streamed = load_aligned_dataset(tmp_path / path, streaming=True, cache_dir=tmp_path / "streamed")
    for name, split in built.items():
        assert [row["id"] for row in streamed[name]] == list(split["id"])


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_the_rows_without_duplicates(parquet, ranks, workers):
    folder, splits = parquet
    seen = []
    for rank in range(ranks):
        stream = load_aligned_dataset(folder, streaming=True, modalities=["text"])["train"]
        share = split_dataset_by_node(stream, rank=rank, world_size=ranks)
        ids = [row["id"] for row in DataLoader(share, batch_size=None, num_workers=workers)]
        assert ids
        seen += ids
    assert sorted(seen) == sorted(splits["train"]["id"])


SCRIPT = """
import sys
from pathlib import Path
from data_builders import load_aligned_dataset

stream = load_aligned_dataset(sys.argv[1], streaming=True)["train"].with_format("numpy")
rows = sum(len(batch["id"]) for batch in stream.iter(batch_size=32))
# The peak of this process alone: what getrusage tells includes the process that started it.
print(rows, Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
def test_memory_of_a_stream_is_constant(write_pickle, tmp_path):
    """16 times the data, which in memory would be 80 MB more, must not need a tenth more."""
    generator = np.random.default_rng(0)
    words, features = [f"word{index}" for index in range(20)], generator.normal(size=(2, 20, 120)).astype(np.float32)
    sample = ((words, features[0], features[1]), 1.0)
    peaks = []
    for times in (1, 16):
        data = {"train": [(*sample, f"v_{index}") for index in range(300 * times)]}
        splits = load_aligned_dataset(write_pickle(data, f"x{times}.pkl"), cache_dir=tmp_path / "built")
        write_parquet(splits, tmp_path / f"x{times}", shard_megabytes=8)
        command = [sys.executable, "-c", SCRIPT, tmp_path / f"x{times}"]
        result = subprocess.run(command, capture_output=True, timeout=300, cwd=Path(__file__).parents[2], check=True)
        rows, peak = map(int, result.stdout.split())
        assert rows == 300 * times
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0]


def test_what_is_replaced_and_left_out_is_said_once(tmp_path, caplog):
    rows = [
        {"id": f"v_{k}", "words": ["a"], "acoustic": [[float("nan") if k % 2 else 1.0]], "label": 1.0}
        for k in range(8)
    ]
    rows[3]["label"] = 9.0
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=2)
    stream = load_aligned_dataset(tmp_path / "x.parquet", streaming=True, on_error="skip")["train"]
    for _ in range(2):
        assert [row["id"] for row in stream] == [f"v_{k}" for k in range(8) if k != 3]
    assert [record.message.removeprefix(f"{tmp_path}/x.parquet: ") for record in caplog.records] == [
        "non-finite acoustic values are replaced with 0",
        "left out v_3 (label 9 is outside of [-3, 3]; correct or remove the sample, or scale all labels to this "
        "range, or give theirs (--label_range))",
    ]
