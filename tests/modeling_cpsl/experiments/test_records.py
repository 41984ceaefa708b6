"""The records of a run, and the table that compares runs."""

import functools
import json

import numpy as np
import pandas as pd
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from data_builders import DataError
from modeling_cpsl.class_task_cpsl import ClassTask
from modeling_cpsl.experiments.prediction_tables import prediction_columns
from modeling_cpsl.experiments.records import (
    LOG_FILE,
    RESULTS_FILE,
    TrainingLog,
    read_log,
    read_predictions,
    read_results,
    results_table,
    write_predictions,
    write_results,
)
from modeling_cpsl.training.metrics import METRICS
from modeling_cpsl.training.task_metrics import metrics_of


def test_predictions_round_trip(tmp_path):
    values = np.array([0.5, -1.0], dtype=np.float32)
    write_predictions(["a", "b"], values, values + 1, {"text": values + 2}, tmp_path, "test")
    frame = read_predictions(tmp_path, "test")
    pd.testing.assert_frame_equal(frame, pd.read_parquet(tmp_path / "predictions_test.parquet"))
    assert frame.columns.tolist() == ["id", *prediction_columns(["text"])]
    assert frame.loc[1].tolist() == ["b", -1.0, 0.0, 0.0, 0, "neutral", 1.0]


def test_a_metric_that_is_not_a_number_is_null_in_json(tmp_path):
    write_results({"test_mae": 0.5, "test_corr": float("nan")}, tmp_path)
    text = (tmp_path / RESULTS_FILE).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"test_corr": None, "test_mae": 0.5}
    assert read_results(tmp_path) == pytest.approx({"test_corr": float("nan"), "test_mae": 0.5}, nan_ok=True)


def test_the_log_has_null_where_a_metric_is_not_a_number(tmp_path):
    rows = [{"eval_corr": float("nan"), "epoch": 1.0, "step": 4}, {"loss": 0.5}]
    state = TrainerState(log_history=rows)
    TrainingLog({}).on_log(TrainingArguments(str(tmp_path), use_cpu=True), state, TrainerControl())
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert json.loads(lines[0], parse_constant=pytest.fail)["eval_corr"] is None
    assert np.isnan(read_log(tmp_path)[0]["eval_corr"]) and read_log(tmp_path)[1] == rows[1]


def test_table_has_a_column_a_split():
    metrics = {
        f"{split}_{name}": index / 100 for split in ("validation", "test") for index, name in enumerate(METRICS)
    }
    lines = results_table(metrics, ["validation", "test"]).splitlines()
    assert lines[0].split() == ["validation", "test"]
    assert lines[2].split() == ["corr", "0.0100", "0.0100"]
    assert len(lines) == 1 + len(METRICS)


def test_table_counts_samples_in_whole_numbers():
    task = ClassTask(("anger", "joy"))
    metrics = {f"test_{name}": 8.0 if name.startswith("count") else 0.5 for name in metrics_of(task)}
    lines = [line.split() for line in results_table(metrics, ["test"], task).splitlines()]
    assert ["count_joy", "8"] in lines and ["uar", "0.5000"] in lines


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"test_mae": "x"}', "[" * 9999, "\0"])
def test_a_damaged_record_is_named_with_a_way_out(tmp_path, content):
    readers = {
        RESULTS_FILE: read_results,
        LOG_FILE: read_log,
        "predictions_test.parquet": functools.partial(read_predictions, split="test"),
    }
    for name, read in readers.items():
        (tmp_path / name).write_text(content or " ")
        with pytest.raises(DataError, match=f"{name}: not a readable .*; remove it and repeat the training"):
            read(tmp_path)
