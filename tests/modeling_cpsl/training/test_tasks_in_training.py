"""Labels of each kind, from a data set to the metrics of a trained model."""

import numpy as np
import pytest
import torch
from task_cases import CLASSES, KINDS, NUMBERS, SEVERAL
from torch.testing import assert_close
from training_cases import make_trainer

from modeling_cpsl.modeling_cpsl import CPSLForSentimentRegression
from modeling_cpsl.training.labels import label_values
from modeling_cpsl.training.task_metrics import metrics_of


NAMES = {"number": ("sentiment",), "class": CLASSES, "classes": SEVERAL, "numbers": NUMBERS}
BEST = {"number": "mae", "class": "f1_weighted", "classes": "f1_macro", "numbers": "mae"}
EPOCHS = {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_a_model_learns_them(kind, tmp_path):
    trainer = make_trainer(tmp_path, labels=kind, class_weights="none" if "number" in kind else "balanced", **EPOCHS)
    task = trainer.model.task
    assert task.names == NAMES[kind] and trainer.args.metric_for_best_model == BEST[kind]
    before = trainer.evaluate(trainer.train_dataset)
    trainer.train()
    after = trainer.evaluate(trainer.train_dataset)
    assert after["eval_loss"] < before["eval_loss"]
    assert {f"eval_{name}" for name in metrics_of(task)} | {"eval_skill_text"} <= after.keys()
    assert trainer.state.best_metric is not None
    predictions = trainer.predict(trainer.eval_dataset)
    logits, unimodal = predictions.predictions[:2]
    assert logits.shape == unimodal["text"].shape == ((10,) if kind == "number" else (10, len(task.names)))
    assert_close(predictions.label_ids, label_values(trainer.eval_dataset, task))
    trainer.save_model(tmp_path / "model")
    model = CPSLForSentimentRegression.from_pretrained(tmp_path / "model")
    batch = trainer.data_collator([trainer.eval_dataset[index] for index in range(10)])
    assert model.task == task
    with torch.no_grad():
        assert_close(model.eval()(**batch).logits.numpy(), logits, atol=1e-5, rtol=1e-4)


@each_kind
def test_errors_of_a_modality_are_what_it_lacks_to_the_label(kind, tmp_path):
    trainer = make_trainer(tmp_path, labels=kind)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    with torch.no_grad():
        output = trainer.model.eval()(**batch)
    logits, labels = output.unimodal_logits["acoustic"], batch["labels"]
    expected = {
        "class": lambda: 1 - logits.softmax(-1)[torch.arange(4), labels],
        "classes": lambda: (logits.sigmoid() - labels).abs().mean(-1),
        "number": lambda: (logits - labels).abs(),
        "numbers": lambda: (logits - labels).abs().mean(-1),
    }[kind]()
    assert_close(output.modality_errors["acoustic"], expected)


def test_balanced_weights_make_classes_count_alike(tmp_path):
    trainer = make_trainer(tmp_path, labels="class", class_weights="balanced")
    labels = label_values(trainer.train_dataset, trainer.model.task)
    weights = np.array(trainer.model.task.weights)
    totals = [weights[labels][labels == place].sum() for place in range(3) if (labels == place).any()]
    assert totals == pytest.approx([len(labels) / 3] * len(totals))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": "balanced", "labels": "numbers"}, "class_weights=balanced: the labels are numbers"),
        ({"class_weights": "balanced"}, "class_weights=balanced: the labels are numbers"),
        (
            {"labels": "class", "sample_weights": "gap"},
            "sample_weights=gap: it is made for labels that are one",
        ),
        ({"labels": "class", "resample": "discrepancy"}, "resample=discrepancy: it is made for labels that are one"),
        ({"labels": "numbers", "decision_weights": True}, "decision_weights: it is made for labels that are one"),
        ({"labels": "class", "metric_for_best_model": "corr"}, "metric_for_best_model='corr' is not a metric; choose"),
    ],
)
def test_what_means_one_number_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **options)


def test_a_label_that_is_none_is_named(tmp_path):
    trainer = make_trainer(tmp_path, labels="class")
    row = dict(trainer.train_dataset[0]) | {"label": 7}
    with pytest.raises(ValueError, match=rf"sample {row['id']}: label 7 is none of the classes negative, neutral"):
        trainer.data_collator([row])
