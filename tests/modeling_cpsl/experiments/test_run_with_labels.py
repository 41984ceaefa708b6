"""Labels of each kind, from a file to the records of a run, its card, the Hub, its pipeline and a table."""

import json
import signal
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from forked import ForkedProcess, is_written
from huggingface_hub import ModelCard
from labelled_runs import LABELS, SIZES, labelled_rows, labelled_run, train, write_rows
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoProcessor
from warm_python import warm_python

from cpsl import main
from modeling_cpsl.experiments import records
from modeling_cpsl.experiments.loading import load_pipeline
from modeling_cpsl.experiments.prediction import predict_table
from modeling_cpsl.training.task_metrics import best_metric, metrics_of, overall_metrics


TITLES = {
    "number": "Multimodal sentiment regression",
    "numbers": "Regression of valence, arousal",
    "class": "Classification into 3 classes",
    "classes": "Classification into any of 3 classes",
}
PREDICTED = {
    "number": "sentiment from -1 to 1",
    "numbers": "valence, arousal",
    "class": "one of calm, happy, sad",
    "classes": "any of happy, sad, talking",
}
BEST = {"number": "corr", "numbers": "corr", "class": "f1_weighted", "classes": "f1_macro"}
# What the Hub calls a metric, by how its name begins.
HUB_TYPES = {
    **dict.fromkeys(("accuracy", "acc2", "acc3", "acc5"), "accuracy"),
    **{name: name for name in ("mae", "ccc", "f1", "precision", "recall", "count")},
    **{"corr": "pearsonr", "uar": "recall", "exact": "exact_match"},
}
SETS = ("acoustic+text+visual", "text+visual")  # of modalities that utterances have
# What the first snippet of each card does where nothing of this package is imported.
RUN_SNIPPETS = """
import json, re, sys
logits = {}
for name in sys.argv[1:]:
    card, scope = open(f"{name}/README.md", encoding="utf-8").read(), {}
    exec(re.search(r"```python\\n(.*?)```", card, re.DOTALL)[1], scope)
    assert type(scope["model"]).__module__.startswith("transformers_modules."), type(scope["model"])
    logits[name] = scope["output"].logits.tolist()
assert "modeling_cpsl" not in sys.modules
print(json.dumps(logits))
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=LABELS)
def finished(request):
    return labelled_run(request.param)


@pytest.fixture(scope="module")
def sentiment(finished):
    return load_pipeline(str(finished.folder), "cpu")


def test_it_learns_and_leaves_its_records(finished, sentiment):
    kind, _, folder, _ = finished
    task, results = sentiment.model.task, records.read_results(folder)
    assert {f"test_{name}" for name in metrics_of(task)} <= results.keys()
    assert results[f"test_{BEST[kind]}"] > 0.6
    assert (folder / "confusion.png").is_file() == (kind == "class")
    table, card = pd.read_parquet(folder / "predictions_test.parquet"), (folder / "README.md").read_text()
    assert len(table) == 18 and task.title == TITLES[kind] and task.title in card
    assert f"The epoch was chosen on the validation split (by `{best_metric(task)}`)" in card
    assert f"predicts {PREDICTED[kind]} for an utterance" in card
    said = card.partition("## Figures")[0].partition("# ")[2].replace("multimodal-sentiment", "")
    assert ("sentiment" in said) == (kind == "number")
    quantiles = sentiment.model.config.interval_half_widths
    assert sorted(quantiles) == [*SETS]
    shape = (len(task.names),) if kind in ("numbers", "classes") else ()
    assert {np.shape(of_set) for of_set in quantiles.values()} == {shape}


def test_its_card_tells_the_hub_what_it_predicts(finished, sentiment):
    data, results = ModelCard.load(finished.pushed / "README.md").data, records.read_results(finished.folder)
    assert data.pipeline_tag == "text-classification" and "sentiment-analysis" not in data.tags
    assert {(result.task_type, result.task_name) for result in data.eval_results} == {
        ("text-classification", TITLES[finished.kind])
    }
    written = {(result.dataset_split, result.metric_name): result for result in data.eval_results}
    splits, names = ("validation", "test"), metrics_of(sentiment.model.task)
    assert written.keys() == {(split, name) for split in splits for name in names}
    for (split, name), result in written.items():
        assert result.metric_type == HUB_TYPES[name.partition("_")[0]], name
        assert result.metric_value == pytest.approx(results[f"{split}_{name}"], abs=6e-5)
    assert {*data.metrics} == {result.metric_type for result in written.values()}


def test_its_figures_are_reported(finished, sentiment, capsys):
    assert main(["report", str(finished.folder)]) == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert header.strip("| ").split(" | ") == ["row", "runs", *overall_metrics(sentiment.model.task)]


def test_what_was_pushed_needs_transformers_alone(tmp_path):
    words, features = [["the", "film", "was", "great"]], {name: [np.zeros((4, size))] for name, size in SIZES.items()}
    expected = {}
    for kind in LABELS:
        made = labelled_run(kind)
        (tmp_path / made.folder.name).symlink_to(made.pushed)
        model, processor = (
            auto_class.from_pretrained(made.folder)
            for auto_class in (AutoModelForSequenceClassification, AutoProcessor)
        )
        with torch.no_grad():
            expected[made.folder.name] = model(**processor(words=words, **features)).logits
    command = [warm_python(), "-c", RUN_SNIPPETS, *expected]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    for name, logits in expected.items():
        torch.testing.assert_close(torch.tensor(found[name]), logits, rtol=0, atol=1e-6)


def test_its_pipeline_says_what_it_predicts_and_how_surely(finished, sentiment):
    kind, names = finished.kind, sentiment.model.task.names
    happy = next(row for row in labelled_rows(kind) if "great" in row["words"] and row["acoustic"] is None)
    result = sentiment(happy, explain=True)
    region = result["uncertainty"]["interval" if "number" in kind else "set"]
    if kind == "number":
        assert "positive" in result["label"] and -1 <= region[0] <= result["score"] <= region[1] <= 1
    elif kind == "class":
        assert result["label"] == region[0] == "happy" and result["score"] == result["probabilities"]["happy"]
    else:
        assert region.keys() == result["score"].keys() == {*names}
        assert kind == "numbers" or result["label"] == ["happy", "talking"]


@pytest.mark.parametrize("given", ["text", "acoustic+visual", *SETS])
def test_a_missing_modality_is_told_and_has_no_say(finished, sentiment, given):
    row, task, names = labelled_rows(finished.kind)[0], sentiment.model.task, given.split("+")
    result = sentiment({name: row[name] for name in given.replace("text", "words").split("+")}, explain=True)
    parts = result["modalities"]
    assert sorted(name for name, part in parts.items() if part is not None) == names
    assert {parts[name]["delta"] is None for name in names} == {len(names) == 1}
    if "text" in names:  # without words a row of features is one token
        inputs = sentiment.processor(words=[row["words"]], **{name: [row[name]] for name in SIZES})
        mask = {name: torch.tensor([name in names]) for name in sentiment.model.modality_names}
        with torch.no_grad():
            [masked] = task.results(sentiment.model(**inputs | {"modality_mask": mask}).logits)
        assert task.scores_of(result) == pytest.approx(task.scores_of(masked), abs=1e-5)
    quantiles = sentiment.model.config.interval_half_widths.get(given)
    assert (quantiles is not None) == (given in SETS)
    if quantiles is None:
        assert result["uncertainty"] is None
    else:
        region = task.region(np.array(task.scores_of(result)), np.array(quantiles))
        assert result["uncertainty"] == {"coverage": 0.9, **region}


def test_its_predictions_are_a_table_of_any_format(finished, sentiment, tmp_path):
    kind, names = finished.kind, sentiment.model.task.names
    data = write_rows([row for row in labelled_rows(kind) if row["split"] == "test"], tmp_path / "data.jsonl")
    tables = {}
    for suffix in ("parquet", "csv", "jsonl"):
        out = tmp_path / f"out.{suffix}"
        for expected in ((18, 0, 0), (0, 18, 0)):
            assert predict_table(str(finished.folder), str(data), out, device="cpu", explain="words") == expected
        read = {"parquet": pd.read_parquet, "csv": pd.read_csv, "jsonl": lambda path: pd.read_json(path, lines=True)}
        tables[suffix] = read[suffix](out)
    table = tables["parquet"]
    assert all(list(other.columns) == list(table.columns) for other in tables.values())
    last = pd.read_parquet(finished.folder / "predictions_test.parquet")
    same = [name for name in last.columns if not name.startswith("prediction_acoustic")]
    pd.testing.assert_frame_equal(table[same], last[same], check_exact=False, atol=1e-5)
    by_name = [f"_{name}" for name in names] if kind in ("numbers", "classes") else [""]
    for end in by_name:
        assert [len(shares) for shares in table[f"word_shares{end}"]] == [8] * 18
    without_voice = table[f"prediction_acoustic{by_name[0] if kind == 'numbers' else ''}"].isna()
    assert without_voice.tolist() == [False, True] * 9 and table["coverage"].eq(0.9).all()
    if "number" in kind:
        for end in by_name:
            assert (table[f"interval_low{end}"] <= table[f"score{end}"]).all()
    else:
        assert table["set"].notna().all()


def test_draws_of_latents_have_a_deviation_in_the_table(finished, sentiment, tmp_path):
    data = write_rows(labelled_rows(finished.kind)[:4], tmp_path / "data.jsonl")
    predict_table(str(finished.folder), str(data), tmp_path / "out.parquet", device="cpu", num_samples=3)
    ends = [""] if finished.kind == "number" else [f"_{name}" for name in sentiment.model.task.names]
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert (table[[f"std{end}" for end in ends]] > 0).all(axis=None)


def test_a_training_that_is_killed_goes_on_to_the_same_end(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    process = ForkedProcess(train, finished.kind, finished.data, folder)
    process.signal_when(lambda: is_written(folder / "checkpoint-6" / "trainer_state.json"), signal.SIGKILL)
    process.start()
    process.finish()
    assert process.exitcode == -signal.SIGKILL and not (folder / "all_results.json").exists()
    train(finished.kind, finished.data, folder, resume_from_checkpoint="last")
    assert "resumed from" in capsys.readouterr().out
    weights, expected = (load_file(made / "model.safetensors") for made in (folder, finished.folder))
    assert weights.keys() == expected.keys()
    assert [name for name, value in weights.items() if not torch.equal(value, expected[name])] == []
    for split in ("validation", "test"):
        tables = [records.read_predictions(made, split) for made in (folder, finished.folder)]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
