"""MISA against its equations in NumPy, its losses over a batch, and the batches that are too small for them."""

import itertools

import numpy as np
import pytest
import torch
from tiny_models import SIZES, make_batch, make_config, make_model
from torch import nn
from torch.testing import assert_close
from training_cases import make_trainer

from modeling_cpsl.misa_cpsl import UtteranceEncoder, central_moment_discrepancy, difference_loss


OPTIONS = {"size": 6, "dropout": 0.0, "transformer_dropout": 0.0}
LENGTHS = (8, 6, 3, 7, 5, 8, 4, 6)
NAMES = ["text", *SIZES]


def make_misa(options=None, **fields):
    return make_model(architecture="misa", architecture_options=OPTIONS | (options or {}), **fields)


def cmd(one, other):
    """CMD_5 as in the released code, in NumPy."""
    means = one.mean(0), other.mean(0)
    total = np.sqrt(((means[0] - means[1]) ** 2).sum())
    for order in (2, 3, 4, 5):
        moments = [((values - mean) ** order).mean(0) for values, mean in zip((one, other), means, strict=True)]
        total += np.sqrt(((moments[0] - moments[1]) ** 2).sum())
    return total


def diff(one, other):
    """The difference loss of two representations as in the released code, in NumPy."""
    rows = []
    for values in (one, other):
        centred = values - values.mean(0)
        rows.append(centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6))
    return ((rows[0].T @ rows[1]) ** 2).mean()


@pytest.mark.parametrize(("loss", "reference"), [(central_moment_discrepancy, cmd), (difference_loss, diff)])
def test_a_loss_over_the_batch_is_that_of_the_code(loss, reference):
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 7, 5, generator=generator)
    everyone = torch.ones(7, dtype=torch.bool)
    assert loss(one, other, everyone).item() == pytest.approx(reference(one.numpy(), other.numpy()), rel=1e-4)
    some = torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()
    expected = reference(one[some].numpy(), other[some].numpy())
    broken = torch.where(some[:, None], one, torch.nan)
    assert loss(broken, other, some).item() == pytest.approx(expected, rel=1e-4)


def test_equal_representations_have_a_gradient():
    one = torch.rand(5, 3, requires_grad=True)
    everyone = torch.ones(5, dtype=torch.bool)
    loss = central_moment_discrepancy(one, one.detach().clone(), everyone)
    loss.backward()
    assert loss < 1e-5
    assert torch.equal(one.grad, torch.zeros(5, 3))


def test_an_utterance_is_the_last_states_of_two_stacked_lstms():
    torch.manual_seed(0)
    encoder = UtteranceEncoder(3)
    rows, lengths = torch.randn(2, 5, 3), torch.tensor([5, 2])
    encoded = encoder(torch.where(torch.arange(5)[:, None] < lengths[:, None, None], rows, 9.0), lengths)
    for sample, length in enumerate(lengths):
        values, last = rows[sample : sample + 1, :length], []
        for part in (encoder.first, encoder.second):
            reference = nn.LSTM(values.shape[2], 3, batch_first=True, bidirectional=True)
            directions = zip(part.directions, ("", "_reverse"), strict=True)
            reference.load_state_dict(
                {f"{name}{end}": value for lstm, end in directions for name, value in lstm.state_dict().items()}
            )
            states, (final, _) = reference(values)
            last.append(final[:, 0].flatten())
            values = encoder.norm(states)
        assert_close(encoded[sample], torch.cat(last))


def representations(model, batch):
    """What the model computes for a batch by the names of the parts that compute it, in NumPy."""
    found, parts = {}, model.multimodal
    named = {f"{kind}.{name}": getattr(parts, kind)[name] for kind in ("projections", "private") for name in NAMES}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: found.update({name: output}))
        for name, module in named.items()
    ]
    shared = []
    hooks.append(parts.shared.register_forward_hook(lambda module, inputs, output: shared.append(output)))
    output = model(**batch)
    for hook in hooks:
        hook.remove()
    found |= {f"shared.{name}": values for name, values in zip(NAMES, shared, strict=True)}
    return output, {name: values.detach().double().numpy() for name, values in found.items()}


