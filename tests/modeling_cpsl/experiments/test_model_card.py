"""Model cards: what training writes, what it leaves out, and that its snippet runs as it stands."""

import ast
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import transformers.trainer
import yaml
from datasets import DatasetDict
from forked import ForkedProcess
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from run_cases import pictures_not_rendered
from training_cases import make_trainer

from cpsl import main
from data_builders import load_aligned_dataset
from modeling_cpsl import CPSLConfig, compute_sentiment_metrics
from modeling_cpsl.experiments.model_card import write_model_card
from modeling_cpsl.training.metrics import METRICS


ROOT = Path(__file__).parents[3]

QUICK = [
    *("--max_steps", "3", "--latent_size", "16", "--modality_hidden_size", "16", "--fusion_size", "16"),
    *("--max_length", "24", "--disable_tqdm", "true"),
    *("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"),
]
RUNS = {"all": [], "text": ["--modalities", "text"], "no-text": ["--modalities", "acoustic,visual,timing"]}


def train(output_dir, *options):
    with pictures_not_rendered():
        assert main(["train", "sample", "--output_dir", str(output_dir), *QUICK, *options]) == 0
    return output_dir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("machine")
    return {name: train(folder / name, *options) for name, options in RUNS.items()}


@pytest.fixture(scope="module")
def corpus():
    return load_aligned_dataset("sample")


@pytest.fixture(scope="module")
def short_corpus(corpus):
    """With few utterances to train on, which are counted for each card."""
    return DatasetDict(corpus | {"train": corpus["train"].select(range(9))})


@pytest.fixture
def finished(runs, tmp_path):
    """A copy of a finished run that a test may change; as a run leaves it, but without a card."""
    folder = shutil.copytree(runs["all"], tmp_path / "finished")
    (folder / "README.md").unlink()
    return folder


def write_card(folder, corpus, **recipe_changes):
    path = folder / "resolved_config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | recipe_changes, sort_keys=False))
    write_model_card(folder, corpus)
    return ModelCard.load(folder / "README.md")


def resolved_config(card):
    """The recipe that the card shows, read as its readers would."""
    (block,) = re.findall(r"```yaml\n(.*?)```\n", card.text, flags=re.DOTALL)
    return yaml.safe_load(block)


def links(text):
    return re.findall(r"\]\((?!https?:)([^)]+)\)", text)


def test_metadata_is_what_the_hub_reads(runs):
    data = ModelCard.load(runs["all"] / "README.md").data
    assert (data.language, data.license, data.library_name) == ("en", "apache-2.0", "transformers")
    assert data.pipeline_tag == "text-classification"
    assert {"cpsl", "multimodal-sentiment-analysis", "acoustic", "visual"} <= set(data.tags)
    assert data.get("base_model") is None  # the sample's text encoder is random and on no Hub


def test_results_of_both_protocols_and_splits_come_back_from_the_metadata(runs):
    data = ModelCard.load(runs["all"] / "README.md").data
    written = {(result.dataset_split, result.metric_name): result for result in data.eval_results}
    assert written.keys() == {(split, name) for split in ("validation", "test") for name in METRICS}
    for split in ("validation", "test"):
        predictions = pd.read_parquet(runs["all"] / f"predictions_{split}.parquet")
        metrics = compute_sentiment_metrics(predictions["prediction"].to_numpy(), predictions["label"].to_numpy())
        for name in METRICS:
            assert written[split, name].metric_value == pytest.approx(metrics[name], abs=6e-5)
    kinds = {name: written["test", name].metric_type for name in ("mae", "corr", "acc7", "acc2_has0", "f1_nonzero")}
    assert kinds == {"mae": "mae", "corr": "pearsonr", "acc7": "accuracy", "acc2_has0": "accuracy", "f1_nonzero": "f1"}
    assert {(result.dataset_type, result.dataset_config) for result in written.values()} == {("sample", "sample")}


def test_text_shows_the_same_figures_as_the_metadata(runs):
    card = ModelCard.load(runs["all"] / "README.md")
    rows = dict(re.findall(r"`(\w+)` \| (-?[\d.]+ \| -?[\d.]+) \|", card.text))
    for name in METRICS:
        values = [result.metric_value for result in card.data.eval_results if result.metric_name == name]
        assert rows[name] == " | ".join(f"{value:.4f}" for value in values)


def test_a_figure_that_could_not_be_computed_is_in_the_text_alone(finished, corpus):
    path = finished / "all_results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_acc2_nonzero": float("nan")}))
    card = write_card(finished, corpus)
    assert ("test", "acc2_nonzero") not in {(r.dataset_split, r.metric_name) for r in card.data.eval_results}
    assert len(card.data.eval_results) == 2 * len(METRICS) - 1
    assert re.search(r"`acc2_nonzero` \| [\d.]+ \| nan \|", card.text)


