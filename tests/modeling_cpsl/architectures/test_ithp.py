"""ITHP against its equations in NumPy, and what it reads of voice and face: nothing."""

import numpy as np
import pytest
import torch
from tiny_models import SIZES, make_batch, make_config, make_model
from torch.testing import assert_close

from modeling_cpsl.ithp_cpsl import compression_loss


OPTIONS = {"hidden_size": 9, "bottleneck_size": 6, "dropout": 0.0, "shift_dropout": 0.0}
LENGTHS = (8, 6, 3, 7)


def make_ithp(options=None, **fields):
    return make_model(architecture="ithp", architecture_options=OPTIONS | (options or {}), **fields)


def make_noise(model, seed=5):
    generator = torch.Generator().manual_seed(seed)
    shapes = model.latent_noise_shapes(max(LENGTHS))
    return {name: torch.randn(len(LENGTHS), *shape, generator=generator) for name, shape in shapes.items()}


def linear(weights, name, values):
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def token_then_sample_mean(values, mask):
    """The mean over each sample's tokens in `mask`, 0 where there is none, and then over samples."""
    return np.mean([values[sample][mask[sample]].mean() if mask[sample].any() else 0.0 for sample in range(len(mask))])


def reference_losses(model, batch, noise, bounds, presence):
    """The two losses of the chain, as its paper and code define them, for a chain of text, acoustic, visual."""
    weights = {name: value.double().numpy() for name, value in model.multimodal.state_dict().items()}
    states = model.base_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state.detach().double().numpy()
    values = states * presence["text"][:, None, None]
    words = batch["feature_mask"].numpy() & presence["text"][:, None]
    compression = target = 0.0
    for name, level_weight, target_weight in (("acoustic", 1.0, 8.0), ("visual", 0.3, 32.0)):
        hidden = np.maximum(linear(weights, f"levels.{name}.trunk.0", values), 0)
        mean = linear(weights, f"levels.{name}.mean_head", hidden)
        log_variance = linear(weights, f"levels.{name}.log_variance_head", hidden)
        divergence = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance))
        compression += level_weight * token_then_sample_mean(divergence.mean(-1), words)
        values = mean + noise[name].double().numpy() * np.exp(log_variance / 2)
        hidden = np.maximum(linear(weights, f"levels.{name}.predictor.0", values), 0)
        prediction = 1 / (1 + np.exp(-linear(weights, f"levels.{name}.predictor.3", hidden)))
        lowest, highest = bounds[name].tolist()
        features = (batch[name].double().numpy() - lowest) / (highest - lowest)
        error = ((prediction - features) ** 2).mean(-1)
        target += level_weight * target_weight * token_then_sample_mean(error, words & presence[name][:, None])
    return compression, target


@pytest.mark.parametrize("some_are_missing", [False, True])
def test_the_losses_are_those_of_the_paper(some_are_missing):
    model = make_ithp().train()
    batch = make_batch(model.config, LENGTHS)
    batch["feature_mask"] = torch.tensor([[0, 1, 1, 0, 1, 0, 0, 0]] * 4).bool() & batch["attention_mask"].bool()
    presence = {name: torch.ones(4, dtype=torch.bool) for name in ("text", *SIZES)}
    if some_are_missing:
        presence = {
            "text": torch.tensor([True, True, False, True]),
            "acoustic": torch.tensor([True, False, True, True]),
            "visual": torch.tensor([False, True, True, True]),
        }
    noise, bounds = make_noise(model), {"acoustic": torch.tensor([-4.0, 5.0]), "visual": torch.tensor([-3.0, 3.5])}
    output = model(**batch, modality_mask=presence, latent_noise=noise, feature_bounds=bounds)
    arrays = {name: present.numpy() for name, present in presence.items()}
    compression, target = reference_losses(model, batch, noise, bounds, arrays)
    assert output.losses["compression"].item() == pytest.approx(compression, rel=1e-4)
    assert output.losses["target"].item() == pytest.approx(target, rel=1e-4)
    task = (output.logits - batch["labels"]).square().mean()
    assert_close(output.losses["task"], task)
    # 2 / (8 + 32), the code's weight of the chain.
    assert output.loss.item() == pytest.approx(task.item() + 0.05 * (compression + target), rel=1e-4)


