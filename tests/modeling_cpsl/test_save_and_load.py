"""Saving and loading: our own checkpoints, and plain text encoders' of every architecture and with other heads."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from modeling_cpsl import CPSLConfig, CPSLForSentimentRegression
from modeling_cpsl.modeling_cpsl import CPSL_MODELS


THREE = {"acoustic": 5, "timing": 2, "visual": 3}
each_backbone = pytest.mark.parametrize("backbone", ["deberta", "bert", "mpnet"])
each_fusion = pytest.mark.parametrize("fusion", ["gated", "concat", "sum", "attention", "attention_gate"])
HEADS = {
    "encoder": AutoModel,
    "masked_lm": AutoModelForMaskedLM,
    "classification": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
}


def assert_same_logits(one, other):
    """Equal weights at other addresses: the kernels may sum in another order."""
    assert_close(one, other, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def plain_folder(plain_config, tmp_path_factory):
    """`plain_folder(backbone, head)`: a saved plain checkpoint whose every tensor was drawn from N(0, 1)."""

    def save(backbone, head):
        torch.manual_seed(5)
        model = HEADS[head].from_config(plain_config(backbone, num_labels=2))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        folder = tmp_path_factory.mktemp(f"{backbone}-{head}")
        model.save_pretrained(folder)
        return folder, model.base_model.state_dict()

    return save


@each_backbone
@pytest.mark.parametrize("head", HEADS)
def test_a_plain_checkpoint_keeps_every_tensor_and_new_ones_are_bounded(
    make_model, make_batch, plain_folder, backbone, head
):
    folder, tensors = plain_folder(backbone, head)
    plain = AutoConfig.from_pretrained(folder)
    model_class = CPSL_MODELS[plain.model_type]
    assert model_class is type(make_model(backbone))
    config = model_class.config_class.from_backbone(plain, modality_sizes=THREE, classifier_dropout=0.5)
    model, info = model_class.from_pretrained(folder, config=config, dtype=torch.float32, output_loading_info=True)

    loaded = model.base_model.state_dict()
    assert loaded.keys() == {name for name in tensors if not name.startswith("pooler.")}
    for name, value in loaded.items():
        assert torch.equal(value, tensors[name]), name
    new = {name for name, _ in model.named_parameters() if not name.startswith(model.base_model_prefix)}
    new |= {name for name, _ in model.named_buffers() if name.startswith("multimodal.")}
    assert set(info["missing_keys"]) == new
    assert not info["mismatched_keys"]
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name
        if name in new:
            assert value.abs().max() <= 10, name
    for normalizer in model.multimodal.normalizers.values():
        assert (normalizer.minimum, normalizer.maximum, normalizer.num_updates) == (0.0, 1.0, 0)
    output = model.train()(**make_batch(config))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@each_backbone
def test_new_weights_are_the_same_loaded_or_made(make_config, plain_folder, backbone):
    """The meta device has its own path through the initialiser; scales must agree with a model made directly."""
    folder, _ = plain_folder(backbone, "encoder")
    config = make_config(backbone, latent_size=64, modality_hidden_size=64, fusion_size=64)
    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_config(config)
    loaded = type(made).from_pretrained(folder, config=made.config, dtype=torch.float32)
    others = loaded.multimodal.state_dict()
    for name, value in made.multimodal.state_dict().items():
        if value.dim() < 2:
            assert torch.equal(others[name], value), name
        elif value.numel() > 500:
            assert_close(others[name].std(), value.std(), rtol=0.2, atol=0.0)
            assert others[name].mean().abs() < 0.1 * value.std()


@each_backbone
@each_fusion
@pytest.mark.parametrize("ame", [True, False])
def test_save_and_load_give_the_same_logits(make_model, make_batch, tmp_path, backbone, fusion, ame):
    model = make_model(backbone, modality_sizes=THREE, fusion=fusion, ame=ame)
    batch = make_batch(model.config)
    model.train()(**batch)  # moves the running bounds away from 0 and 1
    expected = model.eval()(**batch)
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert_same_logits(loaded.eval()(**batch).logits, expected.logits)
    auto = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(auto) is type(model)
    assert_same_logits(auto.eval()(**batch).logits, expected.logits)


@each_backbone
def test_running_bounds_are_saved(make_model, make_batch, tmp_path, backbone):
    model = make_model(backbone).train()
    batch = make_batch(model.config)
    model(**batch)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    for name in ("acoustic", "visual"):
        values = batch[name][:, 1:-1][batch["attention_mask"][:, 2:].bool()]
        assert saved[f"multimodal.normalizers.{name}.minimum"] == values.min()
        assert saved[f"multimodal.normalizers.{name}.maximum"] == values.max()
        assert saved[f"multimodal.normalizers.{name}.num_updates"] == 1


@each_fusion
def test_the_order_of_modalities_in_the_config_does_not_matter(make_model, make_batch, tmp_path, fusion):
    orders = [dict(sorted(THREE.items(), key=lambda item: item[1])), THREE]
    assert list(orders[0]) != list(orders[1])
    models = [make_model(modality_sizes=order, fusion=fusion) for order in orders]
    batch = make_batch(models[0].config)
    assert torch.equal(models[0](**batch).logits, models[1](**batch).logits)
    models[0].save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["modality_sizes"] = {name: saved["modality_sizes"][name] for name in ("visual", "acoustic", "timing")}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    loaded = type(models[0]).from_pretrained(tmp_path)
    assert_same_logits(loaded(**batch).logits, models[0](**batch).logits)


@each_backbone
def test_from_config(make_config, backbone):
    config = make_config(backbone)
    model = AutoModelForSequenceClassification.from_config(config)
    assert type(model).config_class is type(config)
    assert all(value.isfinite().all() for value in model.state_dict().values())


@each_backbone
def test_half_precision_evaluates(make_model, make_batch, tmp_path, backbone):
    model = make_model(backbone)
    batch = make_batch(model.config)
    model.save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    output = half(**batch)
    assert output.loss.isfinite()
    assert_close(output.logits.float(), model(**batch).logits, rtol=0.1, atol=0.1)


@pytest.mark.slow
@each_backbone
@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_a_graph_break(make_model, make_batch, backbone, training):
    """The graph is captured whole; the `eager` backend leaves out the code generation, which needs a compiler."""
    model = make_model(backbone, ame=False).train(training)
    batch = make_batch(model.config)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(compiled(**batch).loss, model(**batch).loss)


@each_backbone
def test_a_text_encoder_that_takes_no_part_stays_frozen(make_model, plain_folder, tmp_path, backbone):
    """DDP waits in vain for the gradient of a trainable parameter that takes no part."""
    folder, _ = plain_folder(backbone, "encoder")
    for use_text in (True, False):
        model = make_model(backbone, use_text=use_text)
        model.save_pretrained(tmp_path)
        loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        plain = type(model).from_pretrained(folder, config=model.config)
        automatic = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        for name, one in {"fresh": model, "own": loaded, "plain": plain, "auto": automatic}.items():
            assert {p.requires_grad for p in one.base_model.parameters()} == {use_text}, name
            assert all(parameter.requires_grad for parameter in one.multimodal.parameters())


@pytest.mark.parametrize(
    ("fields", "mixing"),
    [({"fusion": "gated"}, "gate."), ({"fusion": "concat"}, "projection."), ({"architecture": "late"}, "")],
)
def test_weights_of_modalities_by_their_place_are_new_for_other_modalities(make_model, tmp_path, fields, mixing):
    """`acoustic, visual` becomes `acoustic, aroma`, then `face, voice`, which are as many."""
    before = make_model(**fields, modality_sizes={"acoustic": 5, "visual": 5})
    before.save_pretrained(tmp_path)
    load = functools.partial(CPSLForSentimentRegression.from_pretrained, tmp_path, output_loading_info=True)
    name = f"multimodal.fusion.{mixing}weight"
    same, info = load(modality_sizes={"visual": 5, "acoustic": 5})
    assert torch.equal(same.state_dict()[name], before.state_dict()[name]) and not info["missing_keys"]
    for names in (("acoustic", "aroma"), ("face", "voice")):
        other, info = load(modality_sizes=dict.fromkeys(names, 5))
        new, bias = other.state_dict()[name], other.state_dict()[name.replace("weight", "bias")]
        assert name in info["missing_keys"] and not torch.isclose(new, before.state_dict()[name]).any()
        bound = (6 / sum(new.shape)) ** 0.5
        assert 0.8 * bound < new.abs().max() <= bound and not bias.any()
        kept = [part for part in ("acoustic",) if part in names]
        assert all(f"multimodal.encoders.{part}.trunk.0.weight" not in info["missing_keys"] for part in kept)


@pytest.mark.parametrize(("architecture", "part"), [("mult", "memories"), ("ithp", "levels"), ("primary", "selector")])
def test_parts_that_read_others_by_their_place_are_new_for_other_modalities(make_model, tmp_path, architecture, part):
    before = make_model(architecture=architecture, modality_sizes={"acoustic": 5, "visual": 5})
    before.save_pretrained(tmp_path)
    load = functools.partial(CPSLForSentimentRegression.from_pretrained, tmp_path, output_loading_info=True)
    assert not load()[1]["missing_keys"]
    other, info = load(modality_sizes={"aroma": 5, "visual": 5})
    names = [name for name, _ in other.named_parameters() if f".{part}." in name]
    assert names and {*names} <= {*info["missing_keys"]}
    kept, matrices = before.state_dict(), [name for name in names if other.state_dict()[name].ndim == 2]
    assert not any(name in kept and torch.isclose(kept[name], other.state_dict()[name]).all() for name in matrices)


class TestCalibration:
    @pytest.fixture
    def folder(self, make_model, tmp_path):
        make_model(interval_half_widths={"text": 1.0}, interval_coverage=0.9).save_pretrained(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("options", [{}, {"dtype": "float32"}])
    def test_it_comes_with_its_weights(self, folder, options):
        same, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True, **options)
        assert same.config.interval_half_widths == {"text": 1.0} and not info["missing_keys"]

    @pytest.mark.parametrize(
        "options",
        [
            {"fusion": "concat"},
            {"fusion": "sum"},
            {"ame": False},
            {"pooling": "cls", "modality_sizes": {}},
            {"residual_weight": 0.5},
            {"num_hidden_layers": 1},
        ],
    )
    @pytest.mark.parametrize("given_as", ["options", "config", "class"])
    def test_it_does_not_outlive_weights_that_are_new_or_left_out_and_options_that_change(
        self, folder, options, given_as
    ):
        model_class = CPSLForSentimentRegression if given_as == "class" else AutoModelForSequenceClassification
        if given_as == "config":
            options = {"config": AutoConfig.from_pretrained(folder, **options)}
        other = model_class.from_pretrained(folder, **options)
        assert other.config.interval_half_widths is other.config.interval_coverage is None

    def test_it_stays_with_the_configuration_that_it_was_saved_with(self, folder):
        config = CPSLConfig.from_pretrained(folder)
        for options in ({"config": config}, {"config": folder}, {"residual_weight": 1.0}):
            same = CPSLForSentimentRegression.from_pretrained(folder, **options)
            assert same.config.interval_half_widths == {"text": 1.0}

    def test_another_one_can_be_given(self, folder):
        other = AutoModelForSequenceClassification.from_pretrained(folder, interval_half_widths={"text": 2.0})
        assert other.config.interval_half_widths == {"text": 2.0}


class TestBounds:
    @pytest.fixture
    def trained(self, make_model, make_batch):
        """A model whose encoders have seen data."""
        model = make_model().train()
        model(**make_batch(model.config))
        return model

    def test_an_encoder_of_another_size_has_seen_nothing(self, trained, tmp_path):
        trained.save_pretrained(tmp_path)
        options = {"modality_sizes": {"acoustic": 5, "visual": 4}, "ignore_mismatched_sizes": True}
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, **options).multimodal.normalizers
        assert {name: value.item() for name, value in loaded["visual"].named_buffers()} == {
            "minimum": 0.0, "maximum": 1.0, "num_updates": 0,
        }  # fmt: skip
        assert loaded["acoustic"].state_dict() == trained.multimodal.normalizers["acoustic"].state_dict()

    @pytest.mark.parametrize("pooled", [True, False])
    def test_a_frozen_encoder_keeps_those_that_it_was_fitted_to(self, trained, make_batch, tmp_path, pooled):
        """As an adapter trains a model: what it changes, put on the saved model, makes the same predictions."""
        trained.save_pretrained(tmp_path)
        trained.requires_grad_(False)
        trained.multimodal.out_proj.requires_grad_(True)
        batch = make_batch(trained.config, seed=1)
        batch |= {name: batch[name] * 5 for name in trained.config.modality_sizes}
        if pooled:
            bounds = {name: torch.tensor([-9.0, 9.0]) for name in trained.config.modality_sizes}
            trained.update_feature_bounds(bounds)
            batch["feature_bounds"] = bounds
        trained(**batch).loss.backward()
        with torch.no_grad():
            trained.multimodal.out_proj.weight -= trained.multimodal.out_proj.weight.grad
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        again.multimodal.out_proj.load_state_dict(trained.multimodal.out_proj.state_dict())
        assert_same_logits(again(**batch).logits, trained.eval()(**batch).logits)

    def test_a_frozen_encoder_that_has_seen_nothing_takes_those_of_the_first_step(self, make_model, make_batch):
        model = make_model().train().requires_grad_(False)
        batch = make_batch(model.config)
        model(**batch)
        assert model.multimodal.normalizers["acoustic"].num_updates == 1
        assert model.multimodal.normalizers["acoustic"].minimum < 0
