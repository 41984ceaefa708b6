"""Min-max normalisation and adaptive modality encoding (eq. 1)."""

import math

import pytest
import torch
from forked import ForkedProcess
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modeling_cpsl.encoding_cpsl import (
    AdaptiveModalityEncoder,
    FeatureNormalizer,
    ModalityDecoder,
    UnimodalHead,
    pooled_feature_bounds,
)


NORMALIZATIONS = ("minmax_running", "minmax_batch", "none")


def feature_values(features, mask):
    """All numbers at feature tokens."""
    return [
        value
        for sample, row in zip(features.tolist(), mask.tolist(), strict=True)
        for token, kept in zip(sample, row, strict=True)
        if kept
        for value in token
    ]


def normalized(features, mask, low, high, clip=False):
    """Min-max with the given bounds in plain Python; 0 elsewhere and where there is no extent."""
    result = []
    for sample, row in zip(features.tolist(), mask.tolist(), strict=True):
        result.append([])
        for token, kept in zip(sample, row, strict=True):
            scaled = [(value - low) / (high - low) if kept and high > low else 0.0 for value in token]
            result[-1].append([min(max(value, 0.0), 1.0) for value in scaled] if clip else scaled)
    return torch.tensor(result)


@st.composite
def masked_features(draw):
    size, length, d = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    numbers = st.lists(st.floats(-100, 100, width=32), min_size=size * length * d, max_size=size * length * d)
    flags = st.lists(st.booleans(), min_size=size * length, max_size=size * length)
    features = torch.tensor(draw(numbers), dtype=torch.float32).view(size, length, d)
    return features, torch.tensor(draw(flags)).view(size, length)


