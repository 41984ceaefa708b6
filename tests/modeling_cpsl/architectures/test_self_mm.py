"""Self-MM: the update of its labels by hand and against plain loops, and what its heads learn from them."""

import math

import numpy as np
import pytest
import torch
from tiny_models import make_batch, make_model
from torch.testing import assert_close

from modeling_cpsl import CPSLConfig
from modeling_cpsl.self_mm_cpsl import relative_distances, unimodal_labels


NAN = math.nan


def test_labels_of_four_samples_by_hand():
    """On a line: all modalities together at 3, 1, -1, -5 and one modality at 0, 4, 0, 8; labels 2, 1, -1, -3."""
    labels = torch.tensor([2.0, 1.0, -1.0, -3.0])
    fused, single = torch.tensor([[3.0], [1.0], [-1.0], [-5.0]]), torch.tensor([[0.0], [4.0], [0.0], [8.0]])
    # Together, positive samples have their mean at 2 and negative ones at -3: distances 1, 1, 3, 7 and 6, 4, 2, 2.
    assert_close(relative_distances(fused, labels), torch.tensor([5.0, 3.0, -1 / 3, -5 / 7]))
    # The modality alone at 2 and 4: distances 2, 2, 2, 6 and 4, 0, 4, 4.
    alpha = [1.0, -1.0, 1.0, -1 / 3]
    assert_close(relative_distances(single, labels), torch.tensor(alpha))
    new = [
        (2 * 1 / 5 + (2 + 1 - 5)) / 2,  # -0.8
        (1 * -1 / 3 + (1 - 1 - 3)) / 2,  # -5/3
        (-1 * 1 / (-1 / 3) + (-1 + 1 + 1 / 3)) / 2,  # 5/3
        (-3 * (-1 / 3) / (-5 / 7) + (-3 - 1 / 3 + 5 / 7)) / 2,  # -2.0095
    ]
    expected = [y / 3 + 2 / 3 * y_new for y, y_new in zip([2, 1, -1, -3], new, strict=True)]
    # Before the second epoch: each modality begins with the labels of the samples.
    found = unimodal_labels(fused, [single], labels, torch.full((4, 1), NAN), epoch=2)
    assert_close(found, torch.tensor(expected)[:, None])


def reference(fused, representations, labels, earlier, epoch):
    """Sample by sample, in NumPy."""

    def distances(values, own):
        known = [k for k in range(len(values)) if not np.isnan(values[k]).any()]
        positive = np.mean([values[k] for k in known if own[k] > 0], axis=0)
        negative = np.mean([values[k] for k in known if own[k] < 0], axis=0)
        to = [[np.sqrt(((v - center) ** 2).sum()) for v in values] for center in (positive, negative)]
        return [(n - p) / (p + 1e-8) for p, n in zip(*to, strict=True)]

    of_all, updated = distances(fused, labels), np.empty_like(earlier)
    for m, values in enumerate(representations):
        own = [y if np.isnan(before) else before for before, y in zip(earlier[:, m], labels, strict=True)]
        for k, alpha in enumerate(distances(values, own)):
            shifted = labels[k] + alpha - of_all[k]
            new = (labels[k] * alpha / of_all[k] + shifted) / 2 if abs(of_all[k]) >= 1e-2 else shifted
            new = min(max(new, -3.0), 3.0) if np.isfinite(new) else NAN
            mixed = ((epoch - 1) * own[k] + 2 * new) / (epoch + 1)
            updated[k, m] = own[k] if np.isnan(mixed) else mixed
    return updated


