"""Metrics that follow from sums a group are those of the samples, for labels of every kind and any set of groups."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from task_cases import CLASSES, NUMBERS, SEVERAL

from modeling_cpsl.class_task_cpsl import ClassTask, LabelSetTask
from modeling_cpsl.evidence.group_sums import SUM_NAMES, group_sums
from modeling_cpsl.evidence.task_sums import (
    label_positions,
    metrics_of_task_sums,
    sum_names,
    task_sums,
    uar_of_one_answer,
)
from modeling_cpsl.number_task_cpsl import UNBOUNDED, NumberTask
from modeling_cpsl.tasks_cpsl import SENTIMENT
from modeling_cpsl.training.task_metrics import compute_task_metrics, metrics_of


TASKS = {
    "class": ClassTask(("macro", *CLASSES[1:])),  # which is called like a mean
    "classes": LabelSetTask(SEVERAL),
    "numbers": NumberTask(NUMBERS, ranges=(UNBOUNDED, UNBOUNDED)),
    "mosei": NumberTask(("joy", "sentiment"), ranges=((0.0, 3.0), (-3.0, 3.0))),
    "sims": NumberTask(("sentiment",), ranges=((-1.0, 1.0),)),
    "number": NumberTask(("valence",), ranges=((1.0, 5.0),)),
}
# Values on and beside the edges of CH-SIMS's parts, far enough apart for a correlation not to be one of roundings.
NUMBER = st.sampled_from([-1.25, -0.75, -0.7, -0.1, 0.0, 0.1, 0.25, 0.7, 1.0, 2.5])


def samples_of(task):
    """Logits, a label and a group of each sample."""
    size = len(task.names)
    label = {
        ClassTask: st.integers(0, size - 1),
        LabelSetTask: st.lists(st.sampled_from([0.0, 1.0]), min_size=size, max_size=size),
    }.get(type(task), NUMBER if size == 1 else st.lists(NUMBER, min_size=size, max_size=size))
    logits = NUMBER if task.is_one_number else st.lists(NUMBER, min_size=size, max_size=size)
    return st.lists(st.tuples(logits, label, st.sampled_from("abcd")), min_size=2, max_size=30)


def arrays(task, samples):
    logits, labels, groups = (list(values) for values in zip(*samples, strict=True))
    return np.array(logits, dtype=np.float32), task.label_array(labels), np.array(groups)


def predicted(task, logits):
    return task.predicted(torch.from_numpy(logits)).double().numpy()


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.filterwarnings("ignore:the predictions are constant", "ignore:the labels are constant")
@settings(max_examples=40)
@given(data=st.data(), drawn=st.lists(st.sampled_from("abcd"), min_size=1, max_size=5))
def test_metrics_are_those_of_the_samples(kind, data, drawn):
    task = TASKS[kind]
    logits, labels, groups = arrays(task, data.draw(samples_of(task)))
    sums = task_sums(predicted(task, logits), labels, groups.tolist(), task)
    assert {len(values) for values in sums.values()} == {len(sum_names(task))} == {len({*sum_names(task)})}
    drawn = [group for group in drawn if group in sums]
    rows = np.concatenate([np.zeros(0, int), *(np.flatnonzero(groups == group) for group in drawn)])
    total = np.sum([sums[group] for group in drawn], axis=0) if drawn else np.zeros(len(sum_names(task)))
    found = metrics_of_task_sums(total, task)
    assert list(found) == list(metrics_of(task))
    if not len(rows):
        assert all(np.isnan(value) for value in found.values())
        return
    expected = compute_task_metrics(task, logits[rows], labels[rows])
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("kind", TASKS)
def test_many_sums_at_once_and_what_follows_from_labels_alone(kind):
    task, generator = TASKS[kind], np.random.default_rng(0)
    size = (40,) if task.is_one_number else (40, len(task.names))
    logits = generator.normal(size=(3, *size)).astype(np.float32)
    label = generator.normal(size=size)
    labels = label.argmax(axis=1) if kind == "class" else (label > 0).astype(float) if kind == "classes" else label
    systems = np.array([[*task_sums(predicted(task, each), labels, [*"ab"] * 20, task).values()] for each in logits])
    together = metrics_of_task_sums(systems, task)
    for index in np.ndindex(3, 2):
        for name, value in metrics_of_task_sums(systems[index], task).items():
            assert together[name][index] == pytest.approx(value)
    differing = np.flatnonzero((systems != systems[0]).any(axis=(0, 1)))
    assert not {*label_positions(task)} & {*differing.tolist()}
    totals = labels.sum() if kind != "class" else np.bincount(labels)
    assert systems[0].sum(axis=0)[label_positions(task)].tolist()[:1] == [40]
    assert systems[0].sum(axis=0)[label_positions(task)][1:].sum() == pytest.approx(np.sum(totals))


@pytest.mark.parametrize("kind", ["class", "classes"])
def test_one_answer_for_all_samples(kind):
    task = TASKS[kind]
    labels = np.array([0, 0, 2, 0]) if kind == "class" else np.array([[0, 1, 1], [1, 1, 0], [0, 1, 0], [0, 1, 0.0]])
    answer = np.zeros((4, 3))
    answer[:, [0] if kind == "class" else [1]] = 1.0
    sums = np.sum([*task_sums(answer, labels, [*"aabb"], task).values()], axis=0)
    expected = 1 / 2 if kind == "class" else 3 / 5  # the class that all have is said of all
    assert float(uar_of_one_answer(sums, task)) == pytest.approx(expected)
    assert float(metrics_of_task_sums(sums, task)["uar"]) == pytest.approx(expected)


def test_those_of_sentiments_are_what_they_were():
    predictions, labels = np.array([1.0, -0.4, 0.0]), np.array([0.6, 0.0, -1.0])
    assert sum_names() == SUM_NAMES and label_positions() == [0, SUM_NAMES.index("all_label")]
    assert task_sums(predictions, labels, [*"aba"]) == group_sums(predictions, labels, [*"aba"])
    renamed = NumberTask(("valence",))
    assert renamed != SENTIMENT and sum_names(renamed) == SUM_NAMES
