"""`predict` once more: what is known is not computed again, and nothing of another model or call is mixed in."""

import json
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
from forked import ForkedProcess
from prediction_cases import READ_TABLE, corpus, run, write_jsonl
from transformers import AutoModelForSequenceClassification

from modeling_cpsl.experiments.prediction import predict_table
from modeling_cpsl.experiments.prediction_tables import TEXT, WRITERS, write_table


def test_what_is_done_is_not_done_again(trained_folder, tmp_path, capsys):
    out, data = tmp_path / "out.parquet", tmp_path / "data.jsonl"
    write_jsonl(corpus(12), data)
    assert predict_table(str(trained_folder), str(data), out, device="cpu") == (12, 0, 0)
    assert capsys.readouterr() == ("", ""), "progress bars are for terminals"
    first = pd.read_parquet(out)
    write_jsonl(corpus(20), data)
    assert run(trained_folder, data, out) == 0
    assert "8 utterances predicted now, 12 before, 0 skipped" in capsys.readouterr().out
    table = pd.read_parquet(out)
    pd.testing.assert_frame_equal(table.head(12), first)
    assert table["id"].is_unique and len(table) == 20


def test_a_killed_process_is_continued(trained_folder, tmp_path, signal_in_batch, monkeypatch):
    data = write_jsonl(corpus(400), tmp_path / "data.jsonl")
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    journal = tmp_path / "out.parquet.partial.jsonl"
    signal_in_batch(100, signal.SIGKILL)
    process = ForkedProcess(run, trained_folder, data, out, "--batch_size", "2")
    process.start()
    process.finish()
    monkeypatch.undo()
    assert process.exitcode == -signal.SIGKILL and not out.exists()
    with journal.open("a") as stream:
        stream.write('{"digest": "00300", "sco')  # a line that the kill cut short
    # Of 99 whole batches of 2, the journal has those of 6 windows of 16.
    assert predict_table(str(trained_folder), str(data), out, device="cpu", batch_size=2) == (208, 192, 0)
    assert not journal.exists()
    predict_table(str(trained_folder), str(data), whole, device="cpu", batch_size=64)
    one, other = (pd.read_parquet(path) for path in (out, whole))
    pd.testing.assert_frame_equal(one, other, check_exact=False, atol=1e-5)


def test_an_interrupt_says_how_to_continue(trained_folder, tmp_path, signal_in_batch):
    data, out = write_jsonl(corpus(100), tmp_path / "data.jsonl"), tmp_path / "out.csv"
    signal_in_batch(20, signal.SIGINT)
    process = ForkedProcess(run, trained_folder, data, out, "--batch_size", "2")
    process.start()
    errors = process.finish()[1]
    assert process.exitcode == 130 and not out.exists()
    assert errors.endswith("interrupted; the same command continues from here\n") and "Traceback" not in errors
    assert len((tmp_path / "out.csv.partial.jsonl").read_text().splitlines()) == 32


