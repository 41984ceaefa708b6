"""Attention pooling: what it computes, that it begins as the mean, and the models that have it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SIZES, make_batch, make_config, make_model

from modeling_cpsl.architectures_cpsl import ARCHITECTURES
from modeling_cpsl.modeling_cpsl import CPSLForSentimentRegression
from modeling_cpsl.pooling_cpsl import AttentionPooling, token_mean


POOLED = [name for name, architecture in ARCHITECTURES.items() if "pooling" in architecture.config_fields]


def attended_mean(rows, mask, query):
    """One sample's rows weighed by exp(q h), over plain numbers."""
    kept = [row for row, is_kept in zip(rows, mask, strict=True) if is_kept]
    factors = [math.exp(float(np.dot(query, row))) for row in kept]
    if not kept:
        return np.zeros(len(query))
    return sum(factor * row for factor, row in zip(factors, kept, strict=True)) / sum(factors)


def some_masks():
    length = st.shared(st.integers(1, 6))
    return st.lists(length.flatmap(lambda n: st.lists(st.booleans(), min_size=n, max_size=n)), min_size=1, max_size=4)


@given(masks=some_masks(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_it_is_a_mean_weighed_by_a_softmax_over_the_tokens_of_the_mask(masks, seed):
    generator = np.random.default_rng(seed)
    mask, query = np.array(masks), generator.normal(size=3)
    rows = generator.normal(size=(*mask.shape, 3))
    pooling = AttentionPooling(3).double()
    with torch.no_grad():
        pooling.query.copy_(torch.tensor(query))
    # what is in other places, be it NaN, has no part in value and gradient
    values = torch.tensor(np.where(mask[..., None], rows, np.nan), requires_grad=True)
    pooled = pooling(values, torch.tensor(mask))
    expected = [attended_mean(*sample, query) for sample in zip(rows, mask, strict=True)]
    np.testing.assert_allclose(pooled.detach().numpy(), expected, atol=1e-6)
    pooled.square().sum().backward()
    assert values.grad.isfinite().all() and pooling.query.grad.isfinite().all()
    assert not values.grad[~torch.tensor(mask)].any()


def test_a_new_one_is_the_mean_and_its_query_learns():
    values, mask = torch.randn(4, 50, 8, generator=torch.manual_seed(0)), torch.rand(4, 50) > 0.4
    pooling = AttentionPooling(8)
    torch.testing.assert_close(pooling(values, mask), token_mean(values, mask), atol=1e-6, rtol=1e-6)
    pooling(values, mask).square().sum().backward()
    assert pooling.query.grad.abs().min() > 0


def test_it_works_in_half_precision_with_large_scores():
    values, mask = torch.ones(2, 3, 4, dtype=torch.bfloat16) * 100, torch.ones(2, 3)
    pooling = AttentionPooling(4)
    torch.nn.init.constant_(pooling.query, 50.0)
    pooled = pooling(values, mask)
    assert pooled.dtype == torch.bfloat16 and torch.equal(pooled, values[:, 0])


@pytest.mark.parametrize("architecture", POOLED)
def test_a_model_with_the_mean_goes_on_with_attention(architecture, tmp_path):
    """It begins by predicting the same, each new part learns, and what is learnt is saved; the mean can come back."""
    model = make_model(architecture=architecture)
    model.save_pretrained(tmp_path / "mean")
    config = make_config(architecture=architecture, pooling="attention")
    attentive, info = CPSLForSentimentRegression.from_pretrained(
        tmp_path / "mean", config=config, output_loading_info=True
    )
    queries = {name for name in attentive.state_dict() if name.endswith("pooling.query")}
    assert info["missing_keys"] == queries and not info["unexpected_keys"]
    assert len(queries) == (2 if architecture == "cpsl" else 1)
    batch = make_batch(config, (8, 6, 5, 7))
    before, after = model(**batch), attentive.eval()(**batch)
    torch.testing.assert_close(after.logits, before.logits, atol=1e-6, rtol=1e-6)
    for name, logits in (before.unimodal_logits or {}).items():
        torch.testing.assert_close(after.unimodal_logits[name], logits, atol=1e-6, rtol=1e-6)

    after.loss.backward()
    inside = {id(weight) for layer in attentive.encoder_layers() for weight in layer}
    with torch.no_grad():
        for name in queries:
            weight = attentive.get_parameter(name)
            assert weight.grad.abs().max() > 0 and id(weight) not in inside, name  # it has the rate of the head
            weight.normal_()
    attentive.save_pretrained(tmp_path / "attention")
    loaded = CPSLForSentimentRegression.from_pretrained(tmp_path / "attention")
    learnt = attentive.eval()(**batch).logits
    assert torch.equal(loaded(**batch).logits, learnt) and (learnt - after.logits).abs().min() > 1e-5
    plain = CPSLForSentimentRegression.from_pretrained(
        tmp_path / "attention", config=make_config(architecture=architecture)
    )
    assert torch.equal(plain(**batch).logits, before.logits)


@pytest.mark.parametrize("architecture", POOLED)
@pytest.mark.parametrize("missing", ["text", *SIZES])
def test_a_missing_modality_has_no_say_and_a_sample_may_have_no_word(architecture, missing):
    model = make_model(architecture=architecture, pooling="attention")
    batch = make_batch(model.config) | {"modality_mask": {missing: torch.tensor([True, False, True])}}
    batch["feature_mask"] = batch["attention_mask"].bool()
    batch["feature_mask"][2] = False
    name = "input_ids" if missing == "text" else missing
    other = batch | {name: batch[name].clone()}
    other[name][1] = 9
    output, changed = model(**batch), model(**other)
    assert torch.equal(output.logits, changed.logits) and output.loss.isfinite()
    output.loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
