"""What is remembered of each training sample: by one process and by several, through restarts, from streams."""

import pytest
import torch
import torch.distributed as dist
from datasets import IterableDatasetDict
from forked import ForkedProcess
from row_cases import SIZES, STATISTICS, make_dataset, make_rows

from modeling_cpsl.processing_cpsl import CPSLProcessor
from modeling_cpsl.training.encoding import encode_dataset
from modeling_cpsl.training.sample_table import SampleTable, sample_ids


IDS = ["a", "b", "c", "d", "e"]
WIDTHS = {"score": 1, "state": 3}


def make_table():
    return SampleTable(IDS, WIDTHS)


def record(table, names, value):
    """Records a number that says which record it is, for each sample one of its own."""
    indices = table.indices(names)
    values = value + indices[:, None] / 10
    table.record(indices, score=values, state=-values.expand(-1, 3))


def equal(one, other):
    return all(torch.equal(one.column(name).nan_to_num(99), other.column(name).nan_to_num(99)) for name in WIDTHS)


def test_a_row_holds_what_was_recorded_last():
    table = make_table()
    places = {name: column.data_ptr() for name, column in table.columns.items()}
    assert all(column.isnan().all() for column in table.columns.values())
    record(table, ["d", "a"], 1)
    record(table, [], 2)
    record(table, ["a", "e"], 3)
    rows = table.rows(table.indices(["e", "a", "d", "b"]))
    assert rows["score"].squeeze(1).nan_to_num(-1).tolist() == pytest.approx([3.4, 3.0, 1.3, -1])
    assert torch.equal(rows["state"][:3], -rows["score"][:3].expand(-1, 3)) and rows["state"][3].isnan().all()
    table.replace(score=torch.arange(5.0)[:, None])
    assert table.column("score").squeeze(1).tolist() == [0, 1, 2, 3, 4]
    assert table.column("state")[4, 0] == pytest.approx(-3.4)
    assert {name: column.data_ptr() for name, column in table.columns.items()} == places, "it does not grow"
    table.exchange()  # alone, which changes nothing
    assert table.column("score").squeeze(1).tolist() == [0, 1, 2, 3, 4]


def test_samples_need_ids_of_their_own():
    with pytest.raises(ValueError, match=r"several samples have the id 'a', .*; give each sample an id of its own"):
        SampleTable(["a", "b", "a"], WIDTHS)


def test_a_state_is_restored_bit_for_bit_and_only_for_the_same_samples(tmp_path):
    table, other = make_table(), make_table()
    record(table, IDS[:3], 1 / 3)
    torch.save(table.state_dict(), tmp_path / "table.pt")
    other.load_state_dict(torch.load(tmp_path / "table.pt", weights_only=True))
    for one in (table, other):
        record(one, ["c"], 2 / 3)
    assert equal(table, other) and other.state_dict()["num_calls"] == 2
    with pytest.raises(ValueError, match="other training samples"):
        SampleTable(IDS[::-1], WIDTHS).load_state_dict(table.state_dict())
    with pytest.raises(ValueError, match=r"has shapes .*'score': \(5, 1\).*, this training needs .*'score': \(5, 2\)"):
        SampleTable(IDS, WIDTHS | {"score": 2}).load_state_dict(table.state_dict())


# The samples of each rank in each call; `b` is seen by both ranks in one step, and `a` by one after the other.
CALLS = [(["a", "b"], ["c", "b"]), (["d"], ["a"]), (["c"], [])]


def rank_main(folder, rank):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    table = make_table()
    record(table, *(CALLS[0][rank], 0 + rank / 100))
    table.exchange()  # as for a checkpoint: what follows is as without it
    for number, samples in enumerate(CALLS[1:], start=1):
        record(table, samples[rank], number + rank / 100)
    table.exchange()
    torch.save(table.state_dict(), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_exchange_what_one_would_have_recorded(tmp_path):
    processes = [ForkedProcess(rank_main, tmp_path, rank) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        errors = process.finish()[1]
        assert process.exitcode == 0, errors[-3000:]
    alone = make_table()
    for number, samples in enumerate(CALLS):
        for rank in (1, 0):  # of one step, the first rank's counts
            record(alone, samples[rank], number + rank / 100)
    for rank in range(2):
        table = make_table()
        table.load_state_dict(torch.load(tmp_path / f"{rank}.pt", weights_only=True))
        assert equal(table, alone)
        assert table.column("score")[4].isnan().all(), "nobody has seen it"


def test_the_ids_of_a_split_a_stream_and_a_list_of_rows(unigram_tokenizer):
    processor = CPSLProcessor(unigram_tokenizer, SIZES, feature_statistics=STATISTICS)
    dataset = make_dataset(make_rows())
    stream = IterableDatasetDict({name: split.to_iterable_dataset() for name, split in dataset.items()})
    expected = dataset["train"]["id"][:]
    for split in (encode_dataset(dataset, processor)["train"], encode_dataset(stream, processor)["train"]):
        assert sample_ids(split) == expected
    assert sample_ids([{"id": 3}, {"id": "x"}]) == ["3", "x"]
