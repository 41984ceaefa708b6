"""The losses of latents (eq. 3 and 4) against plain Python loops over samples, tokens and features."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_cpsl.latent_losses_cpsl import (
    STATISTICAL_DISTANCES,
    diversity_loss,
    kl_loss,
    reconstruction_loss,
    statistical_loss,
)
from modeling_cpsl.pooling_cpsl import token_mean


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def variance(values):
    center = mean(values)
    return mean((value - center) ** 2 for value in values)


def over_tokens_then_samples(value_at, mask):
    """The mean over a sample's feature tokens, then over samples."""
    return mean(
        mean(value_at(sample, token) for token, kept in enumerate(row) if kept) for sample, row in enumerate(mask)
    )


def reference_reconstruction(reconstruction, target, mask):
    x, y = reconstruction.tolist(), target.tolist()
    return over_tokens_then_samples(
        lambda i, j: mean((p - q) ** 2 for p, q in zip(x[i][j], y[i][j], strict=True)), mask.tolist()
    )


def reference_statistical(latent_mean, latent_variance, features, mask):
    mu, var, x = latent_mean.tolist(), latent_variance.tolist(), features.tolist()
    of_means = over_tokens_then_samples(lambda i, j: (mean(mu[i][j]) - mean(x[i][j])) ** 2, mask.tolist())
    of_variances = over_tokens_then_samples(lambda i, j: (mean(var[i][j]) - variance(x[i][j])) ** 2, mask.tolist())
    return 0.5 * (of_means + of_variances)


def moments_of_a_mixture(means, variances):
    """Scaled skewness and kurtosis of an equal mixture of normal distributions, from its raw moments about 0."""
    parts = list(zip(means, variances, strict=True))
    first = mean(m for m, _ in parts)
    second = mean(m**2 + v for m, v in parts)
    third = mean(m**3 + 3 * m * v for m, v in parts)
    fourth = mean(m**4 + 6 * m**2 * v + 3 * v**2 for m, v in parts)
    m_2 = second - first**2
    m_3 = third - 3 * first * second + 2 * first**3
    m_4 = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    return m_3 / math.sqrt(max(m_2 * m_4, 0) + 1e-12), m_2**2 / (m_4 + 1e-12)


def reference_moments(latent_mean, latent_variance, features, mask):
    mu, var, x = latent_mean.tolist(), latent_variance.tolist(), features.tolist()

    def of_shapes(i, j):
        if variance(x[i][j]) <= 1e-6:
            return 0.0
        own, target = moments_of_a_mixture(mu[i][j], var[i][j]), moments_of_a_mixture(x[i][j], [0.0] * len(x[i][j]))
        return sum((p - q) ** 2 for p, q in zip(own, target, strict=True))

    shapes = over_tokens_then_samples(of_shapes, mask.tolist())
    return reference_statistical(latent_mean, latent_variance, features, mask) + 0.5 * shapes


def reference_mmd(latent_mean, latent_variance, features, mask):
    """Sums over all pairs, the Gaussian kernel of two normal variables being known in closed form."""
    mu, var, x = latent_mean.tolist(), latent_variance.tolist(), features.tolist()

    def of_token(i, j):
        latents, values = list(zip(mu[i][j], var[i][j], strict=True)), [(value, 0.0) for value in x[i][j]]
        bandwidth = mean((m - value) ** 2 + v for m, v in latents for value, _ in values) + 1e-6

        def kernel(one, other):
            total = bandwidth + one[1] + other[1]
            return math.sqrt(bandwidth / total) * math.exp(-((one[0] - other[0]) ** 2) / (2 * total))

        within = mean(kernel(p, q) for p in latents for q in latents) + mean(
            kernel(p, q) for p in values for q in values
        )
        return within - 2 * mean(kernel(p, q) for p in latents for q in values)

    return 0.5 * over_tokens_then_samples(of_token, mask.tolist())


def reference_diversity(latent_variance, mask):
    var = latent_variance.tolist()
    return -over_tokens_then_samples(
        lambda i, j: mean(0.5 * math.log(2 * math.pi * math.e * (v + 1e-6)) for v in var[i][j]), mask.tolist()
    )


