"""Modalities of which only a part is fused."""

import pytest
import torch
from torch.testing import assert_close
from training_cases import make_trainer


def mask_of(*values):
    """Of three samples, how much each has of text, voice and face."""
    return torch.tensor(values).expand(3, -1).contiguous()


def test_the_fusion_block_sees_scaled_latents_and_heads_the_latents(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config)
    seen = []
    hook = model.multimodal.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    whole, weak = model(**batch), model(**batch, modality_mask=mask_of(1.0, 0.3, 0.7))
    hook.remove()
    assert_close(seen[1]["acoustic"], 0.3 * seen[0]["acoustic"])
    assert_close(seen[1]["visual"], 0.7 * seen[0]["visual"])
    for name, prediction in whole.unimodal_logits.items():
        assert torch.equal(prediction, weak.unimodal_logits[name])
    for name in whole.losses.keys() - {"task"}:
        assert torch.equal(whole.losses[name], weak.losses[name])
    assert (whole.logits != weak.logits).all()


def test_the_injection_sees_scaled_states_of_the_text(make_model, make_batch):
    model = make_model()
    batch, seen = make_batch(model.config), []
    hook = model.multimodal.injection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    weak = model(**batch, modality_mask=mask_of(0.4, 1.0, 1.0))
    whole = model(**batch)
    hook.remove()
    assert_close(seen[0], 0.4 * seen[1])
    assert torch.equal(weak.unimodal_logits["text"], whole.unimodal_logits["text"])


@pytest.mark.parametrize("architecture", ["cpsl", "late"])
def test_0_is_missing_and_1_is_whole(make_model, make_batch, architecture):
    model = make_model(architecture=architecture)
    batch = make_batch(model.config)
    for numbers in ([1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]):
        weak = model(**batch, modality_mask=mask_of(*numbers))
        masked = model(**batch, modality_mask=mask_of(*numbers).bool())
        assert torch.equal(weak.logits, masked.logits) and torch.equal(weak.loss, masked.loss)


def test_a_late_decision_is_linear_in_what_is_kept(make_model, make_batch):
    model = make_model(architecture="late")
    batch = make_batch(model.config)
    without, weak, whole = (model(**batch, modality_mask=mask_of(1.0, part, 1.0)).logits for part in (0.0, 0.3, 1.0))
    assert_close(weak, 0.3 * whole + 0.7 * without)


def test_other_architectures_refuse_a_training_that_weakens(tmp_path):
    trainer = make_trainer(tmp_path, modality_masking="soft", config_fields={"architecture": "mult"})
    with pytest.raises(ValueError, match="only the architectures cpsl and late can; choose one of them, or uniform"):
        trainer.train()