def run_snippets(folders):
    os.chdir(folders[0].parent)
    warnings.simplefilter("error", UserWarning)
    for folder in folders:
        names = {}
        for block in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL):
            exec(compile(block, folder, "exec"), names)


def test_snippets_run_as_written(runs):
    process = ForkedProcess(run_snippets, list(runs.values()))
    process.start()
    output, errors = process.finish()
    assert process.exitcode == 0, errors[-3000:]
    printed = re.findall(r"^\[\{'value': (\S+),.*\n(\{.*\})$", output, flags=re.MULTILINE)
    results = [ast.literal_eval(result) for _, result in printed]
    assert [set(result["modalities"]) for result in results] == [
        {"text", "acoustic", "visual"},
        {"text"},
        {"acoustic", "visual", "timing"},
    ]
    for (value, _), result in zip(printed, results, strict=True):
        assert result["score"] == pytest.approx(float(value), abs=1e-5)


@pytest.mark.parametrize("normalization", ["minmax_running", "minmax_batch"])
def test_whether_a_prediction_depends_on_its_batch_is_said(finished, corpus, normalization):
    path = finished / "resolved_config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"feature_normalization": normalization}))
    text = write_card(finished, corpus).text
    assert ("A prediction depends on the other utterances of its batch" in text) == (normalization == "minmax_batch")
    assert ("A prediction does not depend on the other utterances of its batch." in text) == (
        normalization == "minmax_running"
    )


def test_snippet_of_a_pushed_model_names_it(finished, corpus):
    assert 'folder = "somebody/mine"' in write_card(finished, corpus, hub_model_id="somebody/mine").text


def test_a_stream_is_counted_likewise(runs, finished):
    def of_data(text):
        return text.partition("## Data")[2].partition("## Training")[0]

    streamed = write_card(finished, load_aligned_dataset("sample", streaming=True))
    assert of_data(streamed.text) == of_data((runs["all"] / "README.md").read_text())


def test_resolved_configuration_in_the_card_is_the_runs(runs):
    shown = resolved_config(ModelCard.load(runs["all"] / "README.md"))
    config = yaml.safe_load((runs["all"] / "resolved_config.yaml").read_text())
    assert shown == {name: value for name, value in config.items() if value is not None} | {"output_dir": "all"}
    assert shown["versions"]["transformers"] == transformers.__version__


def test_data_is_counted(runs):
    text = (runs["all"] / "README.md").read_text()
    splits = load_aligned_dataset("sample")
    for name, split in splits.items():
        labels = np.array(split["label"])
        facts = [
            *(len(split), len(set(split["video_id"])), sum(len(words) for words in split["words"])),
            *(f"{labels.mean():.2f} ± {labels.std():.2f}", (labels == 0).sum(), 0, 0),
        ]
        assert f"| {name} | {' | '.join(map(str, facts))} |\n" in text
    assert "read as `sample`" in text
    assert "- `acoustic`: 74 values a word, on the scale of the source; the extractor is not recorded" in text


def test_missing_and_utterance_level_features_are_told(finished, corpus):
    def change(row, index):
        acoustic = np.asarray(row["acoustic"], dtype=np.float32)
        return {"acoustic": acoustic[:0] if index < 3 else np.repeat(acoustic[:1], len(acoustic), axis=0)}

    changed = DatasetDict(corpus)
    changed["train"] = corpus["train"].map(change, with_indices=True, features=corpus["train"].features)
    text = write_card(finished, changed).text
    assert re.search(r"\| train \| 840 .*\| 3 \| 0 \|\n", text)
    assert re.search(r"\| test \| 240 .*\| 0 \| 0 \|\n", text)
    assert re.search(r"`acoustic`: 74 .*\*\*Utterance-level\*\*", text)
    assert not re.search(r"`visual`: 47 .*\*\*Utterance-level\*\*", text)
    assert "`acoustic` says nothing about single words" in text


AME, GM, GE, CP, SL = (
    "adaptive modality encoding (AME)",
    "gradient modulation (GM)",
    "gradient enhancement (GE)",
    "conflict-aware penalty (CP)",
    "statistical loss (SL)",
)


@pytest.mark.parametrize(
    ("name", "parts"), [("all", [AME, GM, GE, CP, SL]), ("text", ["none"]), ("no-text", [AME, GM, GE, CP, SL])]
)
def test_the_parts_in_use_are_named_in_words(runs, name, parts):
    text = (runs[name] / "README.md").read_text()
    assert f"\nParts of CPSL in use: {', '.join(parts)}. Seed: 0." in text
    assert ("plain regression" in text) == (name == "text")
    assert ("Text encoder: none" in text) == (name == "no-text")


