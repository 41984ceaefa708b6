"""Decision weights in a run: fitted on half the validation videos, and applied wherever the model predicts."""

import numpy as np
import pytest
from prediction_cases import READ_TABLE
from prediction_cases import run as predict
from shared_run import built_once

from data_builders import load_aligned_dataset
from modeling_cpsl.decision_cpsl import half_of_groups
from modeling_cpsl.experiments import records
from modeling_cpsl.experiments.decision import calibration_samples, groups_of
from modeling_cpsl.experiments.loading import load_pipeline
from modeling_cpsl.experiments.run import run
from modeling_cpsl.training.arguments import CPSLTrainingArguments
from modeling_cpsl.uncertainty_cpsl import conformal_half_width


SET = "acoustic+text+visual"
SHORT = {"max_steps": 2, "disable_tqdm": True, "use_cpu": True}


@pytest.fixture(scope="module")
def folder():
    """A run of two steps, whose fused prediction says little that heads do not."""

    def build(folder):
        run("sample", decision_weights=True, output_dir=str(folder / "run"), **SHORT)

    return built_once("decision_weights", build) / "run"


@pytest.fixture(scope="module")
def sentiment(folder):
    return load_pipeline(str(folder), "cpu")


@pytest.mark.slow
class TestRun:
    def test_keeps_what_passes_and_evaluates_with_it(self, folder, sentiment):
        weights = sentiment.model.config.decision_weights[SET]
        assert sum(weight for weight, _, _ in weights.values()) == pytest.approx(1)
        table = records.read_predictions(folder, "test")
        assert records.read_results(folder)["test_mae"] == pytest.approx(
            np.abs(table["prediction"] - table["label"]).mean(), abs=1e-5
        )
        rows = load_aligned_dataset("sample")["test"].select(range(5)).to_list()
        results = sentiment(rows, explain=True)
        assert [result["prediction"] for result in results] == pytest.approx(
            table["prediction"][:5].tolist(), abs=1e-4
        )
        assert results[0]["decision_weights"] == {name: weight for name, (weight, _, _) in weights.items()}

    def test_intervals_are_those_of_the_other_videos(self, folder, sentiment):
        split = load_aligned_dataset("sample")["validation"]
        other = ~half_of_groups(split["video_id"][:])
        table = records.read_predictions(folder, "validation")[other]
        width = conformal_half_width(table["prediction"].clip(-3, 3), table["label"])
        assert sentiment.model.config.interval_half_widths[SET] == pytest.approx(width, abs=1e-6)

    def test_predict_applies_and_shows_them(self, folder, sentiment, tmp_path):
        rows = load_aligned_dataset("sample")["test"].select(range(3))
        rows.to_parquet(tmp_path / "rows.parquet")
        assert predict(folder, tmp_path / "rows.parquet", tmp_path / "out" / "table.csv", "--explain") == 0
        table = READ_TABLE[".csv"](tmp_path / "out" / "table.csv")
        expected = records.read_predictions(folder, "test")["prediction"][:3]
        assert table["prediction"].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
        weights = sentiment.model.config.decision_weights[SET]
        assert table["decision_weight_fused"][0] == pytest.approx(weights["fused"][0])


def test_without_decision_weights_all_samples_make_the_intervals():
    assert calibration_samples(CPSLTrainingArguments(use_cpu=True), range(3), "video_id").all()


def test_without_the_column_each_sample_is_a_group(caplog):
    split = load_aligned_dataset("sample")["test"].select(range(4))
    assert groups_of(split, "video_id") == [*map(str, split["video_id"])]
    assert groups_of(split.remove_columns("video_id"), "video_id") == split["id"][:]
    assert "no column 'video_id'" in caplog.text
