"""The metrics of both protocols against loops, and the registry that names them."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_cpsl.training.metrics import (
    METRICS,
    Metric,
    compute_sentiment_metrics,
    is_better_if_greater,
    load_metric,
)


ALL_METRICS = ["mae", "corr", "acc7", "acc5", "acc2_has0", "f1_has0"]
NONZERO_METRICS = ["acc2_nonzero", "f1_nonzero", "mae_nonzero", "corr_nonzero"]


def reference_mae(predictions, labels):
    return sum(abs(p - y) for p, y in zip(predictions, labels, strict=True)) / len(labels)


def reference_corr(predictions, labels):
    if len(set(predictions)) == 1 or len(set(labels)) == 1:
        return 0.0
    mean_p, mean_y = math.fsum(predictions) / len(labels), math.fsum(labels) / len(labels)
    covariance = math.fsum((p - mean_p) * (y - mean_y) for p, y in zip(predictions, labels, strict=True))
    variance_p = math.fsum((p - mean_p) ** 2 for p in predictions)
    variance_y = math.fsum((y - mean_y) ** 2 for y in labels)
    return covariance / math.sqrt(variance_p) / math.sqrt(variance_y)


def reference_accuracy(predictions, labels, bound):
    def class_of(value):
        return round(min(max(value, -bound), bound))  # Python rounds halves to even, as numpy does

    return sum(class_of(p) == class_of(y) for p, y in zip(predictions, labels, strict=True)) / len(labels)


def reference_acc2(predictions, labels):
    return sum((p >= 0) == (y >= 0) for p, y in zip(predictions, labels, strict=True)) / len(labels)


def reference_f1(predictions, labels):
    total = 0.0
    for positive in (True, False):
        hits = sum((p >= 0) == positive == (y >= 0) for p, y in zip(predictions, labels, strict=True))
        predicted = sum((p >= 0) == positive for p in predictions)
        true = sum((y >= 0) == positive for y in labels)
        precision = hits / predicted if predicted else 0
        recall = hits / true if true else 0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
        total += f1 * true / len(labels)
    return total


def reference_metrics(predictions, labels):
    metrics = {
        "mae": reference_mae(predictions, labels),
        "corr": reference_corr(predictions, labels),
        "acc7": reference_accuracy(predictions, labels, 3),
        "acc5": reference_accuracy(predictions, labels, 2),
        "acc2_has0": reference_acc2(predictions, labels),
        "f1_has0": reference_f1(predictions, labels),
    }
    kept = [(p, y) for p, y in zip(predictions, labels, strict=True) if y != 0]
    if not kept:
        return metrics | dict.fromkeys(NONZERO_METRICS, math.nan)
    predictions, labels = zip(*kept, strict=True)
    return metrics | {
        "acc2_nonzero": reference_acc2(predictions, labels),
        "f1_nonzero": reference_f1(predictions, labels),
        "mae_nonzero": reference_mae(predictions, labels),
        "corr_nonzero": reference_corr(predictions, labels),
    }


# thirds and quarters: zeros, exact halves and boundary values are drawn often
sentiments = st.one_of(st.integers(-16, 16).map(lambda k: k / 4), st.integers(-9, 9).map(lambda k: k / 3))


@settings(deadline=None)  # the first example imports scipy and scikit-learn
@given(st.lists(st.tuples(sentiments, sentiments), min_size=1, max_size=30))
def test_match_the_plain_reference(pairs):
    predictions, labels = zip(*pairs, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        actual = compute_sentiment_metrics(predictions, labels)
    assert actual == pytest.approx(reference_metrics(predictions, labels), abs=1e-9, nan_ok=True)
    assert list(actual) == ALL_METRICS + NONZERO_METRICS
    assert all(type(value) is float for value in actual.values())


def test_known_case():
    """By hand: 6 samples, one neutral label, one prediction of exactly 0."""
    labels = [-3.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    predictions = [-2.0, 0.0, -0.5, 1.0, 1.0, 4.0]
    metrics = compute_sentiment_metrics(predictions, labels)
    assert metrics["mae"] == pytest.approx(4.5 / 6)
    assert metrics["mae_nonzero"] == pytest.approx(4 / 5)
    assert metrics["acc2_has0"] == pytest.approx(4 / 6)  # the zero prediction is positive, the neutral label too
    assert metrics["acc2_nonzero"] == pytest.approx(4 / 5)
    assert metrics["acc7"] == pytest.approx(3 / 6)  # -0.5 rounds to -0, 4 is clipped to 3
    assert metrics["acc5"] == pytest.approx(4 / 6)
    assert metrics["f1_has0"] == pytest.approx((3 / 4 * 4 + 1 / 2 * 2) / 6)
    assert metrics["f1_nonzero"] == pytest.approx((6 / 7 * 3 + 2 / 3 * 2) / 5)
    assert metrics["corr"] == pytest.approx(np.corrcoef(predictions, labels)[0, 1])
    assert metrics["corr_nonzero"] == pytest.approx(np.corrcoef(np.delete(predictions, 2), np.delete(labels, 2))[0, 1])


@pytest.mark.parametrize(
    ("prediction", "acc7", "acc5"), [(0.5, 0, 0), (1.5, 1, 1), (2.5, 1, 1), (3.5, 0, 1), (-1.5, 0, 0), (1.49, 0, 0)]
)
def test_halves_are_rounded_to_even(prediction, acc7, acc5):
    metrics = compute_sentiment_metrics([prediction, 0.0], [2.0, -1.0])
    assert (metrics["acc7"], metrics["acc5"]) == (acc7 / 2, acc5 / 2)


def test_f1_is_weighted_by_the_true_classes():
    """Three quarters of the labels are positive, one quarter of the predictions: the two weightings differ."""
    labels, predictions = [1.0, 1.0, 1.0, -1.0], [1.0, -1.0, -1.5, -1.0]
    assert compute_sentiment_metrics(predictions, labels)["f1_has0"] == pytest.approx((1 / 2 * 3 + 1 / 2 * 1) / 4)
    labels, predictions = [1.0, 1.0, 1.0, -1.0], [1.0, 2.0, -1.5, -2.0]
    assert compute_sentiment_metrics(predictions, labels)["f1_has0"] == pytest.approx((4 / 5 * 3 + 2 / 3) / 4)


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        lambda values: np.array(values)[:, None],
        lambda values: np.array(values, dtype=np.float32),
        lambda values: torch.tensor(values, requires_grad=True),
        lambda values: torch.tensor(values, dtype=torch.bfloat16)[:, None],
        lambda values: [[value] for value in values],
    ],
)
def test_inputs(convert):
    predictions, labels = [0.5, -1.25, 2.0, -0.25], [1.0, -0.5, 3.0, 0.0]
    expected = compute_sentiment_metrics(predictions, labels)
    assert compute_sentiment_metrics(convert(predictions), convert(labels)) == expected
    assert compute_sentiment_metrics(convert(predictions), labels) == expected


def test_constant_predictions_have_no_correlation():
    with pytest.warns(UserWarning, match=r"predictions are constant \(0.5\)") as caught:
        metrics = compute_sentiment_metrics([0.5, 0.5, 0.5], [1.0, -1.0, 0.0])
    assert metrics["corr"] == metrics["corr_nonzero"] == 0
    assert len(caught) == 2  # once over all samples, once over the non-zero ones


def test_constant_labels_have_no_correlation():
    with pytest.warns(UserWarning, match=r"labels are constant \(1.0\)"):
        assert compute_sentiment_metrics([0.5, 0.7], [1.0, 1.0])["corr"] == 0


def test_only_neutral_labels():
    with pytest.warns(UserWarning) as caught:
        metrics = compute_sentiment_metrics([0.5, -0.7], [0.0, 0.0])
    assert "all 2 labels are 0: the *_nonzero metrics are NaN" in [str(warning.message) for warning in caught]
    assert all(math.isnan(metrics[name]) for name in NONZERO_METRICS)
    assert metrics["acc2_has0"] == 0.5
    assert metrics["mae"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([], [], "predictions is empty"),
        ([1.0, 2.0], [1.0], "2 predictions for 1 labels"),
        ([1.0, math.nan], [1.0, 2.0], r"predictions\[1\] is nan"),
        ([1.0, 2.0], [-math.inf, 2.0], r"labels\[0\] is -inf"),
        (np.zeros((2, 3)), [1.0, 2.0], r"predictions must be of shape \(N,\) or \(N, 1\), not \(2, 3\)"),
        (np.zeros((2, 1, 1)), [1.0, 2.0], r"not \(2, 1, 1\)"),
        ([1.0, 2.0], 1.0, r"labels must be of shape .* not \(\)"),
    ],
)
def test_bad_inputs_are_named_in_one_line(predictions, labels, message):
    with pytest.raises(ValueError, match=message) as error:
        compute_sentiment_metrics(predictions, labels)
    assert "\n" not in str(error.value)


def test_evaluate_metric_agrees(tmp_path, monkeypatch):
    """Without a network: nothing of it is fetched."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    predictions, labels = [0.5, -1.25, 2.0, -0.25], [1.0, -0.5, 3.0, 0.0]
    metric = load_metric(cache_dir=str(tmp_path))
    metric.add_batch(predictions=predictions[:3], references=np.array(labels[:3]))
    metric.add_batch(predictions=torch.tensor(predictions[3:]), references=labels[3:])
    assert metric.compute() == compute_sentiment_metrics(predictions, labels)
    assert metric.compute(predictions=labels, references=labels)["acc7"] == 1


