"""The records of a run, and the table that compares runs."""

import numpy as np
import pandas as pd

from modeling_cpsl.experiments.records import read_predictions, results_table, write_predictions
from modeling_cpsl.training.metrics import METRICS


def test_predictions_round_trip(tmp_path):
    values = np.array([0.5, -1.0], dtype=np.float32)
    write_predictions(["a", "b"], values, values + 1, {"text": values + 2}, tmp_path, "test")
    frame = read_predictions(tmp_path, "test")
    pd.testing.assert_frame_equal(frame, pd.read_parquet(tmp_path / "predictions_test.parquet"))
    assert frame.columns.tolist() == ["id", "label", "prediction", "prediction_text"]
    assert frame.loc[1].tolist() == ["b", -1.0, 0.0, 1.0]


def test_table_has_a_column_a_split():
    metrics = {
        f"{split}_{name}": index / 100 for split in ("validation", "test") for index, name in enumerate(METRICS)
    }
    lines = results_table(metrics, ["validation", "test"]).splitlines()
    assert lines[0].split() == ["validation", "test"]
    assert lines[2].split() == ["corr", "0.0100", "0.0100"]
    assert len(lines) == 1 + len(METRICS)
