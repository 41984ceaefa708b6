"""The order in which training reads its samples."""

import itertools

import numpy as np
import pytest
import torch
from training_cases import make_trainer


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