def reference_kl(latent_mean, latent_variance, mask):
    mu, var = latent_mean.tolist(), latent_variance.tolist()

    def of_token(i, j):
        pairs = zip(mu[i][j], var[i][j], strict=True)
        return mean((m * m + v + 1e-6 - 1 - math.log(v + 1e-6)) / 2 for m, v in pairs)

    return over_tokens_then_samples(of_token, mask.tolist())


@st.composite
def masked_batches(draw):
    """Reconstruction, target / features, latent mean and variance in double precision, and a mask of any kind."""
    size, length = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    d, latent = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    mask = torch.tensor(draw(st.lists(row, min_size=size, max_size=size)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def normal(*shape):
        return torch.from_numpy(generator.normal(scale=2.0, size=shape))

    return {
        "reconstruction": normal(size, length, d),
        "features": normal(size, length, d),
        "latent_mean": normal(size, length, latent),
        "latent_variance": normal(size, length, latent).square(),
        "mask": mask,
    }


LOSSES = {
    "reconstruction": (
        lambda batch: reconstruction_loss(batch["reconstruction"], batch["features"], batch["mask"]),
        lambda batch: reference_reconstruction(batch["reconstruction"], batch["features"], batch["mask"]),
    ),
    "statistical": (
        lambda b: statistical_loss(b["latent_mean"], b["latent_variance"], b["features"], b["mask"]),
        lambda b: reference_statistical(b["latent_mean"], b["latent_variance"], b["features"], b["mask"]),
    ),
    "moments": (
        lambda b: statistical_loss(b["latent_mean"], b["latent_variance"], b["features"], b["mask"], "moments"),
        lambda b: reference_moments(b["latent_mean"], b["latent_variance"], b["features"], b["mask"]),
    ),
    "mmd": (
        lambda b: statistical_loss(b["latent_mean"], b["latent_variance"], b["features"], b["mask"], "mmd"),
        lambda b: reference_mmd(b["latent_mean"], b["latent_variance"], b["features"], b["mask"]),
    ),
    "diversity": (
        lambda batch: diversity_loss(batch["latent_variance"], batch["mask"]),
        lambda batch: reference_diversity(batch["latent_variance"], batch["mask"]),
    ),
    "kl": (
        lambda batch: kl_loss(batch["latent_mean"], batch["latent_variance"], batch["mask"]),
        lambda batch: reference_kl(batch["latent_mean"], batch["latent_variance"], batch["mask"]),
    ),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


@each_loss
@settings(deadline=None)
@given(batch=masked_batches())
def test_equals_the_plain_loops(name, batch):
    loss, reference = LOSSES[name]
    # Moments about 0 cancel; 16 frequencies are not all of them, least of all for an outlier.
    tolerance = {"moments": 1e-6, "mmd": 1e-3}.get(name, 1e-12)
    assert loss(batch).item() == pytest.approx(reference(batch), rel=1e-9, abs=tolerance)
    as_numbers = {**batch, "mask": batch["mask"].long()}
    assert loss(as_numbers) == loss(batch), "a 0 / 1 mask is a bool mask"


@each_loss
def test_hand_worked(name):
    """One sample with two feature tokens, one with one, one with none; the third token is padding."""
    features = torch.tensor([[[1.0, 3.0], [0.0, 0.0], [9.0, 9.0]], [[2.0, 2.0], [9.0, 9.0], [9.0, 9.0]]])
    batch = {
        "features": torch.cat([features, torch.full((1, 3, 2), 9.0)]),
        "reconstruction": torch.zeros(3, 3, 2),
        "latent_mean": torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1).expand(3, 3, 1),
        "latent_variance": torch.tensor([3.0, 1.0, 5.0]).view(1, 3, 1).expand(3, 3, 1),
        "mask": torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]),
    }
    expected = {
        # ((1 + 9) / 2 + 0) / 2 = 2.5; 4; 0
        "reconstruction": (2.5 + 4.0 + 0.0) / 3,
        # means: ((1 - 2)^2 + 0) / 2 = .5; (1 - 2)^2 = 1; 0.  variances: ((3 - 1)^2 + (1 - 0)^2) / 2 = 2.5; 3^2 = 9; 0
        "statistical": 0.5 * ((0.5 + 1.0) / 3 + (2.5 + 9.0) / 3),
        # The features have no fourth moment but those of 1 and 3, m_2^2 / m_4 = 1 beside 1/3 of a normal distribution.
        "moments": 0.5 * ((0.5 + 1.0) / 3 + (2.5 + 9.0) / 3) + 0.5 * (2 / 3) ** 2 / 2 / 3,
        # Per token: N(1, 3) and {1, 3}, h^2 = 3 + 1 + 1; N(0, 1) and 0, h^2 = 1; N(1, 3) and 2, h^2 = 4.
        "mmd": 0.5
        * (
            (
                math.sqrt(5 / 11)
                + (1 + math.exp(-0.4)) / 2
                - math.sqrt(5 / 8) * (1 + math.exp(-1 / 4))
                + math.sqrt(1 / 3)
                + 1
                - 2 * math.sqrt(1 / 2)
            )
            / 2
            + math.sqrt(4 / 10)
            + 1
            - 2 * math.sqrt(4 / 7) * math.exp(-1 / 14)
        )
        / 3,
        # means 1 and 0, variances 3 and 1: (1 + 3 - 1 - ln 3) / 2 and 0; 1 and 3: the first again; 0
        "kl": (3 - math.log(3)) * (1 / 4 + 1 / 2) / 3,
        "diversity": -((math.log(3) + math.log(1)) / 4 + math.log(3) / 2 + math.log(2 * math.pi * math.e)) / 3,
    }[name]
    assert LOSSES[name][0](batch).item() == pytest.approx(expected, rel=1e-4)


