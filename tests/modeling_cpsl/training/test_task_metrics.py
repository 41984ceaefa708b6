"""Metrics of each kind of labels, against sklearn's figures or what they mean written out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, classification_report, f1_score
from task_cases import CLASSES, NUMBERS, SEVERAL

from modeling_cpsl.class_task_cpsl import ClassTask, LabelSetTask
from modeling_cpsl.number_task_cpsl import UNBOUNDED, NumberTask
from modeling_cpsl.task_cpsl import SENTIMENT_RANGE
from modeling_cpsl.tasks_cpsl import SENTIMENT
from modeling_cpsl.training.metrics import METRICS, compute_sentiment_metrics, is_better_if_greater
from modeling_cpsl.training.task_metrics import (
    best_metric,
    compute_task_metrics,
    concordance_correlation,
    confusion,
    judging_metric,
    metrics_of,
    name_ends,
    overall_metrics,
)


RNG = np.random.default_rng(0)
TASKS = [
    SENTIMENT,
    ClassTask(CLASSES),
    LabelSetTask(SEVERAL),
    NumberTask(NUMBERS, ranges=(UNBOUNDED, UNBOUNDED)),
    NumberTask(("sentiment",), ranges=((-1.0, 1.0),)),
    NumberTask(("valence",), ranges=((1.0, 5.0),)),
    ClassTask(("macro", "weighted", "mae", "loss")),
    LabelSetTask(("micro", "a b", "a_b")),
    NumberTask(("sentiment", "happy", "loss"), ranges=(SENTIMENT_RANGE, (0.0, 3.0), UNBOUNDED)),
]


def logits_and_labels(task, size=60):
    logits = RNG.normal(size=(size, len(task.names)))
    if isinstance(task, ClassTask):
        return logits, RNG.integers(len(task.names), size=size)
    if isinstance(task, LabelSetTask):
        return logits, (RNG.random(logits.shape) < 0.4).astype(np.float32)
    logits = logits[:, 0] if task.is_one_number else logits
    return logits, logits * 0.5 + RNG.normal(size=logits.shape) * 0.2


@pytest.mark.parametrize("task", TASKS, ids=lambda task: " ".join(task.names))
def test_all_are_computed_and_know_their_direction(task):
    metrics = compute_task_metrics(task, *logits_and_labels(task))
    assert metrics.keys() == metrics_of(task).keys() and best_metric(task) in metrics
    assert all(isinstance(value, float) for value in metrics.values())
    for name, metric in metrics_of(task).items():
        assert is_better_if_greater(f"eval_{name}") is metric.greater_is_better


@pytest.mark.parametrize("task", TASKS, ids=lambda task: " ".join(task.names))
def test_those_of_all_classes_and_targets_begin_with_the_one_that_judges(task):
    overall = overall_metrics(task)
    assert overall[0] == best_metric(task) == judging_metric(task, "mae") and judging_metric(task, "corr") == "corr"
    ends = tuple(f"_{end}" for end in name_ends(task, taken=overall))
    parts = {name for name in metrics_of(task) if name.endswith(ends)}
    assert {*overall} == metrics_of(task).keys() - (parts if len(task.names) > 1 else {})


def test_those_of_a_sentiment_are_what_they_were():
    logits, labels = logits_and_labels(SENTIMENT)
    assert compute_task_metrics(SENTIMENT, logits, labels) == compute_sentiment_metrics(logits, labels)


def test_classes():
    task = ClassTask(CLASSES)
    logits, labels = logits_and_labels(task)
    chosen, metrics = logits.argmax(axis=1), compute_task_metrics(task, logits, labels)
    report = classification_report(labels, chosen, target_names=CLASSES, output_dict=True)
    for name in CLASSES:
        for figure, column in {
            "precision": "precision",
            "recall": "recall",
            "f1": "f1-score",
            "count": "support",
        }.items():
            assert metrics[f"{figure}_{name}"] == pytest.approx(report[name][column])
    assert metrics["accuracy"] == report["accuracy"]
    assert metrics["uar"] == pytest.approx(balanced_accuracy_score(labels, chosen))
    assert metrics["f1_macro"] == pytest.approx(report["macro avg"]["f1-score"])
    assert metrics["f1_weighted"] == pytest.approx(report["weighted avg"]["f1-score"])
    counts = confusion(task, logits, labels)
    assert counts.sum() == 60 and counts[1, 2] == ((labels == 1) & (chosen == 2)).sum()


def test_classes_that_do_not_occur_do_not_lower_the_means():
    metrics = compute_task_metrics(ClassTask(CLASSES), np.eye(3)[[0, 1, 1, 0]], np.array([0, 1, 0, 0]))
    assert metrics["uar"] == pytest.approx((2 / 3 + 1) / 2) and metrics["f1_macro"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics["count_positive"] == metrics["f1_positive"] == 0.0


def test_several_classes_at_once():
    task = LabelSetTask(SEVERAL)
    logits, labels = logits_and_labels(task)
    chosen, metrics = logits >= 0, compute_task_metrics(task, logits, labels)
    for average in ("macro", "micro", "weighted"):
        assert metrics[f"f1_{average}"] == pytest.approx(f1_score(labels, chosen, average=average))
    assert metrics["f1_sad"] == pytest.approx(f1_score(labels[:, 1], chosen[:, 1]))
    assert metrics["exact_match"] == (chosen == labels).all(axis=1).mean()
    by_class = [balanced_accuracy_score(labels[:, column], chosen[:, column]) for column in range(3)]
    assert metrics["uar"] == pytest.approx(np.mean(by_class))


def test_several_numbers():
    task = TASKS[3]
    logits, labels = logits_and_labels(task)
    metrics = compute_task_metrics(task, logits, labels)
    assert metrics["mae_intensity"] == pytest.approx(np.abs(logits - labels)[:, 1].mean(), abs=1e-6)
    assert metrics["corr"] == pytest.approx((metrics["corr_sentiment"] + metrics["corr_intensity"]) / 2)


def test_a_sentiment_among_several_numbers_has_all_that_it_has_by_itself():
    logits, labels = (values * 3 for values in logits_and_labels(TASKS[-1]))
    labels[::7, 0] = 0.0
    metrics = compute_task_metrics(TASKS[-1], logits, labels)
    alone = compute_sentiment_metrics(logits[:, 0].astype(np.float32), labels[:, 0])
    assert {f"{name}_sentiment" for name in METRICS} <= metrics.keys() and "acc7_happy" not in metrics
    assert {name: metrics[f"{name}_sentiment"] for name in METRICS} == alone


def test_a_class_that_is_called_like_a_mean_does_not_take_its_place():
    task, plain = TASKS[6], ClassTask(("a", "b", "c", "d"))
    logits, labels = logits_and_labels(task)
    metrics, expected = (compute_task_metrics(one, logits, labels) for one in (task, plain))
    assert len(metrics) == len(expected)
    assert metrics["f1_macro"] == expected["f1_macro"] and metrics["f1_weighted"] == expected["f1_weighted"]
    assert metrics["f1_macro_"] == expected["f1_a"] and metrics["count_weighted_"] == expected["count_b"]
    assert metrics["f1_loss"] == expected["f1_d"]


@given(st.lists(st.text("ab _", min_size=1, max_size=4), unique=True, max_size=6))
def test_no_two_names_end_alike(names):
    taken = ["f1_a", "f1_a_", "count_b"]
    ends = name_ends(LabelSetTask(tuple(names)), taken)
    found = [f"{figure}_{end}" for end in ends for figure in ("precision", "recall", "f1", "count")]
    assert len(ends) == len(names) and len({*found, *taken}) == len(found) + len(taken)
    assert not any(" " in end for end in ends)


def test_concordance_is_lowered_by_a_shift_and_a_scale():
    labels = RNG.normal(size=50)
    assert concordance_correlation(labels, labels) == pytest.approx(1.0)
    shifted = 2 * np.cov(labels, labels + 1, bias=True)[0, 1] / (2 * labels.var() + 1)
    assert concordance_correlation(labels + 1, labels) == pytest.approx(shifted)
    assert concordance_correlation(np.ones(3), np.ones(3)) == 0.0


def test_ch_sims_by_mmsa():
    """As MMSA cuts [-1, 1]: a value belongs to the part whose upper end it is."""
    predictions, labels = np.array([-1.4, -0.2, 0.0, 0.2, 0.6, 0.9]), np.array([-1.0, 0.0, 0.2, 0.4, 0.8, 1.0])
    metrics = compute_task_metrics(TASKS[4], predictions, labels)
    assert metrics["acc2"] == pytest.approx(5 / 6)  # 0 is not positive, 0.2 is
    assert metrics["acc3"] == pytest.approx(4 / 6)
    assert metrics["acc5"] == pytest.approx(3 / 6)
    assert metrics["mae"] == pytest.approx(np.mean([0.0, 0.2, 0.2, 0.2, 0.2, 0.1]))
    assert metrics["f1"] == pytest.approx(f1_score(labels > 0, predictions > 0, average="weighted"))


@pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.array([[np.nan, 0.0, 0.0]])])
def test_what_is_no_prediction_is_refused(logits):
    with pytest.raises(ValueError, match=r"empty|finite"):
        compute_task_metrics(ClassTask(CLASSES), logits, np.zeros(len(logits), dtype=int))