class TestFeatureNormalizer:
    @settings(deadline=None)
    @given(batch=masked_features(), mode=st.sampled_from(["minmax_running", "minmax_batch"]))
    def test_training_takes_the_batch_bounds_over_feature_tokens(self, batch, mode):
        features, mask = batch
        values = feature_values(features, mask) or [0.0]
        output = FeatureNormalizer(mode)(features, mask)
        assert output.isfinite().all()
        if max(values) - min(values) > 1e-3 or max(values) == min(values):  # between them float32 alone decides
            expected = normalized(features, mask, min(values), max(values))
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)

    def test_hand_worked(self):
        features = torch.tensor([[[2.0, 4.0], [10.0, 6.0], [99.0, -99.0]], [[3.0, 5.0], [-99.0, 0.0], [0.0, 0.0]]])
        mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        expected = torch.tensor([[[0.0, 0.25], [1.0, 0.5], [0.0, 0.0]], [[0.125, 0.375], [0.0, 0.0], [0.0, 0.0]]])
        torch.testing.assert_close(FeatureNormalizer("minmax_batch")(features, mask), expected)

    @pytest.mark.parametrize("mode", NORMALIZATIONS)
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("garbage", [1e30, math.inf, -math.inf, math.nan])
    def test_what_stands_under_the_mask_does_not_count(self, mode, training, garbage):
        features, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [0, 0, 0]])
        outputs, buffers = [], []
        for filler in (0.0, garbage):
            normalizer = FeatureNormalizer(mode).train(training)
            outputs.append(normalizer(torch.where(mask.bool()[..., None], features, filler), mask))
            buffers.append(normalizer.state_dict())
        assert torch.equal(outputs[0], outputs[1])
        assert (outputs[1][~mask.bool()] == 0).all()
        assert buffers[0] == buffers[1]

    @pytest.mark.parametrize("mode", ["minmax_running", "minmax_batch"])
    @pytest.mark.parametrize("training", [True, False])
    def test_a_constant_batch_is_zero(self, mode, training):
        normalizer = FeatureNormalizer(mode).train()
        features, mask = torch.full((2, 3, 4), 7.0), torch.ones(2, 3)
        assert (normalizer(features, mask) == 0).all()
        assert (normalizer.train(training)(features, mask) == 0).all()

    @pytest.mark.parametrize("mode", NORMALIZATIONS)
    @pytest.mark.parametrize("training", [True, False])
    def test_no_feature_token_at_all(self, mode, training):
        normalizer = FeatureNormalizer(mode).train(training)
        assert (normalizer(torch.randn(2, 3, 4), torch.zeros(2, 3)) == 0).all()
        assert (normalizer.minimum, normalizer.maximum, normalizer.num_updates) == (0.0, 1.0, 0)

    def test_the_first_batch_sets_the_bounds_and_later_ones_move_them(self):
        normalizer = FeatureNormalizer("minmax_running").train()
        assert (normalizer.minimum, normalizer.maximum, normalizer.num_updates) == (0.0, 1.0, 0)
        mask = torch.ones(1, 2)
        low = high = None
        for step, (minimum, maximum) in enumerate([(-4.0, 6.0), (-1.0, 2.0), (-8.0, 30.0), (0.0, 1.0)]):
            normalizer(torch.tensor([[[minimum], [maximum]]]), mask)
            low = minimum if step == 0 else 0.9 * low + 0.1 * minimum
            high = maximum if step == 0 else 0.9 * high + 0.1 * maximum
            assert normalizer.minimum.item() == pytest.approx(low)
            assert normalizer.maximum.item() == pytest.approx(high)
            assert normalizer.num_updates == step + 1

    def test_an_empty_batch_leaves_the_bounds(self):
        normalizer = FeatureNormalizer("minmax_running").train()
        normalizer(torch.tensor([[[-2.0], [3.0]]]), torch.ones(1, 2))
        normalizer(torch.tensor([[[-9.0], [9.0]]]), torch.zeros(1, 2))
        assert (normalizer.minimum, normalizer.maximum, normalizer.num_updates) == (-2.0, 3.0, 1)

    @settings(deadline=None)
    @given(batch=masked_features())
    def test_evaluation_uses_the_buffers_and_clips(self, batch):
        features, mask = batch
        normalizer = FeatureNormalizer("minmax_running").train()
        normalizer(torch.tensor([[[-20.0], [30.0]]]), torch.ones(1, 2))
        before = {name: value.clone() for name, value in normalizer.state_dict().items()}
        output = normalizer.eval()(features, mask)
        torch.testing.assert_close(output, normalized(features, mask, -20.0, 30.0, clip=True), rtol=1e-5, atol=1e-6)
        assert normalizer.state_dict() == before

    def test_minmax_batch_evaluates_with_the_batch(self):
        normalizer = FeatureNormalizer("minmax_batch").train()
        normalizer(torch.tensor([[[-20.0], [30.0]]]), torch.ones(1, 2))
        features, mask = torch.tensor([[[2.0], [3.0], [4.0]]]), torch.ones(1, 3)
        torch.testing.assert_close(normalizer.eval()(features, mask), torch.tensor([[[0.0], [0.5], [1.0]]]))

    @pytest.mark.parametrize("training", [True, False])
    def test_none_takes_features_as_they_come(self, training):
        features, mask = torch.randn(2, 3, 4) * 50, torch.tensor([[1, 1, 0], [1, 0, 0]])
        output = FeatureNormalizer("none").train(training)(features, mask)
        assert torch.equal(output, features * mask[..., None])

    @pytest.mark.parametrize("mode", ["minmax_running", "minmax_batch"])
    def test_given_bounds_are_used_in_training_and_not_tracked(self, mode):
        normalizer = FeatureNormalizer(mode).train()
        features, mask = torch.tensor([[[2.0], [3.0]]]), torch.ones(1, 2)
        output = normalizer(features, mask, torch.tensor([1.0, 5.0]))
        torch.testing.assert_close(output, torch.tensor([[[0.25], [0.5]]]))
        assert (normalizer.minimum, normalizer.maximum, normalizer.num_updates) == (0.0, 1.0, 0)
        normalizer.update(torch.tensor([1.0, 5.0]))
        assert (normalizer.minimum, normalizer.maximum, normalizer.num_updates) == (1.0, 5.0, 1)

    def test_bounds_pooled_over_micro_batches_equal_those_of_the_whole(self):
        features, mask = torch.randn(6, 3, 4), torch.rand(6, 3) > 0.4
        pooled = pooled_feature_bounds([(features[:2], mask[:2]), (features[2:], mask[2:])])
        values = feature_values(features, mask)
        torch.testing.assert_close(pooled, torch.tensor([min(values), max(values)]))
        micro, whole = FeatureNormalizer("minmax_running"), FeatureNormalizer("minmax_running")
        parts = [micro(features[part], mask[part], pooled) for part in (slice(None, 2), slice(2, None))]
        micro.update(pooled)
        assert torch.equal(torch.cat(parts), whole(features, mask))
        assert micro.state_dict() == whole.state_dict()

    def test_a_micro_batch_without_features_does_not_hide_the_others(self):
        bounded = (torch.tensor([[[-2.0], [3.0]]]), torch.ones(1, 2))
        nothing = (torch.tensor([[[-9.0], [9.0]]]), torch.zeros(1, 2))
        assert pooled_feature_bounds([nothing, bounded, nothing]).tolist() == [-2.0, 3.0]

    def test_integers_and_half_precision_are_normalised_in_float32(self):
        mask = torch.ones(1, 3)
        for dtype in (torch.int64, torch.float16, torch.float64):
            output = FeatureNormalizer("minmax_batch")(torch.tensor([[[0], [1], [4]]], dtype=dtype), mask)
            assert torch.equal(output, torch.tensor([[[0.0], [0.25], [1.0]]]))


