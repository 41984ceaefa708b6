"""DeBERTa over the reachable relative positions gives what transformers' own gives."""

import copy
import logging
import pickle
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TINY, TINY_DEBERTA, make_model
from transformers import DebertaV2Config, DebertaV2Model
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from modeling_cpsl import relative_positions_cpsl
from modeling_cpsl.relative_positions_cpsl import ReachableSelfAttention, use_reachable_positions


def make_pair(dtype=torch.float32, **fields):
    """Transformers' model and the same one over reachable positions."""
    torch.manual_seed(0)
    config = DebertaV2Config(
        **TINY | TINY_DEBERTA | {"initializer_range": 0.2, "max_position_embeddings": 512} | fields
    )
    stock = DebertaV2Model(config).to(dtype).eval()
    ours = copy.deepcopy(stock)
    use_reachable_positions(ours)
    return stock, ours


def attention_classes(model):
    return {type(layer.attention.self) for layer in model.encoder.layer}


def make_input(batch_size, length, padding_side="right", seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 40, (batch_size, length), generator=generator)
    lengths = torch.randint(1, length + 1, (batch_size, 1), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length) < lengths).long()
    return {"input_ids": ids, "attention_mask": mask.flip(1) if padding_side == "left" else mask}


KINDS = {
    "v3": {"position_buckets": 256},
    "few buckets": {"position_buckets": 8},
    "without buckets": {"position_buckets": -1},
    "keys of their own": {"share_att_key": False},
    "c2p": {"pos_att_type": "c2p"},
    "p2c": {"pos_att_type": "p2c"},
    "convolution": {"conv_kernel_size": 3, "conv_act": "gelu"},
    "shorter than the span": {"max_relative_positions": 20, "position_buckets": -1},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 9, 127, 129, 300, 512])
def test_states_and_attentions_are_those_of_transformers(kind, length):
    stock, ours = make_pair(**KINDS[kind])
    assert attention_classes(ours) == {ReachableSelfAttention}
    inputs = make_input(2, length) | {"output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        expected, output = stock(**inputs), ours(**inputs)
    for name in ("hidden_states", "attentions"):
        for ours_of_layer, stocks_of_layer in zip(output[name], expected[name], strict=True):
            torch.testing.assert_close(ours_of_layer, stocks_of_layer, atol=1e-5, rtol=1e-5)


V3 = make_pair(**KINDS["v3"])
HALF_V3 = [copy.deepcopy(model).bfloat16() for model in V3]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 200), st.sampled_from(["left", "right"]))
def test_states_do_not_depend_on_batch_and_padding(batch_size, length, padding_side):
    inputs = make_input(batch_size, length, padding_side, seed=length)
    with torch.no_grad():
        expected, states, half_expected, half_states = (
            model(**inputs).last_hidden_state[inputs["attention_mask"].bool()] for model in (*V3, *HALF_V3)
        )
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)
    # in half precision both round, neither more than the other
    errors = [(half - expected).abs().mean().item() for half in (half_states, half_expected)]
    assert errors[0] < 1.5 * errors[1] + 1e-3


@pytest.mark.parametrize("kind", ["v3", "keys of their own", "without buckets"])
def test_gradients_are_those_of_transformers(kind):
    stock, ours = make_pair(**KINDS[kind])
    for model in (stock, ours):
        model.train()(**make_input(3, 40)).last_hidden_state.square().mean().backward()
    for (name, parameter), expected in zip(ours.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_rows_that_cannot_be_reached_get_no_gradient():
    _, ours = make_pair(norm_rel_ebd="none", position_buckets=256)
    ours.train()(**make_input(2, 10)).last_hidden_state.square().mean().backward()
    reached = ours.encoder.rel_embeddings.weight.grad.abs().sum(1).nonzero().flatten()
    assert (reached.min().item(), reached.max().item()) == (256 - 9, 256 + 9)


def test_cpsl_over_deberta_uses_them_and_keeps_its_tensors():
    model = make_model()
    assert attention_classes(model.deberta) == {ReachableSelfAttention}
    assert model.deberta.state_dict().keys() == DebertaV2Model(model.config).state_dict().keys()


def test_a_model_can_be_copied_and_pickled():
    _, ours = make_pair()
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert attention_classes(copied) == {ReachableSelfAttention}


def test_buckets_that_may_be_above_their_distances_stay():
    """With 8 buckets for distances up to 5, a distance of 5 is in bucket 7."""
    _, ours = make_pair(position_buckets=8, max_relative_positions=6)
    assert attention_classes(ours) == {DisentangledSelfAttention}
    # and the rule is not too lax: wherever it allows it, no bucket is above its distances
    build = sys.modules[DisentangledSelfAttention.__module__].make_log_bucket_position
    distances = torch.arange(1, 512)
    for buckets in range(2, 340, 2):
        for largest in {3 * (buckets // 2) + 1, 512}:
            bucketed = build(distances[: largest - 1], buckets, largest)
            assert (bucketed <= distances[: largest - 1]).all(), (buckets, largest)


def test_another_version_of_the_attention_is_used_as_it_is(monkeypatch, caplog):
    def forward(self, hidden_states, attention_mask, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(DisentangledSelfAttention, "forward", forward)
    relative_positions_cpsl.logger.warning_once.cache_clear()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    _, ours = make_pair()
    make_pair()
    assert attention_classes(ours) == {DisentangledSelfAttention}
    assert caplog.text.count("DeBERTa is not sped up") == 1
