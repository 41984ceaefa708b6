"""LoRA: what is computed and trained, that saved and loaded models are plain, and resumed runs."""

import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make_batch, make_model
from torch import nn
from training_cases import check_resumes_bit_for_bit, make_trainer

from modeling_cpsl.modeling_cpsl import CPSLForSentimentRegression
from modeling_cpsl.training.arguments import CPSLTrainingArguments
from modeling_cpsl.training.low_rank_adapters import LowRankAdapters


pytest.importorskip("peft")
SHORT = {"num_train_epochs": 2, "num_samples": 16}


def adapted(backbone, rank=2):
    """A model with adapters that have learnt something, the weights before, and the product of each adapter."""
    model = make_model(backbone)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapters = LowRankAdapters(model, rank)
    products = {}
    with torch.no_grad():
        for name, matrix in adapters.state_dict().items():
            matrix.normal_(std=0.3)
            products.setdefault(name.rpartition(".")[0], []).append(matrix.clone())
    prefix = model.base_model_prefix
    return model, adapters, before, {f"{prefix}.{name}.weight": 2 * b @ a for name, (a, b) in products.items()}


@pytest.mark.parametrize("backbone", ["deberta", "bert", "mpnet"])
def test_the_state_is_that_of_a_plain_model_with_the_products_added(backbone):
    model, adapters, before, products = adapted(backbone)
    linear = [name for name, layer in model.base_model.named_modules() if type(layer) is nn.Linear]
    assert len(products) == len(adapters.layers) > 0 and not {*products} & {*linear}
    state = model.state_dict()
    assert [*state] == [*before]
    for name, value in before.items():
        expected = value + products[name] if name in products else value
        torch.testing.assert_close(state[name], expected, atol=1e-6, rtol=1e-6, msg=name)

    batch = make_batch(model.config)
    with torch.no_grad():
        logits = model(**batch).logits
        adapters.merge()
        merged = model(**batch).logits
    torch.testing.assert_close(merged, logits, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {type(layer).__module__.partition(".")[0] for layer in model.modules()} <= {
        "torch",
        "transformers",
        "modeling_cpsl",
    }


def test_a_plain_state_is_loaded_whole():
    model, adapters, _, _ = adapted("deberta")
    other = make_model("deberta", seed=1).state_dict()
    assert model.load_state_dict(other).missing_keys == []
    for name, value in model.state_dict().items():
        assert torch.equal(value, other[name]), name
    adapters.merge()
    for name, value in model.state_dict().items():
        assert torch.equal(value, other[name]), name


def test_only_adapters_of_the_encoder_learn_and_the_saved_model_is_plain(tmp_path):
    trainer = make_trainer(tmp_path, lora_rank=2, save_strategy="epoch", **SHORT)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    saved = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    after = trainer.model.state_dict()
    assert [*after] == [*before] and saved.keys() == after.keys()
    linear = {
        f"deberta.{name}.weight" for name, layer in trainer.model.deberta.named_modules() if type(layer) is nn.Linear
    }
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name for name in moved if name.startswith("deberta.")} == linear
    for name in linear:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 2, name
    loaded = CPSLForSentimentRegression.from_pretrained(tmp_path / "run" / "checkpoint-4")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, after[name]), name
    trainer.train()  # anew, from where it is


def test_the_best_epoch_is_kept(tmp_path):
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": None, "num_train_epochs": 3}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "mae", "greater_is_better": True}
    trainer = make_trainer(tmp_path, lora_rank=2, num_samples=16, **options)
    trainer.train()
    best = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, best[name]), name
    assert trainer.evaluate()["eval_mae"] == pytest.approx(trainer.state.best_metric, rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"weight_averaging": "ema", "layer_learning_rate_decay": 0.5}], ids=str)
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, options):
    check_resumes_bit_for_bit(tmp_path, lora_rank=2, **options)


def test_a_checkpoint_of_another_rank_or_encoder_is_refused(tmp_path):
    make_trainer(tmp_path, lora_rank=2, save_strategy="epoch", **SHORT).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-4")
    with pytest.raises(ValueError, match="lora_rank is another than before"):
        make_trainer(tmp_path, lora_rank=3, **SHORT).train(resume_from_checkpoint=checkpoint)
    trainer = make_trainer(tmp_path, lora_rank=2, **SHORT)
    with torch.no_grad():
        trainer.model.deberta.encoder.layer[0].output.dense.weight.add_(0.1)
    with pytest.raises(ValueError, match="belong to a text encoder with other weights"):
        trainer.train(resume_from_checkpoint=checkpoint)


def test_a_model_without_text_and_a_given_optimizer(tmp_path):
    make_trainer(tmp_path, lora_rank=2, config_fields={"use_text": False}, **SHORT).train()
    trainer = make_trainer(tmp_path, lora_rank=2, **SHORT)
    trainer.optimizer = torch.optim.AdamW(trainer.model.parameters())
    with pytest.raises(ValueError, match="lora_rank=2: an optimizer that is given has the parameters of the encoder"):
        trainer.train()


def test_it_says_what_is_to_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"^lora_rank needs peft; say pip install 'cpsl\[lora\]'$"):
        make_trainer(tmp_path, lora_rank=2, **SHORT).train()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lora_rank": 0}, "lora_rank=0 must be at least 1"),
        ({"lora_rank": 4, "freeze_encoder": True}, "lora_rank has no effect with freeze_encoder"),
    ],
)
def test_what_cannot_be(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        CPSLTrainingArguments(str(tmp_path), use_cpu=True, **options)
