"""Streamed splits: the rows of the splits on disk, shared out by Trainer's own samplers, in constant memory."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import IterableDatasetDict
from forked import ForkedProcess
from launching import finish, free_port, launch
from row_cases import SIZES, STATISTICS, make_dataset, make_rows
from streaming_cases import main
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from data_builders import load_aligned_dataset
from data_builders.columns import modality_rows
from modeling_cpsl import CPSLDataCollator
from modeling_cpsl.processing_cpsl import CPSLProcessor
from modeling_cpsl.training.encoding import encode_dataset
from modeling_cpsl.training.streaming import SHUFFLE_BUFFER, EncodedStream


def streamed(dataset, shards=1):
    return IterableDatasetDict({name: split.to_iterable_dataset(num_shards=shards) for name, split in dataset.items()})


def write_parquet(folder, counts, sizes=None, words=6, row_group=256):
    """A Parquet file of so many rows for each split, all with the same features."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    sizes = sizes or {"acoustic": 3, "visual": 2}
    features = {name: [generator.normal(size=(words, size)).astype("f4").tolist()] for name, size in sizes.items()}
    for split, count in counts.items():
        writer = None
        for start in range(0, count, row_group):
            names = [f"{split}{index // 9}_{index}" for index in range(start, min(start + row_group, count))]
            labels = [float(generator.uniform(-3, 3)) for _ in names]
            columns = {"id": names, "words": [["good", "bad"] * (words // 2)] * len(names), "label": labels}
            columns |= {name: pa.array(rows).take(pa.array([0] * len(names))) for name, rows in features.items()}
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(folder / f"{split}.parquet", table.schema)
            writer.write_table(table)
        writer.close()
    return folder


@pytest.mark.parametrize("use_text", [True, False])
def test_rows_are_those_of_the_split_on_disk(unigram_tokenizer, use_text):
    processor = CPSLProcessor(unigram_tokenizer, SIZES, feature_statistics=STATISTICS, use_text=use_text)
    dataset = make_dataset(make_rows())
    on_disk, stream = encode_dataset(dataset, processor)["test"], encode_dataset(streamed(dataset), processor)["test"]
    assert len(on_disk) == len(stream) == 2
    for index in (1, 0, 0, 1):
        expected, found = on_disk[index], stream[index]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    collate = CPSLDataCollator(processor)
    expected, found = collate([on_disk[0], on_disk[1]]), collate([stream[0], stream[1]])
    assert expected.pop("ids") == found.pop("ids")
    for name in ("acoustic", "visual", "attention_mask", "labels"):
        assert torch.equal(expected[name], found[name])
    with pytest.raises(IndexError):
        stream[2]


def test_rows_without_labels_stream_too(unigram_tokenizer):
    dataset = make_dataset(make_rows()).remove_columns("label")
    processor = CPSLProcessor(unigram_tokenizer, SIZES)
    for data in (dataset, streamed(dataset)):
        batch = CPSLDataCollator(processor)([encode_dataset(data, processor)["test"][0]])
        assert "labels" not in batch and batch["ids"] == ["video0$_$1"]


def test_faults_and_cuts_are_told(unigram_tokenizer, caplog):
    processor = CPSLProcessor(unigram_tokenizer, SIZES)
    rows = make_rows()
    rows[2]["acoustic"] = np.ones((3, 3), np.float32)
    stream = encode_dataset(streamed(make_dataset(rows)), processor)["test"]
    with pytest.raises(ValueError, match=r"sample video1\$_\$2: 3 acoustic rows for 5 words"):
        stream[1]
    assert "train split: 1 of 5 utterances were cut to max_length=50 tokens" in caplog.text


def test_a_stream_that_got_shorter_is_told(unigram_tokenizer):
    stream = encode_dataset(streamed(make_dataset(make_rows())), CPSLProcessor(unigram_tokenizer, SIZES))["test"]
    stream.num_rows = 3
    with pytest.raises(RuntimeError, match="ended after 2 rows of 3: the data has changed"):
        stream[2]


def test_features_of_one_modality():
    dataset = make_dataset(make_rows())
    for name in SIZES:
        on_disk, stream = modality_rows(dataset["train"], name), modality_rows(streamed(dataset)["train"], name)
        for one, other in zip(on_disk, stream, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A streamed training split of 2500 rows, more than the shuffle buffer, and its processor."""
    folder = write_parquet(tmp_path_factory.mktemp("many") / "data", {"train": 2500})
    return load_aligned_dataset(folder, streaming=True)["train"]


@pytest.fixture
def many_encoded(many, unigram_tokenizer):
    return EncodedStream("train", many, CPSLProcessor(unigram_tokenizer, {"acoustic": 3, "visual": 2}), seed=5)


def order(stream, epoch):
    stream.set_epoch(epoch)
    return [stream[index]["id"] for index in range(len(stream))]


def test_each_epoch_is_another_order_of_all_rows(many, many_encoded, unigram_tokenizer):
    plain = [row["id"] for row in many.select_columns(["id"])]
    first, second = order(many_encoded, 0), order(many_encoded, 1)
    assert sorted(first) == sorted(second) == sorted(plain) and len(set(plain)) == 2500
    assert first != plain and second != plain and first != second
    assert order(many_encoded, 0) == first, "the epoch alone decides, whatever was read before"
    other = EncodedStream("train", many, many_encoded.processor, seed=6)
    assert order(other, 0) != first
    # Well mixed: the first batches come from far apart.
    positions = {name: index for index, name in enumerate(plain)}
    assert np.std([positions[name] for name in first[:64]]) > SHUFFLE_BUFFER / 8


def test_another_epoch_of_few_rows_is_another_order(many, many_encoded):
    """All of them are at hand, so nothing but the epoch says that they must be read again."""
    stream = EncodedStream("train", many.take(40), many_encoded.processor, seed=5)
    assert len(stream) == 40 and order(stream, 0) != order(stream, 1)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (3, 0), (2, 2)])
def test_ranks_and_workers_share_the_rows_without_duplicates(many_encoded, ranks, workers):
    """In the way that accelerate shares out the batches of any dataset; the order stays that of one process."""
    expected = order(many_encoded, 1)
    batches = []
    for rank in range(ranks):
        sampler = BatchSampler(SequentialSampler(many_encoded), 50, drop_last=False)
        shard = BatchSamplerShard(sampler, ranks, rank, even_batches=False)
        loader = DataLoader(
            many_encoded, batch_sampler=shard, num_workers=workers, collate_fn=lambda rows: [row["id"] for row in rows]
        )
        batches.append(list(loader))
    together = [name for step in zip(*batches, strict=False) for batch in step for name in batch]
    together += [name for rank in batches for batch in rank[min(map(len, batches)) :] for name in batch]
    assert together == expected


def test_persistent_workers_follow_the_epoch(many_encoded):
    loader = DataLoader(
        many_encoded,
        batch_size=100,
        num_workers=1,
        persistent_workers=True,
        collate_fn=lambda rows: [row["id"] for row in rows],
    )
    for epoch in (0, 1):
        many_encoded.set_epoch(epoch)
        assert [name for batch in loader for name in batch] == order(many_encoded, epoch)


CASES = Path(__file__).parents[2] / "support" / "streaming_cases.py"
TINY = ["--model_name_or_path", "sample", "--latent_size", 8, "--modality_hidden_size", 8, "--fusion_size", 8]
PLAIN = [
    *("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"),
    *("--disable_tqdm", "true", "--use_cpu", "true", "--streaming"),
]


def run(folder, data, *options, launcher=(), python=None):
    """Starts a training with the options, and a launcher for several processes; returns what they printed."""
    folder.mkdir()
    output, _ = finish(launch(*launcher, CASES, folder, *arguments_of(folder, data, *options), python=python))
    return output


def arguments_of(folder, data, *options):
    return map(str, ["--dataset", data, "--output_dir", folder / "out", *TINY, *PLAIN, *options])


def seen_by(folder, rank=0):
    """The samples that a process saw, step by step."""
    return json.loads((folder / f"rank{rank}.json").read_text())


@pytest.mark.slow
def test_two_processes_see_what_one_sees(tmp_path):
    """Each sample once an epoch, the same ones in each step, and a prediction for each, in order."""
    data = write_parquet(tmp_path / "data", {"train": 300, "validation": 21, "test": 50})
    options = ["--num_train_epochs", 2, "--per_device_eval_batch_size", 8]
    (tmp_path / "one").mkdir()
    arguments = arguments_of(tmp_path / "one", data, *options, "--per_device_train_batch_size", 16)
    process = ForkedProcess(main, tmp_path / "one", *arguments)
    process.start()
    errors = process.finish()[1]
    assert process.exitcode == 0, errors[-3000:]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", free_port()]
    options += ["--per_device_train_batch_size", 8, "--ddp_backend", "gloo"]
    run(tmp_path / "two", data, *options, launcher=launcher)
    one, two = seen_by(tmp_path / "one"), [seen_by(tmp_path / "two", rank) for rank in range(2)]
    steps = len(one) // 2
    assert steps == 19
    everything = {f"train{index // 9}_{index}" for index in range(300)}
    for epoch in (0, 1):
        names = [name for step in one[epoch * steps : (epoch + 1) * steps] for name in step]
        assert len(names) == 300 and set(names) == everything
    assert one[:steps] != one[steps:]
    assert [first + second for first, second in zip(*two, strict=True)] == one
    for split, count in (("validation", 21), ("test", 50)):
        tables = [pd.read_parquet(tmp_path / name / "out" / f"predictions_{split}.parquet") for name in ("one", "two")]
        expected = pq.read_table(data / f"{split}.parquet").to_pandas()
        for table in tables:
            assert list(table["id"]) == list(expected["id"]) and len(table) == count
            np.testing.assert_allclose(table["label"], expected["label"], rtol=1e-6)


@pytest.mark.slow
def test_memory_of_training_is_constant(tmp_path):
    """Over 1 and 16 times the data, which in memory would be 200 MB more; all of it is read before training."""
    sizes = {"acoustic": 74, "visual": 35}
    options = ["--max_steps", 20, "--per_device_train_batch_size", 64, "--standardize_features", "true"]
    peaks = []
    for times in (1, 16):
        counts = {"train": 1500 * times, "test": 10}
        data = write_parquet(tmp_path / f"data{times}", counts, sizes, words=20, row_group=100)
        output = run(tmp_path / f"x{times}", data, *options, python=sys.executable)
        assert sum(map(len, seen_by(tmp_path / f"x{times}"))) > SHUFFLE_BUFFER
        peaks.append(int(output.split("peak ")[1].split()[0]))
    assert max(peaks) < 1.1 * peaks[0], peaks
