"""The policy that shows a sample's weakest modality without the others."""

import itertools
import math

import numpy as np
import pytest
import torch
from training_cases import make_trainer

from modeling_cpsl.training.sample_policies import POLICIES, StepSamples


def masked(contributions, *, modalities=("text", "acoustic", "visual"), presence=None, count=3000, **options):
    values = torch.tensor(contributions).expand(count, -1)
    if presence is None:
        presence = torch.ones_like(values, dtype=torch.bool)
    ids = [f"s{index}" for index in range(count)]
    samples = StepSamples(ids, modalities, presence, step=4, seed=1, remembered={"contributions": values})
    return POLICIES["contribution"](**options)(samples)


@pytest.mark.parametrize(("weakest", "copies"), [(-0.1, 3), (0.1, 2), (0.5, 1), (1.0, 0)])
def test_the_share_of_samples_that_show_the_weakest_alone(weakest, copies):
    kept = masked([1.5, weakest, 1.5], mask_text=True)
    assert kept[:, 1].all()
    alone = ~kept[:, [0, 2]].any(dim=1)
    assert torch.equal(alone, ~kept.all(dim=1))  # all of it or the weakest alone
    assert alone.float().mean().item() == pytest.approx(copies / (1 + copies), abs=0.03)


def test_the_text_stays_unless_it_may_go():
    assert masked([1.5, -0.1, 0.5])[:, :2].all()
    weak_text = masked([-0.1, 1.0, 0.5])
    assert weak_text[:, 0].all() and not weak_text[:, 1:].all()
    assert masked([0.2, -0.1], modalities=("text", "acoustic")).all()


def test_of_four_modalities_and_one_that_is_missing():
    presence = torch.tensor([True, False, True, True]).expand(400, -1)
    names = ("text", "acoustic", "visual", "timing")
    kept = masked([1.0, math.nan, 0.3, 0.2], modalities=names, presence=presence, count=400, mask_text=True)
    rows = {tuple(row) for row in kept.tolist()}
    assert rows == {(True, False, True, True), (False, False, False, True)}


def test_nothing_is_masked_before_anything_is_known():
    assert masked([math.nan] * 3, mask_text=True).all()


def test_a_training_masks_from_its_first_epoch_on_and_resumes(tmp_path):
    options = {"modality_masking": "contribution", "modality_masking_options": ["start_epoch=1", "mask_text=true"]}
    whole = make_trainer(tmp_path, save_strategy="steps", save_steps=6, save_total_limit=5, **options)
    whole.train()
    shares = [
        np.mean([row[f"train_masked_{name}"] for name in ("text", "acoustic", "visual")])
        for row in whole.state.log_history
        if "train_masked_text" in row
    ]
    assert shares[0] == 0 and all(share > 0.1 for share in shares[1:])
    assert {*itertools.chain(*whole.samples[8:])} == {
        *itertools.chain(*whole.samples[:4])
    }  # every sample is still drawn once
    resumed = make_trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-6")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
