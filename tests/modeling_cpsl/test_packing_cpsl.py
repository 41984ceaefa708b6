"""A packed batch gives what a padded one gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CLASSES, VOCAB_SIZE, make_model

from modeling_cpsl.packing_cpsl import encode_packed, packing_pays


ENCODERS = {backbone: make_model(backbone).base_model.eval() for backbone in CLASSES}


def make_batch(lengths, padding_side="right", seed=0):
    """Random ids with the padding id at padding, and their mask."""
    longest = max(lengths)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    if padding_side == "left":
        mask = mask.flip(1)
    ids = torch.randint(2, VOCAB_SIZE, mask.shape, generator=torch.Generator().manual_seed(seed))
    return ids.masked_fill(mask == 0, 1), mask


def some_lengths(longest=40):
    return st.lists(st.integers(1, longest), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(CLASSES)), some_lengths(), st.sampled_from(["left", "right"]), st.booleans())
def test_states_are_those_of_the_padded_batch(backbone, lengths, padding_side, as_embeddings):
    encoder = ENCODERS[backbone]
    ids, mask = make_batch(lengths, padding_side, seed=len(lengths))
    inputs = {"inputs_embeds": encoder.get_input_embeddings()(ids)} if as_embeddings else {"input_ids": ids}
    with torch.no_grad():
        expected = encoder(attention_mask=mask, **inputs).last_hidden_state
        states = encode_packed(encoder, mask, **inputs)
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
    assert not states[~mask.bool()].any()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backbone", CLASSES)
def test_gradients_are_those_of_the_padded_batch(backbone, checkpointing):
    encoder = make_model(backbone).base_model.train()
    ids, mask = make_batch([3, 20, 7])

    def gradients(states):
        encoder.zero_grad()
        states[mask.bool()].square().mean().backward()
        return {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}

    expected = gradients(encoder(ids, attention_mask=mask).last_hidden_state)
    if checkpointing and encoder.supports_gradient_checkpointing:
        encoder.activation_checkpointing_enable({"use_reentrant": False})
    packed = gradients(encode_packed(encoder, mask, input_ids=ids))
    assert packed.keys() == expected.keys()
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_state_does_not_depend_on_the_batch():
    """Bit for bit on DeBERTa: no matrix product mixes the rows of two utterances."""
    encoder = ENCODERS["deberta"]
    ids, mask = make_batch([9, 30, 4])
    with torch.no_grad():
        states = encode_packed(encoder, mask, input_ids=ids)
        changed = ids.clone()
        changed[1] = changed[1].flip(0)
        assert torch.equal(encode_packed(encoder, mask, input_ids=changed)[[0, 2]], states[[0, 2]])


@pytest.mark.parametrize(
    ("mask", "pays"),
    [
        (make_batch([5, 40, 6, 7])[1], True),
        (make_batch([40, 40])[1], False),  # nothing to save
        (make_batch([1])[1], False),
        (make_batch([39] * 63 + [40])[1], False),  # the attention matrix of 2,500 tokens costs more than 63 of them
        (torch.zeros(2, 8, dtype=torch.long), False),
        (torch.tensor([[1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1] + [0] * 11]), False),  # a gap within an utterance
        (torch.ones(2, 1, 5, 5, dtype=torch.long), False),
        (make_batch([5, 40, 6, 7])[1].to("meta"), False),  # as on a GPU
    ],
)
@pytest.mark.parametrize("backbone", CLASSES)
def test_batches_are_packed_where_it_pays(backbone, mask, pays):
    assert packing_pays(ENCODERS[backbone], mask) == pays


class Wrapped(torch.nn.Module):
    """An encoder within something else that gives all its attributes, as PEFT's models do."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder_within = encoder

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("encoder_within"), name)


def make_causal(encoder):
    encoder.config.is_decoder = True
    return encoder


def make_flexible(encoder):
    encoder.config._attn_implementation_internal = "flex_attention"
    return encoder


def make_watched(encoder):
    encoder.register_forward_hook(lambda *arguments: None)
    return encoder


@pytest.mark.parametrize(
    ("backbone", "fields", "change"),
    [
        ("deberta", {"conv_kernel_size": 3}, lambda encoder: encoder),  # mixes neighbours
        ("deberta", {}, Wrapped),
        ("deberta", {}, make_watched),
        ("bert", {}, make_causal),
        ("bert", {}, make_flexible),
    ],
)
def test_an_encoder_that_packing_would_change_is_not_packed(backbone, fields, change):
    encoder = change(make_model(backbone, **fields).base_model)
    assert not packing_pays(encoder, make_batch([5, 40, 6, 7])[1])


@pytest.mark.parametrize("backbone", CLASSES)
def test_a_model_packs_its_text_unless_more_is_asked_for(backbone):
    model = make_model(backbone)
    ids, mask = make_batch([5, 40, 6, 7])
    shapes = []
    first_layer = model.base_model.encoder.layer[0]
    first_layer.register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape[:2])))
    with torch.no_grad():
        packed = model(ids, mask).logits
        padded = model(ids, mask, output_hidden_states=True).logits
        model.config.output_hidden_states = True
        model(ids, mask)
    assert shapes == [(1, 58), (4, 40), (4, 40)]
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
