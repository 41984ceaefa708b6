"""From recordings of real voices to a model that hears, in speakers it has never heard, how they feel."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from media_files import EMODB, needs, needs_package
from run_cases import pictures_not_rendered
from scipy.stats import spearmanr, t

from cpsl import main


needs_package("av")
SENTIMENT = {"happiness": 2, "neutral": 0, "boredom": -1}  # that of the other emotions is -2
FOLDS = 4


@needs(EMODB)
@pytest.mark.slow
def test_a_model_of_voices_alone_ranks_speakers_it_has_not_heard(tmp_path, monkeypatch):
    """The words of EmoDB are neutral. Each speaker is predicted by a model that was trained on four others."""
    monkeypatch.chdir(tmp_path)
    with (EMODB / "labels.csv").open() as file:
        recordings = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    lines = [
        f"{name},{SENTIMENT.get(recording['emotion'], -2)},{recording['speaker']}\n"
        for name, recording in recordings.items()
    ]
    Path("labels.csv").write_text("".join(["clip,label,video_id\n", *lines]))
    options = ["--labels", "labels.csv", "--words", "none", "--modalities", "acoustic", "--on_error", "raise"]
    assert main(["extract", str(EMODB), "data", *options]) == 0
    training = ["train", "sample", "--dataset", "data", "--modalities", "acoustic", "--num_train_epochs", "15"]
    tables = []
    with pictures_not_rendered():
        for fold in range(FOLDS):
            of_fold = ["--fold", f"{fold}/{FOLDS}", "--metric_for_best_model", "corr", "--output_dir", f"fold{fold}"]
            assert main([*training, *of_fold]) == 0
            tables.append(pd.read_parquet(f"fold{fold}/predictions_test.parquet"))
    table = pd.concat(tables, ignore_index=True)
    assert sorted(table["id"]) == sorted(recordings)
    by_speaker = table.groupby(table["id"].map(lambda name: recordings[name]["speaker"]))
    correlations = [spearmanr(one["label"], one["prediction"]).statistic for _, one in by_speaker]
    mean, error = np.mean(correlations), np.std(correlations, ddof=1) / np.sqrt(len(correlations))
    assert len(correlations) == 8 and mean >= 0.25
    assert mean - t.ppf(0.975, len(correlations) - 1) * error > 0
