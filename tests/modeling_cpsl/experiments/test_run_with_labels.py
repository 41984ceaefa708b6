"""Labels of each kind, from a file to the records of a run, its card, its pipeline and a table of predictions."""

import json

import numpy as np
import pandas as pd
import pytest
from transformers import pipeline

from modeling_cpsl.experiments.prediction import predict_table
from modeling_cpsl.experiments.run import run
from modeling_cpsl.training.task_metrics import metrics_of


WORDS = {"happy": ["great", "wonderful"], "sad": ["terrible", "boring"], "calm": ["slow", "quiet"]}
LABELS = {
    "class": lambda name: {"label": name},
    "classes": lambda name: {"label": [name, "talking"] if name != "calm" else []},
    "numbers": lambda name: {"label": {"valence": 1.0 + 2 * (name == "happy"), "arousal": 4.0 * (name != "calm")}},
}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=LABELS)
def finished(request, tmp_path_factory):
    """The kind, the file and the folder of a run on it."""
    folder = tmp_path_factory.mktemp(request.param)
    rng, rows = np.random.default_rng(0), []
    for index in range(90):
        name = [*WORDS][index % 3]
        text = f"this movie was {rng.choice(WORDS[name])} and it felt {rng.choice(WORDS[name])}"
        split = "train" if index < 48 else "validation" if index < 72 else "test"
        rows.append({"id": f"s{index}", "split": split, "text": text, **LABELS[request.param](name)})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = run(
        "sample",
        dataset=str(folder / "data.jsonl"),
        modalities=["text"],
        output_dir=str(folder / "run"),
        num_train_epochs=4,
        learning_rate=3e-3,
        **({} if request.param == "numbers" else {"class_weights": "balanced"}),
    )
    return request.param, folder / "data.jsonl", folder / "run", results


def test_it_learns_and_leaves_its_records(finished):
    kind, _, folder, results = finished
    sentiment = pipeline("multimodal-sentiment", model=str(folder), device="cpu")
    task = sentiment.model.task
    assert {f"test_{name}" for name in metrics_of(task)} <= results.keys()
    best = {"class": "f1_weighted", "classes": "f1_macro", "numbers": "corr"}[kind]
    assert results[f"test_{best}"] > 0.6
    assert (folder / "confusion.png").is_file() == (kind == "class")
    table, card = pd.read_parquet(folder / "predictions_test.parquet"), (folder / "README.md").read_text()
    assert len(table) == 18 and task.title in card and f"`{best}`" in card
    assert "sentiment" not in card.partition("## Figures")[0].partition("# run")[2].replace("multimodal-sentiment", "")
    ((name, quantiles),) = sentiment.model.config.interval_half_widths.items()
    assert name == "text" and np.shape(quantiles) == (() if kind == "class" else (len(task.names),))
    result = sentiment({"text": "this movie was great and it felt wonderful"}, explain=True)
    region = result["uncertainty"]["interval" if kind == "numbers" else "set"]
    if kind == "class":
        assert result["label"] == region[0] == "happy" and result["score"] == result["probabilities"]["happy"]
    else:
        assert region.keys() == result["score"].keys() == {*task.names}
        assert kind == "numbers" or result["label"] == ["happy", "talking"]


def test_its_predictions_are_a_table_of_any_format(finished, tmp_path):
    kind, data, folder, _ = finished
    tables = {}
    for suffix in ("parquet", "csv", "jsonl"):
        out = tmp_path / f"out.{suffix}"
        assert predict_table(str(folder), str(data), out, device="cpu", explain=True) == (90, 0, 0)
        assert predict_table(str(folder), str(data), out, device="cpu", explain=True) == (0, 90, 0)
        read = {"parquet": pd.read_parquet, "csv": pd.read_csv, "jsonl": lambda path: pd.read_json(path, lines=True)}
        tables[suffix] = read[suffix](out)
    table = tables["parquet"]
    assert all(list(other.columns) == list(table.columns) for other in tables.values())
    last = pd.read_parquet(folder / "predictions_test.parquet").set_index("id")
    same = table.set_index("id").loc[last.index]
    if kind == "numbers":
        assert np.allclose(same["prediction_valence"], last["prediction_valence"], atol=1e-5)
        assert (table["interval_low_arousal"] <= table["score_arousal"]).all()
        assert (same["label_valence"] == last["label_valence"]).all()
    else:
        assert (same["prediction"] == last["prediction"]).all() and (same["label"] == last["label"]).all()
        assert table["set"].notna().all() and table["coverage"].eq(0.9).all()
