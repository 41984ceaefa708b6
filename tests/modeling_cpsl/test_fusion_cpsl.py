"""The fusion blocks against loops over samples, tokens and modalities, and the residual injection (eq. 2)."""

import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

from modeling_cpsl.fusion_cpsl import FUSION_BLOCKS, ResidualInjection


LATENT, FUSED = 4, 6
each_block = pytest.mark.parametrize("fusion", ["gated", "concat", "sum", "attention", "attention_gate"])
each_count = pytest.mark.parametrize("count", [1, 2, 3])


def make(fusion, names, seed=0):
    torch.manual_seed(seed)
    return FUSION_BLOCKS[fusion](list(names), LATENT, FUSED)


def make_latents(names, size=3, length=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, length, LATENT, generator=generator) for name in names}


def all_present(names, size=3):
    return {name: torch.ones(size, dtype=torch.bool) for name in names}


def names_of(count):
    return ["acoustic", "timing", "visual"][:count]


def transformed(block, name, latent):
    """h_m = tanh(W_m Z_m)."""
    return torch.tanh(latent @ block.transforms[name].weight.T + block.transforms[name].bias)


def test_the_blocks_are_those_of_the_method():
    assert set(FUSION_BLOCKS) == {"gated", "concat", "sum", "attention", "attention_gate"}


def test_gated_fusion_of_two_is_the_gated_multimodal_unit():
    """F = g * h_a + (1 - g) * h_v with g = sigmoid(W_g [Z_a; Z_v]), one gate a fused dimension (Arevalo et al.)."""
    names = ["acoustic", "visual"]
    block, latents = make("gated", names), make_latents(names)
    assert block.gate.weight.shape == (FUSED, 2 * LATENT)
    fused, weights = block(latents, all_present(names))
    gate, bias = block.gate.weight.tolist(), block.gate.bias.tolist()
    for sample in range(3):
        for token in range(5):
            both = latents["acoustic"][sample, token].tolist() + latents["visual"][sample, token].tolist()
            gates = []
            for d in range(FUSED):
                g = 1 / (1 + math.exp(-sum(w * z for w, z in zip(gate[d], both, strict=True)) - bias[d]))
                h_a, h_v = (transformed(block, name, latents[name][sample, token])[d].item() for name in names)
                assert fused[sample, token, d].item() == pytest.approx(g * h_a + (1 - g) * h_v, abs=1e-5)
                gates.append(g)
            mean_gate = sum(gates) / FUSED
            assert weights[sample, token].tolist() == pytest.approx([mean_gate, 1 - mean_gate], abs=1e-5)


@pytest.mark.parametrize("fusion", ["gated", "sum", "attention", "attention_gate"])
def test_one_modality_is_its_transform(fusion):
    block, latents = make(fusion, ["acoustic"]), make_latents(["acoustic"])
    fused, weights = block(latents, all_present(["acoustic"]))
    assert_close(fused, transformed(block, "acoustic", latents["acoustic"]))
    assert (weights == 1).all() and weights.shape == (3, 5, 1)


@pytest.mark.parametrize("fusion", ["gated", "attention", "attention_gate"])
@each_count
def test_gates_are_a_softmax_over_modalities(fusion, count):
    """They sum to 1, and with equal transforms the fused value is that transform whatever the gates are."""
    names = names_of(count)
    block, latents = make(fusion, names), make_latents(names)
    _, weights = block(latents, all_present(names))
    assert (weights >= 0).all()
    assert_close(weights.sum(dim=-1), torch.ones(3, 5))
    for name in names:
        block.transforms[name].load_state_dict(block.transforms[names[0]].state_dict())
    same = dict.fromkeys(names, latents[names[0]])
    assert_close(block(same, all_present(names))[0], transformed(block, names[0], latents[names[0]]))


