"""What makes a model fast, where it is sharded by FSDP2 or compiled: see the table in docs/speed.md."""

from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_models import CLASSES, SIZES, make_config
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from modeling_cpsl import modeling_cpsl
from modeling_cpsl.relative_positions_cpsl import ReachableSelfAttention


NUM_STEPS = 3


def make_model():
    torch.manual_seed(0)
    return CLASSES["deberta"][1](make_config("deberta"))


def make_batch():
    """A long utterance and short ones, which are worth packing."""
    torch.manual_seed(1)
    mask = torch.zeros(6, 40, dtype=torch.long)
    mask[0], mask[1:, :4] = 1, 1
    ids = torch.randint(5, 40, mask.shape) * mask + (1 - mask)
    features = {name: torch.randn(*mask.shape, size) for name, size in SIZES.items()}
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "feature_mask": mask.bool(),
        "labels": torch.randn(6),
        **features,
    }


def losses_of(model):
    """The loss of each of a few steps, and how many of them were packed."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    torch.manual_seed(2)  # of the latent variables
    with mock.patch.object(modeling_cpsl, "encode_packed", wraps=modeling_cpsl.encode_packed) as packed:
        for _ in range(NUM_STEPS):
            loss = model(**make_batch()).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses, packed.call_count


def train_sharded(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = make_model().train()
    for layer in model.deberta.encoder.layer:
        fully_shard(layer)
    fully_shard(model)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    assert isinstance(model.deberta.encoder.layer[0].attention.self, ReachableSelfAttention)
    torch.save(losses_of(model), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # of the logits, which nobody changes in place
def test_a_sharded_model_is_packed_and_trained_as_a_whole_one(tmp_path):
    mp.start_processes(train_sharded, args=(tmp_path,), nprocs=2, start_method="fork")
    expected, num_packed = losses_of(make_model().train())
    assert num_packed == NUM_STEPS and expected[-1] < expected[0]
    for rank in range(2):
        losses, num_packed = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert losses == pytest.approx(expected, abs=1e-5) and num_packed == NUM_STEPS


@pytest.mark.slow
def test_a_compiled_model_is_not_packed_and_predicts_the_same():
    model, batch = make_model().eval(), make_batch()
    with torch.no_grad():
        expected = model(**batch).logits
        with mock.patch.object(modeling_cpsl, "encode_packed", side_effect=AssertionError):
            found = torch.compile(model, backend="eager")(**batch).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
