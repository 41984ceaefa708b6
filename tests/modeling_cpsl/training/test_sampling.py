"""The order in which training reads its samples."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler
from training_cases import make_trainer

from modeling_cpsl.training.callbacks import EpochBoundaries
from modeling_cpsl.training.optimizer_step import drop_repetitions
from modeling_cpsl.training.trainer import CPSLTrainer


@pytest.mark.parametrize("use_text", [True, False])
def test_samples_of_like_length_share_a_batch(tmp_path, use_text):
    options = {"train_sampling_strategy": "group_by_length", "num_samples": 64, "num_train_epochs": 2}
    trainer = make_trainer(tmp_path, config_fields={"use_text": use_text}, **options)
    torch.manual_seed(99)  # the order is not of this generator
    trainer.train()
    lengths = {str(row["id"]): len(row["word_index"]) for row in trainer.train_dataset}
    epochs = [trainer.samples[:8], trainer.samples[8:]]
    for batches in epochs:
        assert sorted(itertools.chain(*batches)) == sorted(lengths)
    spread = [np.ptp([lengths[name] for name in batch]) for batch in trainer.samples]
    assert np.mean(spread) < np.ptp(list(lengths.values())) / 2
    assert epochs[0] != epochs[1]
    again = make_trainer(tmp_path, config_fields={"use_text": use_text}, **options)
    again.train()
    assert again.samples == trainer.samples


def steps_of(rows, num_processes, batch_size, accumulation):
    """The samples of each optimizer step of an epoch that is cut like this, as all ranks together see them."""
    args = SimpleNamespace(
        resample="none",
        train_sampling_strategy="group_by_length",
        train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        world_size=num_processes,
        seed=5,
        data_seed=None,
    )
    sampler = CPSLTrainer._get_train_sampler(SimpleNamespace(args=args), rows)
    ranks = []
    for rank in range(num_processes):
        batch_sampler = BatchSampler(sampler, batch_size, drop_last=False)
        if num_processes > 1:
            batch_sampler = BatchSamplerShard(batch_sampler, num_processes, rank)
        loader = SimpleNamespace(batch_sampler=batch_sampler, total_batch_size=num_processes * batch_size)
        batches = [{"ids": ids, "labels": torch.zeros(len(ids))} for ids in batch_sampler]
        steps = [batches[start : start + accumulation] for start in range(0, len(batches), accumulation)]
        ranks.append([])
        for step in steps:
            accelerator = SimpleNamespace(
                num_processes=num_processes,
                process_index=rank,
                gradient_state=SimpleNamespace(end_of_dataloader=step is steps[-1]),
            )
            counts = drop_repetitions(step, loader, rows, accelerator)
            samples = [batch["ids"][:count] for batch, count in zip(step, counts, strict=True)]
            ranks[-1].append(itertools.chain(*samples))
    return [sorted(itertools.chain(*step)) for step in zip(*ranks, strict=True)]


@given(st.sampled_from([2, 6, 8, 12]), st.lists(st.integers(1, 9), min_size=1, max_size=60))
def test_every_cut_of_a_step_has_the_same_samples(step_size, lengths):
    rows = [{"word_index": range(length)} for length in lengths]
    divisors = [number for number in range(1, step_size + 1) if step_size % number == 0]
    cuts = [cut for cut in itertools.product(divisors, repeat=3) if np.prod(cut) == step_size]
    first, *others = [steps_of(rows, *cut) for cut in cuts]
    assert sorted(itertools.chain(*first)) == list(range(len(rows)))
    assert all(steps == first for steps in others)


def test_an_epoch_that_is_resumed_in_its_middle_has_its_own_order(tmp_path):
    """On several processes Trainer's own call does not reach the sampler."""
    trainer = make_trainer(tmp_path, train_sampling_strategy="group_by_length")
    sampler = trainer._get_train_sampler(trainer.train_dataset)
    first = list(sampler)
    trainer.state.epoch = 1.5
    loader = SimpleNamespace(set_epoch=sampler.set_epoch)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EpochBoundaries):
            callback.on_epoch_begin(trainer.args, trainer.state, trainer.control, train_dataloader=loader)
    assert sampler.epoch == 1 and list(sampler) != first