@each_loss
@settings(deadline=None)
@given(batch=masked_batches(), cut=st.integers(0, 4))
def test_a_batch_cut_into_micro_batches_weighs_the_same(name, batch, cut):
    loss, size = LOSSES[name][0], len(batch["mask"])
    parts = [part for part in (slice(None, cut), slice(cut, None)) if len(batch["mask"][part])]
    weighted = sum(
        loss({key: value[part] for key, value in batch.items()}) * len(batch["mask"][part]) / size for part in parts
    )
    torch.testing.assert_close(weighted, loss(batch), rtol=1e-10, atol=1e-12)


@each_loss
@pytest.mark.parametrize("garbage", [1e30, math.inf, -math.inf, math.nan])
@settings(deadline=None, max_examples=20)
@given(batch=masked_batches())
def test_what_stands_under_the_mask_does_not_count(name, garbage, batch):
    """Neither in the value nor in any gradient, whichever of the inputs the garbage is in."""
    loss, mask = LOSSES[name][0], batch["mask"]
    clean = {key: value.clone().requires_grad_(key != "mask") for key, value in batch.items() if key != "mask"}
    dirty = {
        key: torch.where(mask[..., None], value, garbage).requires_grad_()
        for key, value in batch.items()
        if key != "mask"
    }
    values = []
    for inputs in (clean, dirty):
        values.append(loss({**inputs, "mask": mask}))
        values[-1].backward()
    torch.testing.assert_close(values[1], values[0])
    for key in clean:
        if clean[key].grad is not None:
            torch.testing.assert_close(dirty[key].grad, clean[key].grad, msg=f"gradient of {key}")


@each_loss
def test_a_batch_without_feature_tokens_is_zero(name):
    batch = {key: torch.randn(2, 3, 4).abs() for key in ("reconstruction", "features", "latent_mean")}
    batch |= {"latent_variance": torch.rand(2, 3, 4, requires_grad=True), "mask": torch.zeros(2, 3)}
    assert LOSSES[name][0](batch).item() == 0.0


def test_a_sample_without_feature_tokens_is_counted():
    """It contributes 0 to the mean over samples; otherwise micro-batches would not add up."""
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    assert reconstruction_loss(torch.ones(2, 3, 4), torch.zeros(2, 3, 4), mask) == 0.5


each_kind = pytest.mark.parametrize("kind", STATISTICAL_DISTANCES)