@pytest.mark.parametrize("epoch", [2, 3, 10])
def test_labels_are_those_of_plain_loops(epoch):
    generator = np.random.default_rng(epoch)
    labels = generator.uniform(-3, 3, 40)
    fused = generator.normal(size=(40, 5)) + labels[:, None]
    representations = [generator.normal(size=(40, size)) + labels[:, None] / 2 for size in (3, 4)]
    representations[1][::7] = NAN  # a modality that some samples lack
    earlier = np.where(generator.random((40, 2)) < 0.3, NAN, generator.uniform(-3, 3, (40, 2)))
    labels[5] = fused[5] = NAN  # a sample that was not seen yet
    for values in representations:
        values[5] = NAN
    earlier[5] = NAN
    expected = reference(fused, representations, labels, earlier, epoch)
    arguments = [torch.from_numpy(values) for values in (fused, labels, earlier)]
    found = unimodal_labels(
        arguments[0], [torch.from_numpy(values) for values in representations], *arguments[1:], epoch
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    assert np.abs(found.numpy()[~np.isnan(expected)]).max() <= 3
    assert found[5].isnan().all()
    np.testing.assert_array_equal(
        found[::7, 1].numpy(), np.where(np.isnan(earlier[::7, 1]), labels[::7], earlier[::7, 1])
    )


def test_where_the_whole_says_nothing_the_difference_alone_counts():
    """The last sample is as far from positive samples as from negative ones; it is neither, and moves no mean."""
    labels = torch.tensor([1.0, -1.0, 0.0])
    fused, single = torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([[1.0], [-1.0], [0.5]])
    alpha = (1.5 - 0.5) / 0.5
    found = unimodal_labels(fused, [single], labels, torch.full((3, 1), NAN), epoch=2)
    assert_close(found[2, 0], torch.tensor(2 / 3 * alpha))
    assert found.isfinite().all()


def test_without_a_negative_sample_the_labels_stay():
    labels, values = torch.tensor([1.0, 2.0]), torch.randn(2, 3)
    assert torch.equal(unimodal_labels(values, [values], labels, torch.full((2, 1), NAN), 2), labels[:, None])


@pytest.fixture
def model():
    return make_model(architecture="self_mm", task_loss="l1").train()


def head_gradients(model, **inputs):
    model.zero_grad()
    output = model(**make_batch(model.config), **inputs)
    output.loss.backward()
    return output, [parameter.grad for parameter in model.multimodal.unimodal_heads.parameters()]


def test_heads_learn_nothing_before_they_have_labels_of_their_own(model):
    """They get gradients of 0, which DDP needs, and have no part in gradient modulation."""
    labels = make_batch(model.config)["labels"]
    for given in ({}, {"sample_values": {"unimodal_labels": labels[:, None].expand(-1, 3)}}):
        output, gradients = head_gradients(model, **given)
        assert output.losses["unimodal"] == 0.0 and output.loss == output.losses["task"]
        assert not any(gradient.any() for gradient in gradients)
    assert model(**make_batch(model.config)).modality_errors is None
    assert model.eval()(**make_batch(model.config)).modality_errors.keys() == {"text", "acoustic", "visual"}


def test_each_head_learns_its_own_labels_by_their_distance(model):
    own = torch.tensor([[2.0, -1.0, NAN], [0.5, 1.0, 2.0], [-3.0, 3.0, 0.0]])
    missing = {"modality_mask": {"visual": torch.tensor([True, True, False])}}
    output, gradients = head_gradients(model, sample_values={"unimodal_labels": own}, **missing)
    labels, expected = make_batch(model.config)["labels"], 0.0
    for column, name in enumerate(("text", "acoustic", "visual")):
        for sample in range(3):
            if not math.isnan(own[sample, column]) and not (name == "visual" and sample == 2):
                weight = math.tanh(abs(own[sample, column] - labels[sample]))
                expected += weight * abs(output.unimodal_logits[name][sample].item() - own[sample, column].item()) / 3
        assert_close(output.modality_errors[name][:2], (output.unimodal_logits[name] - labels).abs().detach()[:2])
    assert output.losses["unimodal"].item() == pytest.approx(expected, rel=1e-5)
    assert_close(output.loss, output.losses["task"] + output.losses["unimodal"])
    assert all(gradient.any() for gradient in gradients)
    assert output.sample_values["representation_visual"][2].isnan().all()
    widths = {name: values.shape[1] for name, values in output.sample_values.items()}
    assert widths | {"unimodal_labels": 3} == model.sample_columns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
        ({"fusion_size": 0}, "fusion_size=0 must be at least 1"),
        ({"unimodal_weight": -0.5}, "unimodal_weight=-0.5 must be finite and at least 0"),
        ({"modality_size": "32"}, "modality_size"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=f"architecture_options: .*{message}"):
        CPSLConfig(architecture="self_mm", architecture_options=options)


def test_what_reads_modalities_by_their_place_is_new_for_other_modalities(tmp_path):
    before = make_model(architecture="self_mm", modality_sizes={"acoustic": 5, "visual": 5})
    before.save_pretrained(tmp_path)
    other, info = type(before).from_pretrained(
        tmp_path, modality_sizes={"acoustic": 5, "aroma": 5}, output_loading_info=True
    )
    name = "multimodal.fusion.representation.1.weight"
    assert name in info["missing_keys"]
    assert not torch.isclose(other.state_dict()[name], before.state_dict()[name]).any()
    assert torch.equal(
        other.multimodal.encoders["acoustic"].projection.weight,
        before.multimodal.encoders["acoustic"].projection.weight,
    )
