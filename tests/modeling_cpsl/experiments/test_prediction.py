"""`predict`: data of any format in, a table out, and what is wrong on one line."""

import inspect
import io
import json
import os
import shutil
import signal
import sys
import tracemalloc

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import PartialState
from forked import ForkedProcess
from prediction_cases import READ_TABLE, corpus, run, write_jsonl
from task_cases import KINDS
from tiny_models import plain_config
from transformers import pipeline

from cpsl import main
from modeling_cpsl.experiments import prediction
from modeling_cpsl.experiments.prediction import predict_table
from modeling_cpsl.experiments.prediction_tables import WRITERS, prediction_columns
from modeling_cpsl.pipeline_cpsl import MultimodalSentimentPipeline


@pytest.fixture
def small_csd(tmp_path):
    """Computational sequences of one video of three words, with 74 COVAREP columns."""
    sequences = {
        "CMU_MOSI_TimestampedWords": (np.array([[b"a"], [b"good"], [b"film"]]), [[0, 1], [1, 2], [2, 3]]),
        "CMU_MOSI_Opinion_Labels": (np.array([[1.0]], "f4"), [[0, 3]]),
        "CMU_MOSI_COVAREP": (np.ones((6, 74)), [[k / 2, k / 2 + 0.5] for k in range(6)]),
    }
    folder = tmp_path / "csd"
    folder.mkdir()
    for name, (features, intervals) in sequences.items():
        with h5py.File(folder / f"{name}.csd", "w") as file:
            group = file.create_group(f"{name}/data/03bSnISJMiM")
            group["features"], group["intervals"] = features, np.array(intervals, float)
    return folder


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_table_says_what_the_pipeline_says(trained_folder, tmp_path, suffix):
    out = tmp_path / f"new/predictions{suffix}"
    rows = corpus(30)
    rows[0]["label"], rows[1]["label"], rows[2]["label"] = 1.5, 9, "good"  # true labels are given where they are right
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    assert run(trained_folder, data, out, "--batch_size", 4, "--explain") == 0
    table = READ_TABLE[suffix](out)
    others = "weight_acoustic weight_visual delta_text delta_acoustic delta_visual interval_low interval_high coverage"
    expected = ["id", "split", *prediction_columns(["text", "acoustic", "visual"]), *others.split()]
    assert list(table) == [*expected, "num_cut", "error", "model", "digest"]
    assert table["label"].isna().tolist() == [False] + [True] * 29 and table["label"][0] == 1.5
    assert list(table["id"]) == [f"{index:05}" for index in range(30)]
    assert set(table["split"]) == {"train"} and table["model"].nunique() == 1
    sentiment = pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")
    for (_, row), utterance in zip(table.iterrows(), corpus(30), strict=True):
        expected = sentiment(utterance, explain=True)
        assert row["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert row["prediction"] == pytest.approx(expected["prediction"], abs=1e-5)
        assert (row["sentiment"], row["acc7_class"]) == (expected["label"], expected["acc7_class"])
        for name, part in expected["modalities"].items():
            assert np.isnan(row[f"prediction_{name}"]) == (part is None)
            for key, value in (part or {}).items():
                assert key == "score" or row[f"{key}_{name}"] == pytest.approx(value, abs=1e-5)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("suffix", WRITERS)
def test_each_word_has_its_share(trained_folder, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    rows = [*corpus(3), {"id": "silent", "words": [], "visual": [[0.5] * 47]}]
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    sentiment = pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")
    expected = [sentiment(row | {"words": row["words"] or None}, explain="words")["word_shares"] for row in rows]
    for _ in range(2):  # the second time from the table
        assert run(trained_folder, data, out, "--explain", "words") == 0
        for shares, found in zip(expected, READ_TABLE[suffix](out)["word_shares"], strict=True):
            found = json.loads(found) if isinstance(found, str) else found
            if shares is None:
                assert found is None or found != found
            else:
                assert np.array(found, float) == pytest.approx(np.array(shares, float), abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_each_word_has_its_share_in_labels_of_any_kind(folder_of_kind, tmp_path, kind):
    out, rows = tmp_path / "out.csv", [*corpus(3), {"id": "silent", "words": [], "visual": [[0.5] * 47]}]
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    predict = pipeline("multimodal-sentiment", model=str(folder_of_kind(kind)), device="cpu")
    expected = [predict(row | {"words": row["words"] or None}, explain="words")["word_shares"] for row in rows]
    for _ in range(2):  # the second time from the table
        assert run(folder_of_kind(kind), data, out, "--explain", "words") == 0
        table = READ_TABLE[".csv"](out)
        is_one = kind in ("number", "class")
        names = [""] if is_one else [f"_{name}" for name in predict.model.task.names]
        assert [name for name in table if name.startswith("word_shares")] == [f"word_shares{name}" for name in names]
        for shares, (_, row) in zip(expected, table.iterrows(), strict=True):
            for name in names:
                if shares is None:
                    assert pd.isna(row[f"word_shares{name}"])
                else:
                    own = [share if is_one else share and share[name[1:]] for share in shares]
                    found = np.array(json.loads(row[f"word_shares{name}"]), float)
                    assert found == pytest.approx(np.array(own, float), abs=1e-5, nan_ok=True)


def test_a_batch_that_is_too_large_for_the_device(trained_folder, data, tmp_path, capsys, monkeypatch):
    forward = MultimodalSentimentPipeline._forward

    def forward_of_a_small_device(pipeline, batch, **options):
        if len(batch["attention_mask"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return forward(pipeline, batch, **options)

    monkeypatch.setattr(MultimodalSentimentPipeline, "_forward", forward_of_a_small_device)
    assert run(trained_folder, data, tmp_path / "out.csv", "--batch_size", 8) == 1
    error = capsys.readouterr().err
    assert error == "cpsl predict: error: batch_size=8 needs more memory than the device has; give a smaller one\n"
    assert run(trained_folder, data, tmp_path / "out.csv", "--batch_size", 4) == 0


def test_samples_that_the_reader_leaves_out_are_told_each_time(trained_folder, tmp_path, capsys):
    rows = [*corpus(5), {"id": "blank", "words": []}, {"id": "empty", "text": "  "}, corpus(6)[5]]
    rows[1]["visual"] = rows[1]["visual"] + [[0.0] * 47]
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    assert run(trained_folder, data, tmp_path / "out.csv") == 1
    assert "00001" in capsys.readouterr().err
    for name in ("one.csv", "other.csv", "one.csv"):
        assert run(trained_folder, data, tmp_path / name, "--on_error", "skip") == 0
        output = capsys.readouterr().out
        assert "3 skipped" in output and (": 0 utterances" in output) == ("5 before" in output)
        table = READ_TABLE[".csv"](tmp_path / name).set_index("id")
        assert set(table.index[table["error"].notna()]) == {"00001", "blank", "empty"} and len(table) == 8
        assert table.loc["00001", "split"] == "train" and "visual" in table.loc["00001", "error"]
        assert table["score"].notna().sum() == 5


def test_bad_utterances(trained_folder, tmp_path, capsys):
    rows = corpus(6)
    rows[2]["visual"] = rows[2]["visual"][:-1] + [[0.0] * 47] * 3
    data, out = write_jsonl(rows, tmp_path / "data.jsonl"), tmp_path / "out.csv"
    assert run(trained_folder, data, out) == 1
    error = capsys.readouterr().err
    assert "00002" in error and "\n" not in error.split("error: ")[1].strip() and not out.exists()
    assert run(trained_folder, data, out, "--on_error", "skip") == 0
    table = READ_TABLE[".csv"](out)
    assert list(table["id"]) == ["00000", "00001", "00003", "00004", "00005", "00002"]
    assert table["error"].isna().tolist() == [True] * 5 + [False] and "visual" in table["error"].iloc[-1]


def test_nothing_but_bad_utterances_is_an_error_and_the_table_says_why(trained_folder, tmp_path, capsys):
    rows = corpus(2)
    for row in rows:
        row["visual"] = row["visual"] + [[0.0] * 47]
    data, out = write_jsonl(rows, tmp_path / "data.jsonl"), tmp_path / "out.csv"
    assert run(trained_folder, data, out, "--on_error", "skip") == 1
    assert "out.csv: not one utterance could be predicted; the column `error` says why" in capsys.readouterr().err
    assert READ_TABLE[".csv"](out)["error"].notna().sum() == 2


def test_data_without_a_modality(trained_folder, tmp_path):
    rows = [{name: row[name] for name in ("id", "words")} for row in corpus(5)]
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    assert run(trained_folder, data, tmp_path / "out.csv") == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["prediction_text"].notna().all() and table[["prediction_acoustic", "prediction_visual"]].isna().all(
        axis=None
    )


@pytest.mark.parametrize(
    ("rows", "lacking"),
    [
        (corpus(3), ""),
        ([{"id": "a", "words": ["great"]}], "there is no acoustic, no visual in the first 1 utterances"),
        ([row | {"words": None} for row in corpus(3)], "there is no text in the first 3 utterances"),
        ([row | {"acoustic": None} for row in corpus(3)], "there is no acoustic in the first 3 utterances"),
    ],
)
def test_modalities_that_the_data_lacks_are_named_in_one_line(trained_folder, tmp_path, caplog, rows, lacking):
    """Words under another name than `words` or `text` count as missing, which nobody would notice in the scores."""
    rows = [{name: value for name, value in row.items() if value} for row in rows]
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    assert run(trained_folder, data, tmp_path / "out.csv") == 0
    messages = [message for message in caplog.messages if "there is no" in message]
    assert messages == ([f"{data}: {lacking}; the model predicts them without"] if lacking else [])


@pytest.mark.parametrize("modalities", [["text", "visual"], ["visual"]])
def test_modalities_that_are_not_named_count_as_missing(trained_folder, tmp_path, capsys, modalities):
    rows, out = corpus(4), tmp_path / "out.jsonl"
    data = write_jsonl([row | {"acoustic": "[array([0.1, 0.2])]"} for row in rows], tmp_path / "data.jsonl")
    assert run(trained_folder, data, out) == 1
    assert "column acoustic: '[array([0.1" in capsys.readouterr().err and not out.exists()
    assert run(trained_folder, data, out, "--modalities", ",".join(modalities)) == 0
    sentiment = pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")
    given = [{name: row["words" if name == "text" else name] for name in modalities} for row in rows]
    expected = [sentiment({"words": row.pop("text", None), **row})["score"] for row in given]
    assert READ_TABLE[".jsonl"](out)["score"].tolist() == pytest.approx(expected, abs=1e-5)


def test_utterances_that_are_cut_are_counted_once(trained_folder, tmp_path, caplog):
    rows = [{"id": str(length), "words": ["great"] * length} for length in (3, 60, 5, 80) * 3]
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    assert run(trained_folder, data, tmp_path / "out.csv", "--batch_size", 1) == 0
    assert pd.read_csv(tmp_path / "out.csv")["num_cut"].gt(0).tolist() == [False, True] * 6
    (message,) = [message for message in caplog.messages if "were cut" in message]
    assert message == f"{tmp_path / 'out.csv'}: 6 utterances were cut to max_length=50 tokens, see num_cut"


def test_predictions_begin_before_the_data_has_been_read(trained_folder, tmp_path, capsys):
    rows = [{"id": str(index), "text": f"great {index}"} for index in range(600)]
    data, out = tmp_path / "data.csv", tmp_path / "out.csv"
    pd.DataFrame([*rows, {"id": "600", "text": None}]).to_csv(data, index=False)
    assert run(trained_folder, data, out, "--batch_size", 2) == 1
    assert "data.csv: sample 600: neither words nor features" in capsys.readouterr().err
    assert len((tmp_path / "out.csv.partial.jsonl").read_text().splitlines()) == 512
    pd.DataFrame(rows).to_csv(data, index=False)
    assert predict_table(str(trained_folder), str(data), out, device="cpu") == (88, 512, 0)


def test_a_terminal_shows_how_far_the_predictions_are(trained_folder, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    data = tmp_path / "data.csv"
    pd.DataFrame([{"text": "great\nmovie"}] * 20).to_csv(data, index=False)  # 40 lines, which 20 texts take
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert run(trained_folder, data, tmp_path / "out.csv", "--batch_size", 1) == 0
    shown = sys.stderr.getvalue()
    assert " 0/40 " in shown and " 20/20 " in shown and "utt/s" in shown


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(trained_folder, tmp_path):
    def peak(count):
        rows = [
            {"id": str(index), "words": [str(index), *["great"] * 9], "acoustic": [[index / 7] * 74] * 10}
            for index in range(count)
        ]
        data = tmp_path / f"{count}.parquet"
        pd.DataFrame(rows).to_parquet(data, row_group_size=100)
        del rows
        tracemalloc.start()
        predict_table(str(trained_folder), str(data), tmp_path / f"{count}.csv", device="cpu", batch_size=8)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(300)
    assert peak(1800) - peak(600) < 1200 * 10 * 74 * 4 / 5  # a fifth of what the features of the difference take


def test_calibration_and_draws_have_columns(trained_folder, data, tmp_path):
    sentiment = pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")
    half_widths = sentiment.calibrate(corpus(30, labels=True))
    assert half_widths.keys() == {"acoustic+text+visual", "text+visual"}
    sentiment.model.save_pretrained(tmp_path / "model")
    sentiment.processor.save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", data, tmp_path / "out.csv", "--num_samples", 3) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    sets = np.where(table["prediction_acoustic"].isna(), "text+visual", "acoustic+text+visual")
    half_width = np.array([half_widths[name] for name in sets])
    np.testing.assert_allclose(table["interval_high"], (table["score"] + half_width).clip(-3, 3), atol=1e-6)
    assert (table["std"] >= 0).all() and (table["coverage"] == 0.9).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "{data}", "out.txt"], "out.txt: the suffix '.txt' is not one of .parquet, .jsonl, .csv"),
        # Before anything is loaded.
        (["nowhere", "nowhere", "out.csv", "--batch_size", "0"], "batch_size=0 must be at least 1"),
        (["nowhere", "nowhere", "out.csv", "--num_samples", "0"], "num_samples=0 must be at least 1"),
        (["nowhere", "nowhere", "{data}/out.csv"], "data.jsonl"),
        (["nowhere", "nowhere", "folder.csv"], "folder.csv: this is a folder; name a file in it"),
        (["{model}", "nowhere.pkl", "out.csv"], "nowhere.pkl"),
        (["nowhere", "{data}", "out.csv"], "nowhere: not a readable CPSL model"),
        (["./nowhere", "{data}", "out.csv"], "./nowhere: no such file or folder"),
        (["{model}/nowhere", "{data}", "out.csv"], "nowhere: no such file or folder"),
        (["folder.csv/model", "{data}", "out.csv"], "folder.csv/model: no such file or folder"),
        (["{encoder}", "{data}", "out.csv"], "a model of type 'bert' and not of CPSL; train one with `cpsl train`"),
        (["{broken}", "{data}", "out.csv"], "not a readable CPSL model"),
        (["{wordless}", "{data}", "out.csv"], "its tokenizer has 7 entries and the text encoder"),
        (["{model}", "{data}", "out.csv", "--device", "abacus"], "abacus); name the folder"),
        (
            ["{model}", "{narrow}", "out.csv"],
            "the acoustic features have size 3, but the model was trained on size 74",
        ),
        (["{model}", "{data}", "{foreign}"], "foreign.csv: not predictions of this version"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(trained_folder, data, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    narrow = write_jsonl([{"id": "a", "words": ["x"], "acoustic": [[1.0] * 3]}], tmp_path / "narrow.jsonl")
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("a,b\n1,2\n")
    broken = shutil.copytree(trained_folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:3000])
    plain_config("bert").save_pretrained(tmp_path / "encoder")
    (tmp_path / "folder.csv").mkdir()
    places = {"broken": broken, "model": trained_folder, "data": data, "narrow": narrow, "foreign": foreign}
    wordless = shutil.copytree(trained_folder, tmp_path / "wordless")
    (wordless / "tokenizer.json").unlink()
    places |= {"encoder": tmp_path / "encoder", "wordless": wordless}
    assert run(*(argument.format(**places) for argument in arguments)) == 1
    error = capsys.readouterr().err
    assert error.startswith("cpsl predict: error: ")
    assert message in error and error.count("\n") == 1
    assert foreign.read_text() == "a,b\n1,2\n" and not (tmp_path / "out.csv").exists()


def test_only_one_call_writes_to_an_output(trained_folder, tmp_path, capsys, signal_in_batch):
    """A second one is refused while the first, which is stopped here, is not done; nothing of that is lost."""
    data, out = write_jsonl(corpus(100), tmp_path / "data.jsonl"), tmp_path / "out.csv"
    signal_in_batch(20, signal.SIGSTOP)
    process = ForkedProcess(run, trained_folder, data, out, "--batch_size", "2")
    process.start()
    os.waitpid(process.pid, os.WUNTRACED)
    assert run(trained_folder, data, out) == 1
    error = capsys.readouterr().err
    assert f"{out}: process {process.pid} on " in error and error.count("\n") == 1
    assert "is writing there; wait until it has finished, or name another place" in error
    os.kill(process.pid, signal.SIGCONT)
    process.finish()
    assert process.exitcode == 0 and len(pd.read_csv(out)) == 100
    assert {path.name for path in tmp_path.iterdir()} == {"data.jsonl", "out.csv"}


def test_a_prediction_on_the_cpu_binds_nothing_that_comes_later(trained_folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr(PartialState, "_shared_state", {})  # as in a process that has used accelerate for nothing
    predict_table(str(trained_folder), data, tmp_path / "out.csv", device="cpu")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    assert PartialState().device.type == "meta"


def test_features_of_another_extractor_are_refused(trained_folder, small_csd, tmp_path, capsys):
    sentiment = pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")
    sentiment.processor.feature_extractors = {"acoustic": "openSMILE"}
    sentiment.model.save_pretrained(tmp_path / "model")
    sentiment.processor.save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", small_csd, tmp_path / "out.csv") == 1
    message = "acoustic features are from 'COVAREP', but the model was trained on features from 'openSMILE'"
    assert message in capsys.readouterr().err


def test_the_command_has_the_defaults_of_the_function(monkeypatch):
    parameters = inspect.signature(predict_table).parameters.values()
    defaults = {option.name: option.default for option in parameters if option.default is not option.empty}
    given = {}
    monkeypatch.setattr(prediction, "predict_table", lambda **options: given.update(options) or (0, 0, 0))
    assert main(["predict", "model", "data", "out.csv"]) == 0
    assert {name: given[name] for name in defaults} == defaults


def test_bad_usage_has_status_2():
    assert main(["predict", "model"]) == 2
