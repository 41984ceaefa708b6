"""`python -m modeling_cpsl predict`: any data in, a table out, gone on with after any interruption."""

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pandas as pd
import pytest
from transformers import pipeline

from modeling_cpsl import __main__ as command_line
from modeling_cpsl.prediction import READ_TABLE, predict_table


def corpus(count, seed=0, labels=False):
    """`count` utterances of many lengths; some without voice."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(generator.integers(1, 8))
        row = {"id": f"{index:05}", "words": list(generator.choice(["the", "movie", "was", "great"], length))}
        row["acoustic"] = generator.normal(size=(length, 74)).round(3).tolist() if index % 3 else None
        row["visual"] = generator.normal(size=(length, 47)).round(3).tolist()
        rows.append(row | ({"label": 1.0} if labels else {}))
    return rows


def write_jsonl(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path):
    return write_jsonl(corpus(30), tmp_path / "data.jsonl")


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


def run(*arguments):
    return command_line.main(["predict", *map(str, arguments), "--device", "cpu"])


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_kind_of_table_says_what_the_pipeline_says(trained_folder, data, tmp_path, suffix):
    out = tmp_path / f"new/predictions{suffix}"
    assert run(trained_folder, data, out, "--batch_size", 4, "--explain") == 0
    table = READ_TABLE[suffix](out)
    assert list(table["id"]) == [f"{index:05}" for index in range(30)]
    assert set(table["split"]) == {"train"} and table["model"].nunique() == 1
    sentiment = pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")
    for (_, row), utterance in zip(table.iterrows(), corpus(30), strict=True):
        expected = sentiment(utterance, explain=True)
        assert row["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert (row["label"], row["acc7_class"]) == (expected["label"], expected["acc7_class"])
        for name, part in expected["modalities"].items():
            assert np.isnan(row[f"score_{name}"]) == (part is None)
            for key, value in (part or {}).items():
                assert row[f"{key}_{name}"] == pytest.approx(value, abs=1e-5)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_what_is_done_is_not_done_again(trained_folder, tmp_path, capsys):
    out, data = tmp_path / "out.parquet", tmp_path / "data.jsonl"
    write_jsonl(corpus(12), data)
    assert predict_table(str(trained_folder), str(data), out, device="cpu") == (12, 0, 0)
    first = pd.read_parquet(out)
    write_jsonl(corpus(20), data)
    assert run(trained_folder, data, out) == 0
    assert "8 utterances predicted, 12 were there, 0 skipped" in capsys.readouterr().out
    table = pd.read_parquet(out)
    pd.testing.assert_frame_equal(table.head(12), first)
    assert table["id"].is_unique and len(table) == 20


def test_kill_and_go_on(trained_folder, tmp_path):
    data = write_jsonl(corpus(400), tmp_path / "data.jsonl")
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    journal = tmp_path / "out.parquet.partial.jsonl"
    command = [sys.executable, "-m", "modeling_cpsl", "predict", trained_folder, data, out, "--batch_size", "2"]
    process = subprocess.Popen([*command, "--device", "cpu"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not (journal.exists() and journal.stat().st_size > 8_000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not out.exists()
    with journal.open("a") as stream:
        stream.write('{"id": "00300", "sco')
    predicted, before, _ = predict_table(str(trained_folder), str(data), out, device="cpu", batch_size=2)
    assert 0 < before < 400 and predicted + before == 400 and not journal.exists()
    predict_table(str(trained_folder), str(data), whole, device="cpu", batch_size=64)
    one, other = (pd.read_parquet(path).sort_values("id", ignore_index=True) for path in (out, whole))
    np.testing.assert_allclose(one["score"], other["score"], atol=1e-5)
    assert list(one["id"]) == list(other["id"])


def test_interrupt_says_how_to_go_on(trained_folder, tmp_path):
    data = write_jsonl(corpus(1200), tmp_path / "data.jsonl")
    out = tmp_path / "out.csv"
    journal = tmp_path / "out.csv.partial.jsonl"
    command = [sys.executable, "-m", "modeling_cpsl", "predict", trained_folder, data, out, "--batch_size", "2"]
    process = subprocess.Popen([*command, "--device", "cpu"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not (journal.exists() and journal.stat().st_size > 10_000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 130
    assert errors.endswith("interrupted; the same command goes on from here\n") and "Traceback" not in errors


def test_another_models_table_is_left_alone(trained_folder, data, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert run(trained_folder, data, out) == 0
    before = out.read_text()
    other = pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")
    other.model.multimodal.out_proj.bias.data += 1
    other.model.save_pretrained(tmp_path / "other")
    other.processor.save_pretrained(tmp_path / "other")
    assert run(tmp_path / "other", data, out) == 1
    assert "holds predictions of another model" in capsys.readouterr().err and out.read_text() == before


def test_bad_utterances(trained_folder, tmp_path, capsys):
    rows = corpus(6)
    rows[2]["visual"] = rows[2]["visual"][:-1] + [[0.0] * 47] * 3
    data, out = write_jsonl(rows, tmp_path / "data.jsonl"), tmp_path / "out.csv"
    assert run(trained_folder, data, out) == 1
    error = capsys.readouterr().err
    assert "00002" in error and "\n" not in error.split("error: ")[1].strip() and not out.exists()
    assert run(trained_folder, data, out, "--on_error", "skip") == 0
    assert list(READ_TABLE[".csv"](out)["id"]) == ["00000", "00001", "00003", "00004", "00005"]


def test_data_without_a_modality(trained_folder, tmp_path):
    rows = [{name: row[name] for name in ("id", "words")} for row in corpus(5)]
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    assert run(trained_folder, data, tmp_path / "out.csv") == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["score_text"].notna().all() and table[["score_acoustic", "score_visual"]].isna().all(axis=None)


def test_calibration_and_draws_have_columns(trained_folder, data, tmp_path):
    sentiment = pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")
    half_width = sentiment.calibrate(corpus(30, labels=True))
    sentiment.model.save_pretrained(tmp_path / "model")
    sentiment.processor.save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", data, tmp_path / "out.csv", "--num_samples", 3) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(table["interval_high"], (table["score"] + half_width).clip(-3, 3), atol=1e-6)
    assert (table["std"] >= 0).all() and (table["coverage"] == 0.9).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "{data}", "out.txt"], "out.txt: .txt is none of .parquet, .csv, .jsonl"),
        (["{model}", "nowhere.pkl", "out.csv"], "nowhere.pkl"),
        (["nowhere", "{data}", "out.csv"], "nowhere: no CPSL model could be loaded"),
        (["{model}", "{narrow}", "out.csv"], "acoustic features have size 3, the model was trained on 74"),
        (["{model}", "{data}", "{foreign}"], "foreign.csv: it is there and no table of predictions"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(trained_folder, data, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    narrow = write_jsonl([{"id": "a", "words": ["x"], "acoustic": [[1.0] * 3]}], tmp_path / "narrow.jsonl")
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("a,b\n1,2\n")
    places = {"model": trained_folder, "data": data, "narrow": narrow, "foreign": foreign}
    assert run(*(argument.format(**places) for argument in arguments)) == 1
    error = capsys.readouterr().err.split("error: ", 1)[1]
    assert message in error and error.count("\n") == 1
    assert foreign.read_text() == "a,b\n1,2\n" and not (tmp_path / "out.csv").exists()


def test_features_of_another_extractor_are_refused(trained_folder, small_csd, tmp_path, capsys):
    sentiment = pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")
    sentiment.processor.feature_extractors = {"acoustic": "openSMILE"}
    sentiment.model.save_pretrained(tmp_path / "model")
    sentiment.processor.save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", small_csd, tmp_path / "out.csv") == 1
    assert (
        "acoustic features are from 'COVAREP', but the model learnt from those of 'openSMILE'"
        in capsys.readouterr().err
    )


def test_bad_usage_has_status_2():
    with pytest.raises(SystemExit) as caught:
        command_line.main(["predict", "model"])
    assert caught.value.code == 2