class TestAdaptiveModalityEncoder:
    def make(self, ame=True, dropout=0.0):
        torch.manual_seed(0)
        return AdaptiveModalityEncoder(feature_size=3, hidden_size=5, latent_size=4, dropout=dropout, ame=ame)

    def test_is_two_heads_over_one_trunk(self):
        """Trunk Linear -> ReLU, heads for the mean and, through softplus, the variance (eq. 1)."""
        encoder, features = self.make(), torch.randn(2, 6, 3)
        weights = encoder.state_dict()
        assert {name: tuple(value.shape) for name, value in weights.items() if "weight" in name} == {
            "trunk.0.weight": (5, 3),
            "mean_head.weight": (4, 5),
            "variance_head.weight": (4, 5),
        }
        hidden = (features @ weights["trunk.0.weight"].T + weights["trunk.0.bias"]).clamp(min=0)
        mean, variance = encoder(features)
        torch.testing.assert_close(mean, hidden @ weights["mean_head.weight"].T + weights["mean_head.bias"])
        score = hidden @ weights["variance_head.weight"].T + weights["variance_head.bias"]
        torch.testing.assert_close(variance, torch.log1p(torch.exp(score)))
        assert (variance > 0).all()

    def test_dropout_is_in_the_trunk_and_off_in_evaluation(self):
        encoder, features = self.make(dropout=0.5), torch.randn(1, 200, 3)
        encoder.train()
        assert not torch.equal(encoder(features)[0], encoder(features)[0])
        encoder.eval()
        assert torch.equal(encoder(features)[0], encoder(features)[0])

    def test_draws_have_the_posterior_mean_and_variance(self):
        encoder = self.make()
        mean, variance = torch.tensor([-2.0, 0.0, 0.5, 3.0]), torch.tensor([0.0, 0.25, 1.0, 4.0])
        count = 40_000
        torch.manual_seed(0)
        draws = encoder.sample(mean.expand(1, count, 4), variance.expand(1, count, 4))[0].double()
        deviation = (variance + 1e-6).sqrt()
        error = (draws.mean(dim=0) - mean).abs() / (deviation / math.sqrt(count))
        assert (error < 5).all(), "five standard errors of the mean"
        ratio = draws.var(dim=0) / (variance + 1e-6)
        assert ((ratio - 1).abs() < 5 * math.sqrt(2 / count)).all(), "five standard errors of the variance"
        assert draws.T.corrcoef().fill_diagonal_(0).abs().max() < 5 / math.sqrt(count), "independent dimensions"

    def test_given_noise_is_eq_1(self):
        encoder, mean, variance = self.make(), torch.randn(1, 2, 4), torch.rand(1, 2, 4)
        noise = torch.randn(1, 2, 4)
        expected = mean + noise * (variance + 1e-6).sqrt()
        torch.testing.assert_close(encoder.sample(mean, variance, noise), expected)

    def test_a_draw_carries_the_gradient_to_mean_and_variance(self):
        encoder = self.make()
        mean, variance, noise = (torch.rand(1, 2, 4) + 0.1 for _ in range(3))
        mean.requires_grad_(), variance.requires_grad_()
        encoder.sample(mean, variance, noise).sum().backward()
        torch.testing.assert_close(mean.grad, torch.ones(1, 2, 4))
        torch.testing.assert_close(variance.grad, noise / (2 * (variance.detach() + 1e-6).sqrt()))

    def test_a_variance_of_zero_has_a_finite_gradient(self):
        variance = torch.zeros(1, 1, 4, requires_grad=True)
        self.make().sample(torch.zeros(1, 1, 4), variance).sum().backward()
        assert variance.grad.isfinite().all()

    def test_without_ame_there_is_no_head_and_no_noise(self):
        encoder, features = self.make(ame=False), torch.randn(2, 6, 3)
        assert encoder.variance_head is None
        mean, variance = encoder(features)
        assert encoder.sample(mean, variance) is mean
        assert encoder.sample(mean, variance, torch.randn(2, 6, 4)) is mean
        expected = [[sum((z - sum(t) / 4) ** 2 for z in t) / 4 for t in sample] for sample in mean.tolist()]
        torch.testing.assert_close(variance.squeeze(-1), torch.tensor(expected))


def test_decoder_and_head_have_the_sizes_of_the_method():
    decoder, head = ModalityDecoder(4, 6, 3), UnimodalHead(4, 0.5)
    assert decoder(torch.randn(2, 5, 4)).shape == (2, 5, 3)
    assert head(torch.randn(2, 4)).shape == (2, 1)
    assert [module.p for module in head if isinstance(module, nn.Dropout)] == [0.5]


def pool_on(rank, folder):
    """One of two ranks pools its own features; the exit code says whether it found the bounds of both.

    One of them evaluates a batch more than the other, which may not wait for it.
    """
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    features = torch.tensor([[[1.0, 2.0]], [[-5.0, 9.0]]])[rank : rank + 1]
    bounds = pooled_feature_bounds([(features, torch.ones(1, 1))])
    if rank == 1:
        FeatureNormalizer("minmax_batch").eval()(features, torch.ones(1, 1))
    torch.distributed.destroy_process_group()
    return 0 if bounds.tolist() == [-5.0, 9.0] else 1


def test_bounds_are_pooled_over_all_ranks(tmp_path):
    ranks = [ForkedProcess(pool_on, rank, tmp_path) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        errors = rank.finish()[1]
        assert rank.exitcode == 0, errors
