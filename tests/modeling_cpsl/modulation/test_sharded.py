"""One modulation a step, however the batch is cut: micro-batches, DDP and FSDP2 in two real processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from modulation_cases import TwoEncoders, assert_equal, floats_of, make_batch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from modeling_cpsl.modulation import GradientModulator


NUM_STEPS = 6


def train(model, rank=0, sizes=(8,), num_micro_batches=1, wrap=lambda model: model, target="gradient"):
    """A few modulated steps over batches of 8, cut over ranks (`sizes`) and micro-batches."""
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    modulator = GradientModulator(model.encoders(), target=target)
    modulator.attach(optimizer)
    history = []
    for step in range(NUM_STEPS):
        batch = make_batch(seed=step)
        mine = {key: value.split(sizes)[rank].chunk(num_micro_batches) for key, value in batch.items()}
        for i in range(num_micro_batches):
            micro_batch = {key: chunks[i] for key, chunks in mine.items()}
            errors, loss = wrapped(micro_batch)
            count = len(micro_batch["labels"])
            (loss * count * len(sizes) / sum(sizes)).backward()  # DDP and FSDP2 take the mean over ranks
            modulator.observe({name: error.sum() for name, error in errors.items()}, count)
        history.append(floats_of(modulator.step(0)))
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
    weights = {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }
    return {"statistics": history, "weights": weights}


def shard(model):
    for encoder in model.encoders().values():
        fully_shard(encoder)
    fully_shard(model)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    return model


def make_model():
    torch.manual_seed(0)
    return TwoEncoders()


RUNS = {
    "ddp": {"wrap": DistributedDataParallel, "sizes": (4, 4)},
    "ddp_uneven": {"wrap": DistributedDataParallel, "sizes": (5, 3), "num_micro_batches": 2},
    "fsdp2": {"wrap": shard, "sizes": (4, 4)},
    "fsdp2_update": {"wrap": shard, "sizes": (5, 3), "target": "update"},
}


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {name: train(make_model(), rank, **options) for name, options in RUNS.items()}
    torch.save({"world_size": dist.get_world_size(), **results}, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    mp.start_processes(run_rank, args=(folder,), nprocs=2, start_method="fork")  # which need not import everything
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


class TestTwoProcesses:
    def test_two_ran(self, two_processes):
        assert [result["world_size"] for result in two_processes] == [2, 2]

    @pytest.mark.parametrize("run", RUNS)
    def test_equal_one_process(self, two_processes, run):
        expected = train(make_model(), target=RUNS[run].get("target", "gradient"))
        for result in two_processes:
            for step, expected_step in zip(result[run]["statistics"], expected["statistics"], strict=True):
                assert step == pytest.approx(expected_step, rel=1e-5, abs=1e-6)
            torch.testing.assert_close(result[run]["weights"], expected["weights"], rtol=1e-4, atol=1e-6)
        coefficients = {
            step[f"coefficient_{name}"] for step in expected["statistics"] for name in ("acoustic", "visual")
        }
        assert len(coefficients) > NUM_STEPS  # one side was damped at each step
        assert {step[f"conflict_{name}"] for step in expected["statistics"] for name in ("acoustic", "visual")} == {
            0,
            1,
        }

    @pytest.mark.parametrize("run", RUNS)
    def test_ranks_agree_bit_for_bit(self, two_processes, run):
        assert two_processes[0][run]["statistics"] == two_processes[1][run]["statistics"]
        assert_equal(two_processes[0][run]["weights"], two_processes[1][run]["weights"])


def test_micro_batches_equal_one_batch():
    whole, cut = train(make_model()), train(make_model(), num_micro_batches=4)
    for step, expected in zip(cut["statistics"], whole["statistics"], strict=True):
        assert step == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(cut["weights"], whole["weights"], rtol=1e-4, atol=1e-6)
