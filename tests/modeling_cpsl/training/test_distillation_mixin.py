"""Distillation: what the loss is for labels of each kind, whom it listens to, and that a step may be cut."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from training_cases import RecordingTrainer, check_resumes_bit_for_bit, make_trainer, relative_distance

from modeling_cpsl.class_task_cpsl import ClassTask, LabelSetTask
from modeling_cpsl.number_task_cpsl import NumberTask
from modeling_cpsl.training.arguments import CPSLTrainingArguments
from modeling_cpsl.training.distillation_mixin import DistillationMixin
from modeling_cpsl.training.optimizer_step import MicroBatch
from modeling_cpsl.training.sample_table import sample_ids


WIDTHS = {"sentiment": (), "number": (), "numbers": (2,), "class": (3,), "classes": (3,)}


class Taught(RecordingTrainer):
    """Has a teacher who says something else of each sample than its label."""

    labels = "sentiment"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        shape = (len(self.train_dataset), *WIDTHS[self.labels])
        self.teacher = np.random.default_rng(1).normal(0, 2, shape).astype(np.float32)
        self.set_teacher(self.teacher)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def expected_losses(kind, logits, teacher, task_loss):
    """(B,), from the formulas."""
    if kind == "class":
        q, p = softmax(teacher), softmax(logits)
        return (q * np.log(q / p)).sum(-1)
    if kind == "classes":
        q, p = sigmoid(teacher), sigmoid(logits)
        return -(q * np.log(p) + (1 - q) * np.log(1 - p)).mean(-1)
    errors = np.abs(logits - teacher) if task_loss == "l1" else (logits - teacher) ** 2
    return errors.mean(-1) if kind == "numbers" else errors


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", WIDTHS)
def test_the_loss_is_shared_between_labels_and_teacher(tmp_path, kind, weighted):
    taught = type("TaughtOfKind", (Taught,), {"labels": kind})
    options = {"class_weights": "balanced"} if kind in ("class", "classes") else {"config_fields": {"task_loss": "l1"}}
    trainer = make_trainer(tmp_path, trainer_class=taught, labels=kind, distillation_weight=0.3, **options)
    batch = next(iter(trainer.get_train_dataloader()))
    names, size = batch.pop("ids"), len(batch["labels"])
    weights = torch.linspace(0.2, 2.0, size) if weighted else torch.ones(size)
    batch |= {"sample_weight": weights} if weighted else {}
    trainer.model.train()
    torch.manual_seed(5)
    plain = trainer.model(**batch)
    places = [sample_ids(trainer.train_dataset).index(name) for name in names]
    task_loss = "mse" if "class_weights" in options else "l1"
    losses = expected_losses(kind, plain.logits.detach().numpy(), trainer.teacher[places], task_loss)
    distillation = float((losses * weights.numpy()).sum() / weights.sum())
    trainer._micro_batch = MicroBatch(names, size, size, torch.ones(()))
    torch.manual_seed(5)
    loss, outputs = DistillationMixin.compute_loss(trainer, trainer.model, batch, return_outputs=True)
    assert outputs["losses"]["distillation"].item() == pytest.approx(distillation, rel=1e-4)
    task = plain.losses["task"].item()
    assert loss.item() == pytest.approx(plain.loss.item() - task + 0.7 * task + 0.3 * distillation, rel=1e-4)


def test_a_model_that_listens_to_the_teacher_alone_learns_what_he_says(tmp_path):
    options = {"num_train_epochs": 20, "per_device_train_batch_size": 16, "num_samples": 16}
    options |= {"distillation_weight": 1.0, "config_fields": {"modality_sizes": {}}}
    trainer = make_trainer(tmp_path, trainer_class=Taught, **options)
    trainer.train()
    logged = [row["train_distillation_loss"] for row in trainer.state.log_history if "train_distillation_loss" in row]
    assert len(logged) == 20 and logged[-1] < logged[0]
    assert "eval_distillation_loss" not in trainer.evaluate()
    predictions = trainer.predict(trainer.train_dataset)
    correlations = np.corrcoef([predictions.predictions[0], trainer.teacher, predictions.label_ids])[0, 1:]
    assert correlations[0] > 0.8 > 0.6 > correlations[1], correlations


def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path):
    trainers = [
        make_trainer(tmp_path / str(size), trainer_class=Taught, latent_noise="sample", num_train_epochs=1,
                     per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, rdrop_weight=0.5)
        for size in (8, 2)
    ]  # fmt: skip
    for trainer in trainers:
        trainer.train()
    assert relative_distance(*(trainer.model.state_dict() for trainer in trainers)) <= 1e-5


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    check_resumes_bit_for_bit(tmp_path, trainer_class=Taught, config_fields={"classifier_dropout": 0.5})


TASKS = {
    "number": (NumberTask(("x",)), ()),
    "numbers": (NumberTask(("x", "y"), ranges=((-1.0, 1.0),) * 2), (2,)),
    "class": (ClassTask(("a", "b")), (2,)),
    "classes": (LabelSetTask(("a", "b")), (2,)),
}


@pytest.mark.parametrize("kind", TASKS)
@given(data=st.data())
def test_an_ensemble_predicts_the_mean_of_what_its_members_predict(kind, data):
    task, width = TASKS[kind]
    shape = (data.draw(st.integers(1, 4)), 3, *width)
    logits = data.draw(arrays.arrays(np.float32, shape, elements=st.floats(-60, 60, width=32)))
    ensemble = task.ensemble_logits(torch.from_numpy(logits))
    assert ensemble.isfinite().all()
    expected = {"class": softmax, "classes": sigmoid}.get(kind, lambda values: values)(logits.astype(np.float64))
    np.testing.assert_allclose(task.predicted(ensemble), expected.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_what_cannot_be(tmp_path):
    for options, message in (
        ({"distillation_members": -1}, "distillation_members=-1 must be at least 0"),
        ({"distillation_weight": 0.0}, "distillation_weight=0.0 must be above 0 and at most 1"),
        ({"distillation_weight": float("nan")}, "distillation_weight=nan must be above 0 and at most 1"),
    ):
        with pytest.raises(ValueError, match=message):
            CPSLTrainingArguments(str(tmp_path), use_cpu=True, **options)
    with pytest.raises(ValueError, match="the teacher has predictions for 7 samples, and there are 30"):
        make_trainer(tmp_path).set_teacher(np.zeros(7))