def changed_weights(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.multimodal.out_proj.bias.data += 1
    model.save_pretrained(folder)


def changed_tokenizer(folder):
    """The same words become other tokens."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    pieces = tokenizer["model"]["vocab"]
    pieces[20][0], pieces[30][0] = pieces[30][0], pieces[20][0]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def changed_encoder(folder):
    """The same weights, in an encoder that computes something else."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))


@pytest.mark.parametrize("change", [changed_weights, changed_tokenizer, changed_encoder])
def test_another_models_table_is_left_alone(trained_folder, data, tmp_path, capsys, change):
    out = tmp_path / "out.jsonl"
    assert run(trained_folder, data, out) == 0
    before = out.read_text()
    other = shutil.copytree(trained_folder, tmp_path / "other")
    change(other)
    assert run(other, data, out) == 1
    assert "predictions of another model" in capsys.readouterr().err and out.read_text() == before


@pytest.mark.parametrize("suffix", WRITERS)
def test_ids_that_occur_more_than_once(trained_folder, tmp_path, capsys, suffix):
    """In every split, in one split, and called as pandas calls what is missing."""
    out = tmp_path / f"out{suffix}"
    (tmp_path / "data").mkdir()
    rows = corpus(13)
    for index, row in enumerate(rows):
        row["id"] = ["NA", "nan", "0"][index % 3]
    write_jsonl(rows[:8], tmp_path / "data" / "train.jsonl")
    write_jsonl(rows[8:], tmp_path / "data" / "test.jsonl")
    assert run(trained_folder, tmp_path / "data", out) == 0
    whole = READ_TABLE[suffix](out)
    assert list(whole["id"]) == [row["id"] for row in rows]
    assert list(whole["split"]) == ["train"] * 8 + ["test"] * 5
    assert run(trained_folder, tmp_path / "data", out) == 0
    assert "0 utterances predicted now, 13 before, 0 skipped" in capsys.readouterr().out
    pd.testing.assert_frame_equal(READ_TABLE[suffix](out), whole)

    # Killed after the train split: the journal holds its results and the table does not exist yet.
    lines = whole.head(8).drop(columns=["id", "split"]).to_json(orient="records", lines=True, double_precision=15)
    (tmp_path / f"{out.name}.partial.jsonl").write_text(lines)
    out.unlink()
    assert run(trained_folder, tmp_path / "data", out) == 0
    assert "5 utterances predicted now, 8 before" in capsys.readouterr().out
    pd.testing.assert_frame_equal(READ_TABLE[suffix](out), whole, check_exact=False, atol=1e-5)


@pytest.mark.parametrize("suffix", WRITERS)
def test_ids_may_hold_any_character(trained_folder, tmp_path, suffix):
    rows = corpus(4)
    for row, sample_id in zip(
        rows, ["a\rb", "nul\0", 'quoted "x", y\r\n', "\u2028\u0085 電影 \U0001f600"], strict=True
    ):
        row["id"] = sample_id
    data, out = write_jsonl(rows, tmp_path / "data.jsonl"), tmp_path / f"out{suffix}"
    arguments = (str(trained_folder), str(data), out)
    assert predict_table(*arguments, device="cpu") == (4, 0, 0)
    before = out.read_bytes()
    assert predict_table(*arguments, device="cpu") == (0, 4, 0) and out.read_bytes() == before


def test_what_left_the_data_leaves_the_output(trained_folder, tmp_path):
    data, out = write_jsonl(corpus(9), tmp_path / "data.jsonl"), tmp_path / "out.csv"
    assert run(trained_folder, data, out) == 0
    write_jsonl(corpus(12)[4:], data)
    assert predict_table(str(trained_folder), str(data), out, device="cpu") == (3, 5, 0)
    assert list(READ_TABLE[".csv"](out)["id"]) == [f"{index:05}" for index in range(4, 12)]


def test_equal_inputs_share_one_result(trained_folder, tmp_path):
    """In one split and across splits, whatever their ids; also where latent draws would tell them apart."""
    (tmp_path / "data").mkdir()
    rows = corpus(4)
    write_jsonl([*rows, rows[1] | {"id": "again"}], tmp_path / "data" / "train.jsonl")
    write_jsonl([rows[2] | {"id": "elsewhere"}], tmp_path / "data" / "test.jsonl")
    out = tmp_path / "out.parquet"
    arguments = (str(trained_folder), str(tmp_path / "data"), out)
    assert predict_table(*arguments, device="cpu", num_samples=2) == (6, 0, 0)
    assert predict_table(*arguments, device="cpu", num_samples=2) == (0, 6, 0)
    table = pd.read_parquet(out).set_index("id")
    assert list(table.index) == ["00000", "00001", "00002", "00003", "again", "elsewhere"]
    assert table["digest"].nunique() == 4
    for one, other in (("00001", "again"), ("00002", "elsewhere")):
        pd.testing.assert_series_equal(table.loc[one].drop("split"), table.loc[other].drop("split"), check_names=False)


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_output_is_a_function_of_the_data(trained_folder, tmp_path, suffix):
    """However the data came to be what it is: grown, shrunk, shuffled, repeated, with bad utterances."""
    generator = np.random.default_rng(3)
    pool = corpus(10)
    pool[4]["visual"] = pool[4]["visual"] + [[0.0] * 47]
    # The reader accepts an empty word, and the processor does not.
    pool[6] |= {"words": [""], "acoustic": None, "visual": pool[6]["visual"][:1]}
    pool[7] |= {"words": [""], "acoustic": None, "visual": pool[6]["visual"][:1]}
    data, out, anew = tmp_path / "data.jsonl", tmp_path / f"out{suffix}", tmp_path / f"anew{suffix}"
    for size in (6, 12, 3, 9):
        write_jsonl([pool[index] for index in generator.integers(0, 10, size)], data)
        anew.unlink(missing_ok=True)
        for path in (out, anew):
            assert run(trained_folder, data, path, "--on_error", "skip") == 0
        tables = [READ_TABLE[suffix](path) for path in (out, anew)]
        pd.testing.assert_frame_equal(*tables, check_exact=False, atol=1e-5)
    assert (tables[0]["error"] == "no word in [''] has a subword; leave out empty text").sum() > 1
    before = out.read_bytes()
    assert run(trained_folder, data, out, "--on_error", "skip") == 0
    assert out.read_bytes() == before


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_utterance_that_has_changed_is_predicted_again(trained_folder, tmp_path, suffix):
    data, out, anew = tmp_path / "data.jsonl", tmp_path / f"out{suffix}", tmp_path / f"anew{suffix}"
    rows = corpus(12)
    assert run(trained_folder, write_jsonl(rows, data), out) == 0
    rows[1]["words"] = ["awful"] * len(rows[1]["words"])
    rows[2]["visual"][0][0] += 5
    rows[4]["acoustic"] = None
    rows[5], rows[6] = rows[6] | {"id": "00005"}, rows[5] | {"id": "00006"}
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    # Two utterances that changed places are known by what they hold.
    assert predict_table(str(trained_folder), str(data), out, device="cpu") == (3, 9, 0)
    assert run(trained_folder, data, anew) == 0
    pd.testing.assert_frame_equal(READ_TABLE[suffix](out), READ_TABLE[suffix](anew), check_exact=False, atol=1e-5)


def test_rows_without_ids_are_known_by_what_they_hold(trained_folder, tmp_path):
    data, out = tmp_path / "data.csv", tmp_path / "out.csv"
    for texts, counts in (
        (["good movie", "bad movie", "the end"], (3, 0, 0)),
        (["bad movie", "good movie"], (0, 2, 0)),
    ):
        data.write_text("text\n" + "\n".join(texts) + "\n")
        assert predict_table(str(trained_folder), str(data), out, device="cpu") == counts
        assert run(trained_folder, data, tmp_path / f"{len(texts)}.csv") == 0
        found, expected = (READ_TABLE[".csv"](path) for path in (out, tmp_path / f"{len(texts)}.csv"))
        np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)