def test_with_one_modality_there_is_nothing_to_balance(finished, corpus):
    text = write_card(finished, corpus, modulated_modalities=["acoustic"]).text
    assert f"\nParts of CPSL in use: {AME}, {SL}. " in text
    text = write_card(finished, corpus, modulated_modalities=None, ge=False).text
    assert f"\nParts of CPSL in use: {AME}, {GM}, {CP}, {SL}. " in text


def test_the_range_of_labels_is_the_tasks(runs):
    text = (runs["all"] / "README.md").read_text()
    assert (
        "the sentiment of an utterance, from -3 (highly negative) to 3 (highly positive), from its words and" in text
    )


@pytest.mark.parametrize("name", RUNS)
def test_plots_are_linked_where_they_are(runs, name):
    targets = links((runs[name] / "README.md").read_text())
    assert targets == ["training_dynamics.png", *(["modulation.png"] if name != "text" else [])]
    assert all((runs[name] / target).is_file() for target in targets)


def test_plot_of_an_earlier_run_is_not_linked(runs, corpus, tmp_path):
    folder = shutil.copytree(runs["text"], tmp_path / "again")
    (folder / "modulation.png").write_bytes(b"")
    assert links(write_card(folder, corpus).text) == ["training_dynamics.png"]


def test_data_without_other_splits_and_with_a_hostile_name(corpus, tmp_path):
    path = tmp_path / "x: {{ 7 * 7 }} `'\n---\n# y|.parquet"
    corpus["train"].select(range(20)).to_parquet(path)
    card = ModelCard.load(train(tmp_path / "run", "--dataset", str(path)) / "README.md")
    assert not card.data.eval_results
    assert (card.data.license, card.data.get("language")) == ("unknown", None)
    assert "the data had neither a validation nor a test split" in card.text
    assert "x: {{ 7 * 7 }} '' --- # y|.parquet" in card.text
    assert "49" not in card.text.partition("## Data")[2].partition("## Training")[0]
    assert str(tmp_path) not in card.content
    assert "| train | 20 |" in card.text


@given(st.text(min_size=1))
@example("a: b").via("YAML")
@example("- x").via("YAML")
@example("~").via("YAML")
@example("x\n---\ny").via("end of the metadata")
@example("'\"`|<b>{{ 7 * 7 }}{% raw %}").via("Jinja and Markdown")
@example("```\n# no").via("end of the code block")
@example("caf\udce9").via("a file name that is no UTF-8")
@example("\x00\x07\x85\u2028").via("YAML's own line ends and what it refuses")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_breaks_metadata_or_text(finished, short_corpus, name):
    card = write_card(finished, short_corpus, dataset=name, run_name=name)
    assert len(card.data.eval_results) == 2 * len(METRICS)
    assert isinstance(card.data.eval_results[0].dataset_name, str)
    config = resolved_config(card)
    assert config["seed"] == 0 and isinstance(config["dataset"], str)
    assert card.text.count("\n## ") == 7


def test_paths_of_the_machine_stay_on_it(finished, corpus, tmp_path):
    card = write_card(
        finished,
        corpus,
        dataset=str(tmp_path / "secret" / "clips.pkl"),
        data_dir="../secret/clips",
        resume_from_checkpoint=str(tmp_path / "secret" / "checkpoint-3"),
        accelerator_config={"x": [str(tmp_path / "secret" / "y")]},
        model_name_or_path=str(tmp_path),
    )
    assert "secret" not in card.content
    assert str(tmp_path) not in card.content
    shown = resolved_config(card)
    assert (shown["dataset"], shown["data_dir"], shown["accelerator_config"]) == ("clips.pkl", "clips", {"x": ["y"]})
    assert resolved_config(write_card(finished, corpus, dataset="data/clips.pkl"))["dataset"] == "data/clips.pkl"


@pytest.mark.parametrize(
    ("readme", "license"),
    [
        ("---\nlicense: mit\n---\n# x", "mit"),
        ("---\nlicense: [mit, other]\n---\n", "unknown"),
        ("---\nlicense: {\n---\n", "unknown"),
        (b"\xff\xfe\x00", "unknown"),
        ("# no metadata", "unknown"),
        (None, "unknown"),
    ],
)
def test_licence_of_the_encoder_is_read_from_its_own_card(finished, corpus, tmp_path, readme, license):
    folder = tmp_path / "my-encoder"
    folder.mkdir()
    if readme is not None:
        (folder / "README.md").write_bytes(readme if isinstance(readme, bytes) else readme.encode())
    card = write_card(finished, corpus, model_name_or_path=str(folder))
    assert card.data.license == license
    assert card.data.get("base_model") is None
    shown = "not known to this card; see the encoder's own card" if license == "unknown" else license
    assert f"Text encoder: {shown}." in card.text
    assert "`my-encoder`, from a folder" in card.text
    assert ("whoever shares the model" in card.text) == (license == "unknown")