def test_three_gates_answer_to_their_own_logits():
    """A large bias on one free gate's logits gives that modality the weight; a small one on both gives the last."""
    names = names_of(3)
    latents = make_latents(names)
    for winner in range(3):
        block = make("gated", names)
        with torch.no_grad():
            bias = block.gate.bias.view(2, FUSED)
            bias.fill_(-80.0)
            if winner < 2:
                bias[winner] = 80.0
        fused, weights = block(latents, all_present(names))
        assert_close(weights, torch.eye(3)[winner].expand(3, 5, 3))
        assert_close(fused, transformed(block, names[winner], latents[names[winner]]))


def test_sum_and_concat_and_attention_by_hand():
    names = names_of(3)
    latents, present = make_latents(names), all_present(names)
    block = make("sum", names)
    assert_close(block(latents, present)[0], sum(transformed(block, name, latents[name]) for name in names))
    block = make("concat", names)
    joined = torch.cat([latents[name] for name in names], dim=-1)
    assert_close(block(latents, present)[0], torch.tanh(joined @ block.projection.weight.T + block.projection.bias))
    block = make("attention", names)
    values = [transformed(block, name, latents[name]) for name in names]
    powers = [(value @ block.score.weight[0]).exp() for value in values]
    attention = [power / sum(powers) for power in powers]
    expected = sum(share[..., None] * value for share, value in zip(attention, values, strict=True))
    fused, weights = block(latents, present)
    assert_close(fused, expected)
    assert_close(weights, torch.stack(attention, dim=-1))


@pytest.mark.parametrize("present", [("acoustic", "timing", "visual"), ("acoustic", "visual")])
def test_the_gate_is_what_the_modalities_attend_to(present):
    """Place by place: each one that is present attends to those that are, and a gate is the mean it is attended to."""
    names = names_of(3)
    block, latents = make("attention_gate", names), make_latents(names)
    presence = {name: torch.full((3,), name in present) for name in names}
    fused, weights = (values.tolist() for values in block(latents, presence))
    w_q, b_q, w_k = block.query.weight.detach(), block.query.bias.detach(), block.key.weight.detach()
    for sample in range(3):
        for token in range(5):
            values = {name: transformed(block, name, latents[name][sample, token]).detach() for name in present}
            gates = dict.fromkeys(names, 0.0)
            for attending in present:
                query = w_q @ values[attending] + b_q
                powers = {name: math.exp(query @ (w_k @ values[name]) / FUSED**0.5) for name in present}
                for name in present:
                    gates[name] += powers[name] / sum(powers.values()) / len(present)
            assert weights[sample][token] == pytest.approx([gates[name] for name in names], abs=1e-5)
            expected = sum(gates[name] * values[name] for name in present)
            assert fused[sample][token] == pytest.approx(expected.tolist(), abs=1e-5)


@each_block
@each_count
def test_every_token_is_fused_by_itself(fusion, count):
    names = names_of(count)
    block, latents, present = make(fusion, names), make_latents(names), all_present(names)
    whole = block(latents, present)[0]
    for token in range(5):
        alone = block({name: latent[:, token : token + 1] for name, latent in latents.items()}, present)[0]
        assert_close(alone, whole[:, token : token + 1])


@each_block
def test_the_order_of_the_dicts_does_not_matter(fusion):
    names = names_of(3)
    block, latents, present = make(fusion, names), make_latents(names), all_present(names)
    backwards = {name: latents[name] for name in reversed(names)}, {name: present[name] for name in reversed(names)}
    for one, other in zip(block(latents, present), block(*backwards), strict=True):
        assert torch.equal(one, other)


@each_block
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("garbage", [-7.0, 1e30])
def test_a_missing_modality_has_weight_zero_and_no_say(fusion, count, missing, garbage):
    names = names_of(count)
    block, latents, present = make(fusion, names), make_latents(names), all_present(names)
    present[names[missing]][1] = False
    fused, weights = block(latents, present)
    assert (weights[1, :, missing] == 0).all()
    changed = {name: latent.clone() for name, latent in latents.items()}
    changed[names[missing]][1] = garbage
    assert torch.equal(block(changed, present)[0], fused)
    for sample in (0, 2):  # the other samples are fused as if nothing were missing
        assert_close(fused[sample], block(latents, all_present(names))[0][sample])