def test_the_output_is_not_put_among_the_tables_of_a_folder(trained_folder, tmp_path, capsys):
    folder = tmp_path / "corpus"
    (folder / "data").mkdir(parents=True)
    write_jsonl(corpus(3), folder / "train.jsonl")
    for out in (folder / "out.csv", folder / "data" / "out.csv", folder / "data" / ".." / "out.csv"):
        assert run(trained_folder, folder, out) == 1
        assert "put it in another folder than the data" in capsys.readouterr().err and not out.exists()
    for _ in range(2):
        assert run(trained_folder, folder, folder / "predictions" / "out.csv") == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON\n", "not a readable table of predictions"),
        ("5\n", "not predictions of this version"),
        # What an earlier version wrote.
        (
            json.dumps({"occurrence": 0, "id": "0", "split": "train", "score": 1.0, "model": "0", "inputs": "0"})
            + "\n",
            "not predictions of this version",
        ),
    ],
)
def test_a_journal_of_something_else_is_named(trained_folder, data, tmp_path, capsys, content, message):
    journal = tmp_path / "out.csv.partial.jsonl"
    journal.write_text(content)
    assert run(trained_folder, data, tmp_path / "out.csv") == 1
    error = capsys.readouterr().err
    assert f"{journal}: {message}" in error and "remove it or name another output" in error
    assert journal.read_text() == content and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_table_of_an_earlier_version_is_refused(trained_folder, data, tmp_path, capsys, suffix):
    out = tmp_path / f"out{suffix}"
    earlier = {"id": "00000", "split": "train", "score": "0.5", "model": "0" * 16, "inputs": "1" * 16}
    write_table([earlier], dict.fromkeys(earlier, TEXT), out)
    before = out.read_bytes()
    assert run(trained_folder, data, out) == 1
    error = capsys.readouterr().err.split("error: ", 1)[1]
    assert error.startswith(f"{out}: not predictions of this version") and error.count("\n") == 1
    assert "remove it or name another output" in error and out.read_bytes() == before


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("score", None),
        ("score", float("nan")),
        ("prediction", "good"),
        ("prediction_text", [1]),
        ("acc7_class", 10**400),
        ("num_cut", True),
        ("digest", None),
    ],
)
def test_a_damaged_row_is_named(trained_folder, data, tmp_path, capsys, column, value):
    """Of the journal; a result without a score would become a row without one."""
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial.jsonl"
    assert run(trained_folder, data, out) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    rows[1][column] = value
    write_jsonl(rows, out.rename(journal))
    before = journal.read_text()
    assert run(trained_folder, data, out) == 1
    error = capsys.readouterr().err
    assert f"{journal}: row 2 is no prediction, {column} is " in error and error.count("\n") == 1
    assert journal.read_text() == before and not out.exists()


def test_other_options_are_another_table(trained_folder, data, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert run(trained_folder, data, out) == 0
    assert run(trained_folder, data, out, "--explain") == 1
    assert "with other options" in capsys.readouterr().err and run(trained_folder, data, tmp_path / "other.csv") == 0
    out.unlink()
    assert run(trained_folder, data, out, "--explain") == 0
