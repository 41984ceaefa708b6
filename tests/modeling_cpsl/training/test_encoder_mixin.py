"""A text encoder that is frozen: what stays, what learns, what is computed, and resumed runs."""

import pytest
import torch
from tiny_models import make_batch, make_model
from training_cases import check_resumes_bit_for_bit, make_trainer

from modeling_cpsl.training.arguments import CPSLTrainingArguments
from modeling_cpsl.training.encoder_mixin import frozen


SHORT = {"num_train_epochs": 2, "num_samples": 16}


@pytest.mark.parametrize("architecture", ["cpsl", "mag"])
def test_a_frozen_encoder_stays_bit_for_bit_and_all_else_learns(tmp_path, architecture):
    """The gate of MAG, which works inside the encoder, is new and learns too."""
    fields = {"architecture": architecture}
    trainer = make_trainer(tmp_path, freeze_encoder=True, config_fields=fields, weight_decay=0.1, **SHORT)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    in_optimizer = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
    for name, weight in trainer.model.named_parameters():
        is_encoder = name.startswith("deberta.")
        assert torch.equal(weight, before[name]) == is_encoder, name
        assert (id(weight) in in_optimizer) != is_encoder, name
        assert weight.requires_grad, name


def test_a_training_is_that_of_the_parts_above_the_encoder(tmp_path):
    """As with a learning rate of 0 for the encoder, in a model without dropout."""
    frozen_run = make_trainer(
        tmp_path / "frozen", freeze_encoder=True, max_grad_norm=0, latent_noise="sample", **SHORT
    )
    still = make_trainer(
        tmp_path / "still", encoder_learning_rate=0.0, max_grad_norm=0, latent_noise="sample", **SHORT
    )
    for trainer in (frozen_run, still):
        trainer.train()
    for name, weight in frozen_run.model.state_dict().items():
        torch.testing.assert_close(weight, still.model.state_dict()[name], atol=1e-6, rtol=1e-5, msg=name)


def test_a_frozen_encoder_drops_nothing_out():
    model = make_model()
    batch = make_batch(model.config)
    for module in model.deberta.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5

    def states():
        return model.deberta(batch["input_ids"], batch["attention_mask"]).last_hidden_state

    model.train()
    assert not torch.equal(states(), states())
    with frozen(model.deberta.parameters()):
        model.train()
        assert torch.equal(states(), states()) and model.multimodal.training
    assert model.train().deberta.training


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    check_resumes_bit_for_bit(tmp_path, freeze_encoder=True)


def test_a_model_without_text_has_nothing_to_freeze(tmp_path):
    make_trainer(tmp_path, freeze_encoder=True, config_fields={"use_text": False}, **SHORT).train()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mixout": 0.1}, "mixout has no effect with freeze_encoder"),
        ({"encoder_learning_rate": 1e-5}, "encoder_learning_rate has no effect with freeze_encoder"),
        ({"layer_learning_rate_decay": 0.9}, "layer_learning_rate_decay has no effect with freeze_encoder"),
        (
            {"modulated_modalities": ["text,acoustic"]},
            "modulated_modalities: text has no gradient",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        CPSLTrainingArguments(str(tmp_path), use_cpu=True, freeze_encoder=True, **options)
