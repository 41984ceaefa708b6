"""R-Drop: what the loss is, that evaluation has no part in it, and resumed runs."""

import pytest
import torch
from torch.nn import functional as F
from training_cases import check_resumes_bit_for_bit, make_trainer

from modeling_cpsl.class_task_cpsl import ClassTask, LabelSetTask
from modeling_cpsl.number_task_cpsl import NumberTask
from modeling_cpsl.training.arguments import CPSLTrainingArguments


SHORT = {"num_train_epochs": 2, "num_samples": 16}
DROPOUT = {"encoder_dropout": 0.3, "classifier_dropout": 0.5}


def batch_of(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    return {name: value for name, value in batch.items() if name != "ids"}


def test_the_loss_is_the_mean_of_two_passes_and_their_squared_distance(tmp_path):
    trainer = make_trainer(tmp_path, rdrop_weight=0.7, config_fields=DROPOUT, **SHORT)
    batch = batch_of(trainer) | {"sample_weight": torch.linspace(0.2, 2.0, 8)}
    trainer.model.train()
    torch.manual_seed(5)
    first, second = trainer.model(**batch), trainer.model(**batch)
    squared = (first.logits - second.logits).square()
    divergence = (squared * batch["sample_weight"]).sum() / batch["sample_weight"].sum()
    assert divergence > 1e-6
    torch.manual_seed(5)
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    torch.testing.assert_close(loss, (first.loss + second.loss) / 2 + 0.7 * divergence)
    torch.testing.assert_close(outputs["losses"]["rdrop"], divergence)
    torch.testing.assert_close(outputs["losses"]["task"], (first.losses["task"] + second.losses["task"]) / 2)
    loss.backward()
    assert all(weight.grad is not None for weight in trainer.model.multimodal.encoders.parameters())


def test_without_anything_random_it_changes_nothing(tmp_path):
    """The latent noise of a sample is that of the step."""
    runs = [make_trainer(tmp_path / str(w), rdrop_weight=w, latent_noise="sample", **SHORT) for w in (0.0, 5.0)]
    for trainer in runs:
        trainer.train()
    for name, value in runs[0].model.state_dict().items():
        torch.testing.assert_close(value, runs[1].model.state_dict()[name], atol=1e-6, rtol=1e-5, msg=name)


def test_it_is_logged_and_only_of_training(tmp_path):
    trainer = make_trainer(tmp_path, rdrop_weight=1.0, eval_strategy="epoch", config_fields=DROPOUT, **SHORT)
    trainer.train()
    logged = [row["train_rdrop_loss"] for row in trainer.state.log_history if "train_rdrop_loss" in row]
    assert len(logged) == 2 and min(logged) > 0
    assert not any("eval_rdrop_loss" in row for row in trainer.state.log_history)


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    check_resumes_bit_for_bit(tmp_path, rdrop_weight=1.0, config_fields=DROPOUT)


def test_the_divergence_of_classes_is_the_mean_of_both_kullback_leibler_divergences():
    torch.manual_seed(0)
    logits, others = torch.randn(4, 3), torch.randn(4, 3)
    p, q = logits.softmax(-1), others.softmax(-1)
    expected = (F.kl_div(q.log(), p, reduction="none") + F.kl_div(p.log(), q, reduction="none")).sum(-1) / 2
    torch.testing.assert_close(ClassTask(("a", "b", "c")).divergence(logits, others), expected)

    p, q = logits.sigmoid(), others.sigmoid()
    pairs = [(p, q), (1 - p, 1 - q)]
    expected = sum((a * (a / b).log() + b * (b / a).log()) / 2 for a, b in pairs).mean(-1)
    torch.testing.assert_close(LabelSetTask(("a", "b", "c")).divergence(logits, others), expected)

    several = NumberTask(("x", "y", "z"), ranges=((-1.0, 1.0),) * 3)
    torch.testing.assert_close(several.divergence(logits, others), ((logits - others) ** 2).mean(-1))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_be(tmp_path, weight):
    with pytest.raises(ValueError, match=f"rdrop_weight={weight} must be a finite number, at least 0"):
        CPSLTrainingArguments(str(tmp_path), use_cpu=True, rdrop_weight=weight)