@pytest.mark.parametrize("fusion", ["gated", "attention", "attention_gate"])
@pytest.mark.parametrize("count", [2, 3])
def test_the_others_share_the_part_of_a_missing_modality(fusion, count):
    names = names_of(count)
    block, latents, present = make(fusion, names), make_latents(names), all_present(names)
    present["acoustic"][:] = False
    assert_close(block(latents, present)[1].sum(dim=-1), torch.ones(3, 5))
    if count == 2:
        assert_close(block(latents, present)[0], transformed(block, names[1], latents[names[1]]))


@each_block
@each_count
def test_nothing_present_is_finite_and_has_finite_gradients(fusion, count):
    names = names_of(count)
    block, latents = make(fusion, names), make_latents(names)
    fused, weights = block(latents, {name: ~present for name, present in all_present(names).items()})
    assert (weights == 0).all() and fused.isfinite().all()
    fused.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in block.parameters())


@each_block
@each_count
def test_every_parameter_of_a_block_learns(fusion, count):
    names = names_of(count)
    block = make(fusion, names)
    block(make_latents(names), all_present(names))[0].square().sum().backward()
    idle = [name for name, p in block.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not idle


class TestResidualInjection:
    def make(self, beta):
        torch.manual_seed(0)
        return ResidualInjection(FUSED, 8, beta), torch.randn(2, 5, 8), torch.randn(2, 5, FUSED)

    @pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
    def test_equation_2(self, beta):
        injection, hidden, fused = self.make(beta)
        weight, bias = injection.projection.weight, injection.projection.bias
        expected = hidden + beta * torch.tanh(fused @ weight.T + bias)
        assert_close(injection(hidden, fused, torch.ones(2, 5, dtype=torch.bool)), expected)

    @pytest.mark.parametrize("garbage", [1.0, math.inf, math.nan])
    def test_elsewhere_the_text_stays_bit_for_bit(self, garbage):
        injection, hidden, fused = self.make(1.0)
        mask = torch.tensor([[False, True, True, False, False], [False] * 5])
        fused[~mask] = garbage
        injected = injection(hidden, fused, mask)
        assert torch.equal(injected[~mask], hidden[~mask])
        assert (injected[mask] != hidden[mask]).all()


def test_a_new_block_is_a_class_and_a_line(edited_model_class, plain_config, make_batch):
    """The product of the transforms, as somebody would add it to `fusion_cpsl.py`."""
    block = """
class ProductFusion(SumFusion):
    def forward(self, latents, presence):
        values, present = _stack_values(self, latents, presence)
        weights = present.to(values.dtype).expand(*values.shape[:-1], 1)
        return torch.where(present, values, 1.0).prod(dim=-2), weights.squeeze(-1)


# By the name that the config's `fusion` gives it.
"""
    model_class = edited_model_class(
        "fusion_cpsl.py",
        ("# By the name that the config's `fusion` gives it.\n", block),
        ("\n}\n", '\n    "product": ProductFusion,\n}\n'),
    )
    config_class = model_class.config_class
    option = next(option for option in dataclasses.fields(config_class) if option.name == "fusion")
    assert [*option.metadata["choices"]] == [
        "gated",
        "concat",
        "sum",
        "attention",
        "attention_gate",
        "product",
    ]  # the command line's
    with pytest.raises(ValueError, match=r"fusion='tensor' is unknown; choose one of .*, product"):
        config_class(fusion="tensor")
    fields = {"modality_sizes": {"acoustic": 5, "visual": 3}, "fusion": "product"}
    model = model_class(config_class.from_backbone(plain_config("deberta"), **fields))
    model(**make_batch(model.config)).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.multimodal.fusion.parameters())