def test_encoder_from_the_hub_is_the_base_model(finished, corpus, monkeypatch, tmp_path):
    monkeypatch.setattr("modeling_cpsl.experiments.model_card.try_to_load_from_cache", lambda repo, name: None)
    card = write_card(finished, corpus, model_name_or_path="microsoft/deberta-v3-base", dataset="mosi")
    assert card.data.base_model == "microsoft/deberta-v3-base"
    assert card.data.eval_results[0].dataset_name == "CMU-MOSI"
    assert (card.data.license, card.data.language) == ("unknown", "en")
    assert "states a licence for its software but none for the data" in card.text
    (tmp_path / "cached.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr(
        "modeling_cpsl.experiments.model_card.try_to_load_from_cache", lambda repo, name: str(tmp_path / "cached.md")
    )
    assert "Text encoder: mit." in write_card(finished, corpus, model_name_or_path="microsoft/deberta-v3-base").text


def test_interval_and_its_measured_coverage(finished, corpus):
    config = CPSLConfig.from_pretrained(finished)
    config.interval_half_widths, config.interval_coverage = None, None
    config.save_pretrained(finished)
    assert "**Interval**" not in write_card(finished, corpus).text
    config.interval_half_widths, config.interval_coverage = {"acoustic+text+visual": 1.25, "text": 2.0}, 0.9
    config.save_pretrained(finished)
    predictions = pd.read_parquet(finished / "predictions_test.parquet")
    predictions.loc[:4, "prediction"] = 4.0  # a score is at most 3, and the interval stands around the score
    predictions.loc[:4, "label"] = 1.8
    predictions.to_parquet(finished / "predictions_test.parquet")
    errors = (predictions["prediction"].clip(-3, 3) - predictions["label"]).abs()
    covered = errors <= 1.25
    assert covered[:5].all() and not covered.all()
    text = write_card(finished, corpus).text
    assert (
        "a prediction, ± 1.250 (`acoustic+text+visual`), ± 2.000 (`text`), is meant to contain 90 % of the labels"
        in text
    )
    assert f"On the test split it contained {100 * covered.mean():.1f} % of {len(predictions)} labels." in text


def test_coverage_is_measured_where_there_is_an_interval(finished, corpus):
    """The first 100 test samples have no voice: their interval is another one, or there is none."""

    def silence(row, index):
        return {"acoustic": np.asarray(row["acoustic"], dtype=np.float32)[: 0 if index < 100 else None]}

    test = corpus["test"].map(silence, with_indices=True, features=corpus["test"].features)
    corpus = corpus | {"test": test}
    predictions = pd.read_parquet(finished / "predictions_test.parquet")
    errors = (predictions["prediction"].clip(-3, 3) - predictions["label"]).abs()
    config = CPSLConfig.from_pretrained(finished)
    config.interval_coverage = 0.9
    for half_widths, widths in (
        ({"acoustic+text+visual": 1.25}, [None] * 100 + [1.25] * 140),
        ({"acoustic+text+visual": 1.25, "text+visual": 0.5}, [0.5] * 100 + [1.25] * 140),
    ):
        config.interval_half_widths = half_widths
        config.save_pretrained(finished)
        held = [error <= width for error, width in zip(errors, widths, strict=True) if width is not None]
        text = write_card(finished, corpus).text
        assert f"On the test split it contained {100 * np.mean(held):.1f} % of {len(held)} labels." in text


def test_readme_that_is_no_card_is_left_alone(finished, corpus, caplog):
    others = (
        "# My project",
        "---\ntags: 5\n---\n# Mine",
        "---\n{\n---\n",
        "---\ntags:\n- not-cpsl-at-all\n---\n# Mine",
    )
    for content in others:
        (finished / "README.md").write_text(content)
        write_model_card(finished, corpus)
        assert (finished / "README.md").read_text() == content
        assert "left as it is" in caplog.text
        caplog.clear()
    for content in ("---\ntags:\n- generated_from_trainer\n---\n", "---\ntags:\n- cpsl\n---\n# Of an earlier run"):
        (finished / "README.md").write_text(content)
        write_model_card(finished, corpus)
        assert "## Limits" in (finished / "README.md").read_text()


def test_trainers_draft_does_not_replace_a_card(tmp_path):
    trainer = make_trainer(tmp_path)
    card = Path(trainer.args.output_dir) / "README.md"
    card.parent.mkdir(parents=True, exist_ok=True)
    trainer.create_model_card(model_name="draft")
    assert "generated_from_trainer" in ModelCard.load(card).data.tags
    trainer.create_model_card(model_name="later draft")
    assert "# later draft" in card.read_text()
    card.write_text("---\ntags:\n- cpsl\n---\n# A card\n")
    trainer.create_model_card(model_name="draft")
    assert card.read_text() == "---\ntags:\n- cpsl\n---\n# A card\n"