def test_the_compression_loss_is_the_divergence_of_two_normal_distributions():
    mean, log_variance = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [0, 1, 0]])
    code = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    divergence = torch.distributions.kl_divergence(code, torch.distributions.Normal(0.0, 1.0)).mean(-1)
    expected = ((divergence[0, 0] + divergence[0, 1]) / 2 + divergence[1, 1]) / 2
    assert_close(compression_loss(mean, log_variance, mask), expected)
    broken = torch.where(mask.bool()[..., None], mean, torch.nan)
    assert_close(compression_loss(broken, log_variance, mask), expected)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_voice_and_face_do_not_change_a_prediction(pooling):
    """The finding of `docs/peers.md`: they are targets of the training, and the published figures are of text."""
    model = make_ithp(pooling=pooling)
    batch = make_batch(model.config, LENGTHS)
    shuffled = batch | {name: batch[name][torch.tensor([2, 0, 3, 1])] for name in SIZES}
    absent = {name: value for name, value in batch.items() if name not in SIZES}
    masked = batch | {"modality_mask": dict.fromkeys(SIZES, torch.tensor([False, True, False, False]))}
    with torch.no_grad():
        expected = model(**batch).logits
        for changed in (shuffled, absent, masked):
            assert torch.equal(model(**changed).logits, expected)
        other_text = batch | {"input_ids": batch["input_ids"].roll(1, dims=0)}
        assert not torch.allclose(model(**other_text).logits, expected)
        assert model(**shuffled).losses["target"] != model(**batch).losses["target"]


def test_predictions_are_not_random_and_can_be_averaged_over_draws():
    model = make_ithp()
    batch = make_batch(model.config, LENGTHS, labels=False)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**batch).logits)
        torch.manual_seed(0)
        draws = model(**batch, num_samples=200)
        assert (draws.logits_std > 0).all()
        noise = make_noise(model)
        model.train()
        drawn = model(**batch, latent_noise=noise).logits
        assert torch.equal(model(**batch, latent_noise=noise).logits, drawn)
        assert not torch.allclose(model(**batch).logits, drawn)
    assert ((drawn - draws.logits).abs() < 6 * draws.logits_std).all()


def test_targets_are_normalised_by_running_bounds():
    model = make_ithp().train()
    batch = make_batch(model.config, LENGTHS)
    model(**batch)
    words = torch.nn.functional.pad(batch["attention_mask"][:, 2:], (1, 1)).bool()
    for name in SIZES:
        normalizer = model.multimodal.normalizers[name]
        assert_close(normalizer.maximum, batch[name][words].max())
    assert model.normalized_modalities == [*SIZES]


def test_the_chain_follows_the_order_and_any_number_of_modalities():
    sizes = SIZES | {"gaze": 2}
    model = make_ithp({"order": "text, visual, gaze, acoustic"}, modality_sizes=sizes)
    assert [*model.multimodal.levels] == ["visual", "gaze", "acoustic"]
    assert model.latent_noise_shapes(4) == {"visual": (4, 6), "gaze": (4, 3), "acoustic": (4, 1)}
    assert model.multimodal.levels["gaze"].trunk[0].in_features == 6
    assert [*make_ithp(modality_sizes=sizes).multimodal.levels] == ["acoustic", "gaze", "visual"]
    assert model(**make_batch(model.config, LENGTHS)).loss.isfinite()


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({"order": "acoustic,text,visual"}, {}, "must begin with text and name each of text,acoustic,visual once"),
        ({"order": "text,acoustic"}, {}, "order='text,acoustic' must begin with text"),
        ({"target_dropout": 1.0}, {}, r"architecture_options: target_dropout=1.0 must be in \[0, 1\)"),
        ({"bottleneck_size": 0}, {}, "bottleneck_size=0 must be at least 1"),
        ({"chain_weight": -1.0}, {}, "chain_weight=-1.0 must be finite and at least 0"),
        ({}, {"use_text": False}, "architecture='ithp' needs text"),
        ({}, {"modality_sizes": {}}, "architecture='ithp' combines at least 2 modalities"),
    ],
)
def test_what_does_not_fit_is_refused(options, fields, message):
    with pytest.raises(ValueError, match=message):
        make_config(architecture="ithp", architecture_options=options, **fields)