@each_kind
def test_statistical_loss_leaves_the_features_alone(kind):
    latent_mean, latent_variance, features = (torch.rand(2, 3, 4, requires_grad=True) for _ in range(3))
    statistical_loss(latent_mean, latent_variance, features, torch.ones(2, 3), kind).backward()
    assert features.grad is None
    assert latent_mean.grad.abs().min() > 0 and latent_variance.grad.abs().min() > 0


@each_kind
def test_statistical_loss_is_zero_where_the_latents_are_the_features(kind):
    values, mask = torch.rand(2, 3, 4), torch.ones(2, 3)
    single = values.var(dim=-1, correction=0, keepdim=True)  # as without AME
    assert statistical_loss(values, single, values, mask, kind).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["moments", "mmd"])
def test_a_distance_beyond_the_variance_sees_a_skew(kind):
    """Mean 1 and variance 3, once with a tail and once symmetric."""
    features = torch.tensor([[[0.0, 0.0, 0.0, 4.0]]])
    latents = 1 + 1.5**0.5 * torch.tensor([[[-2.0, 0.0, 0.0, 2.0]]])
    single = latents.var(dim=-1, correction=0, keepdim=True)
    assert statistical_loss(latents, single, features, torch.ones(1, 1)).item() == pytest.approx(0.0, abs=1e-6)
    assert statistical_loss(latents, single, features, torch.ones(1, 1), kind) > 0.01


def test_statistical_loss_takes_the_biased_variance():
    """A pair 0, 2 has variance 1 with 1/d and 2 with 1/(d - 1)."""
    features, ones = torch.tensor([[[0.0, 2.0]]]), torch.ones(1, 1)
    assert statistical_loss(torch.ones(1, 1, 3), torch.ones(1, 1, 3), features, ones) == 0.0
    assert statistical_loss(torch.ones(1, 1, 3), torch.full((1, 1, 3), 2.0), features, ones) == 0.5


def test_a_single_variance_per_token_broadcasts():
    """Without AME each token has a single variance."""
    latent_mean, features, mask = torch.randn(2, 3, 4), torch.randn(2, 3, 5), torch.tensor([[1, 1, 0], [1, 0, 0]])
    single = torch.rand(2, 3, 1)
    full = single.expand(2, 3, 4)
    torch.testing.assert_close(
        statistical_loss(latent_mean, single, features, mask), statistical_loss(latent_mean, full, features, mask)
    )
    torch.testing.assert_close(diversity_loss(single, mask), diversity_loss(full, mask))


def test_diversity_is_the_entropy_of_a_normal_distribution():
    var = torch.rand(1, 1, 6, dtype=torch.double) + 0.1
    entropy = torch.distributions.Normal(0.0, (var + 1e-6).sqrt()).entropy().mean()
    torch.testing.assert_close(diversity_loss(var, torch.ones(1, 1)), -entropy)


def test_kl_is_the_divergence_from_a_standard_normal_distribution():
    mean, var = torch.randn(1, 1, 6, dtype=torch.double), torch.rand(1, 1, 6, dtype=torch.double) + 0.1
    posterior = torch.distributions.Normal(mean, (var + 1e-6).sqrt())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_loss(mean, var, torch.ones(1, 1)), expected)


def test_diversity_rewards_variance_and_survives_none():
    mask = torch.ones(1, 1)
    assert diversity_loss(torch.full((1, 1, 2), 2.0), mask) < diversity_loss(torch.ones(1, 1, 2), mask)
    assert diversity_loss(torch.zeros(1, 1, 2), mask).isfinite()


@given(batch=masked_batches())
@settings(deadline=None, max_examples=30)
def test_token_mean(batch):
    mask, values = batch["mask"], batch["features"]
    means = token_mean(values, mask)
    assert means.shape == (len(values), values.shape[-1])
    for sample, row in enumerate(mask.tolist()):
        kept = [values[sample, token] for token, counts in enumerate(row) if counts]
        expected = torch.stack(kept).mean(dim=0) if kept else torch.zeros(values.shape[-1], dtype=torch.double)
        torch.testing.assert_close(means[sample], expected)
    torch.testing.assert_close(token_mean(values[..., 0], mask), means[:, 0])