def test_the_losses_are_those_of_the_paper():
    model = make_misa()
    batch = make_batch(model.config, LENGTHS)
    output, found = representations(model, batch)
    private, shared = (
        {name: 1 / (1 + np.exp(-found[f"{kind}.{name}"])) for name in NAMES} for kind in ("private", "shared")
    )
    pairs = list(itertools.combinations(NAMES, 2))
    similarity = np.mean([cmd(shared[one], shared[other]) for one, other in pairs])
    difference = sum(diff(private[name], shared[name]) for name in NAMES)
    difference += sum(diff(private[one], private[other]) for one, other in pairs)
    reconstruction = 0.0
    for name in NAMES:
        decoder = model.multimodal.decoders[name]
        rebuilt = (private[name] + shared[name]) @ decoder.weight.detach().double().numpy().T
        rebuilt += decoder.bias.detach().double().numpy()
        reconstruction += ((rebuilt - found[f"projections.{name}"]) ** 2).mean() / 3
    expected = {"difference": difference, "similarity": similarity, "reconstruction": reconstruction}
    for name, value in expected.items():
        assert output.losses[name].item() == pytest.approx(value, rel=1e-4), name
    total = output.losses["task"].item() + 0.3 * difference + similarity + reconstruction
    assert output.loss.item() == pytest.approx(total, rel=1e-4)


def test_losses_over_a_batch_depend_on_how_samples_are_cut_into_batches():
    """The finding of `docs/peers.md`: of these losses, two micro-batches of 4 are not a batch of 8."""
    model = make_misa()
    batch = make_batch(model.config, LENGTHS)
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 4), slice(4, 8))]
    with torch.no_grad():
        whole, parts = model(**batch), [model(**half) for half in halves]
    assert_close(torch.cat([part.logits for part in parts]), whole.logits)
    means = {name: (parts[0].losses[name] + parts[1].losses[name]) / 2 for name in whole.losses}
    for name in ("task", "reconstruction"):
        assert_close(means[name], whole.losses[name])
    for name in ("difference", "similarity"):
        assert abs(means[name] / whole.losses[name] - 1) > 0.05


def test_a_modality_that_samples_lack_is_left_out_of_the_losses():
    model = make_misa()
    batch = make_batch(model.config, LENGTHS)
    has = torch.tensor([True, False, True, True, True, False, True, True])
    batch["modality_mask"] = {"acoustic": has}
    other = batch | {"acoustic": torch.where(has[:, None, None], batch["acoustic"], 5.0)}
    with torch.no_grad():
        for name, loss in model(**batch).losses.items():
            assert torch.equal(loss, model(**other).losses[name])
        too_few = batch | {"modality_mask": dict.fromkeys(SIZES, torch.arange(8) < 3)}
        losses = model(**too_few).losses
    assert losses["similarity"] == 0  # no pair of modalities has 4 samples with both
    assert losses["difference"] > 0  # the text's own


def test_a_sample_without_any_modality_changes_nothing_else():
    model = make_misa().train()
    batch = make_batch(model.config, LENGTHS)
    batch["modality_mask"] = dict.fromkeys(NAMES, torch.arange(8) > 0)
    output = model(**batch)
    assert output.logits.isfinite().all()
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.multimodal.parameters())


def test_a_batch_that_is_too_small_has_no_losses_over_it(tmp_path):
    model = make_misa()
    with torch.no_grad():
        losses = model(**make_batch(model.config, LENGTHS[:3])).losses
    assert losses["difference"] == losses["similarity"] == 0
    assert losses["task"] > 0
    assert losses["reconstruction"] > 0
    # 19 samples in batches of 16 leave 3, as the 1,283 of CMU-MOSI do.
    trainer = make_trainer(
        tmp_path, num_samples=19, config_fields={"architecture": "misa"}, num_train_epochs=1,
        per_device_train_batch_size=16,
    )  # fmt: skip
    trainer.train()
    assert [len(samples) for samples in trainer.samples] == [16, 3]
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_configured_batch_that_is_too_small_is_refused(tmp_path):
    message = "per_device_train_batch_size=3: .* statistics of a batch and need at least 4 samples"
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, config_fields={"architecture": "misa"}, per_device_train_batch_size=3)


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({"size": 7}, {}, "architecture_options: size=7 must be a multiple of 2"),
        ({"dropout": -0.1}, {}, r"dropout=-0.1 must be in \[0, 1\)"),
        ({"similarity_weight": float("inf")}, {}, "similarity_weight=inf must be finite and at least 0"),
        ({}, {"modality_sizes": {}}, "architecture='misa' combines at least 2 modalities"),
        ({}, {"pooling": "cls"}, "pooling='cls' has no effect with architecture='misa'"),
    ],
)
def test_what_does_not_fit_is_refused(options, fields, message):
    with pytest.raises(ValueError, match=message):
        make_config(architecture="misa", architecture_options=options, **fields)


def test_voice_and_face_do_without_text_and_beside_others():
    for fields in ({"use_text": False}, {"modality_sizes": SIZES | {"gaze": 2}}):
        model = make_misa(**fields)
        assert model(**make_batch(model.config, LENGTHS)).loss.isfinite()