def test_the_evaluate_metric_in_memory_writes_no_file(tmp_path):
    predictions, labels = np.array([0.5, -1.25, 2.0], dtype=np.float32), np.array([1.0, 0.0, 3.0], dtype=np.float32)
    metric = load_metric(cache_dir=str(tmp_path), keep_in_memory=True)
    assert metric.compute(predictions=predictions, references=labels) == compute_sentiment_metrics(predictions, labels)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_evaluate_scipy_and_sklearn_are_imported_lazily():
    code = "import sys, modeling_cpsl.training.metrics; print({'evaluate', 'scipy.stats', 'sklearn'} & {*sys.modules})"
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert process.stdout.strip() == "set()"


def test_the_names_are_those_of_the_registry():
    assert list(METRICS) == ALL_METRICS + NONZERO_METRICS
    assert {name for name, metric in METRICS.items() if metric.samples == "nonzero"} == set(NONZERO_METRICS)


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("mae", False),
        ("eval_mae_nonzero", False),
        ("eval_mosi_mae", False),
        ("eval_task_loss", False),
        ("corr", True),
        ("eval_f1_has0", True),
        ("feature_entropy", True),
    ],
)
def test_which_way_a_metric_is_better(metric, greater):
    assert is_better_if_greater(metric) is greater


def three_class_accuracy(predictions, labels):
    return float((np.sign(predictions) == np.sign(labels)).mean())


def test_a_metric_is_added_by_one_function_and_one_line(tmp_path, monkeypatch):
    """It is computed, accepted for the best model, shown in the table and compared."""
    from training_cases import make_trainer

    from modeling_cpsl.evidence.finished_runs import compare_runs
    from modeling_cpsl.experiments.records import results_table, write_resolved_config, write_results

    monkeypatch.setitem(METRICS, "acc3", Metric(three_class_accuracy, "all", True, "accuracy"))
    assert compute_sentiment_metrics([0.5, -1.0, 0.0], [1.0, 2.0, 0.0])["acc3"] == pytest.approx(2 / 3)
    trainer = make_trainer(tmp_path, metric_for_best_model="acc3")
    assert trainer.args.greater_is_better is True
    results = trainer.evaluate(metric_key_prefix="test")
    assert 0 <= results["test_acc3"] <= 1
    assert "acc3" in results_table(results, ["test"])
    write_results(results, tmp_path)
    write_resolved_config({}, tmp_path)
    assert compare_runs([tmp_path], "test")["acc3"].tolist() == [f"{results['test_acc3']:.4f}"]
