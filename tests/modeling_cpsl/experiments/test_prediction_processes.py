"""Several processes predict one table, which is that of one process, and any number of them continues it."""

import json
import signal
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from launching import finish, free_port, launch

from modeling_cpsl.experiments.prediction import predict_table
from modeling_cpsl.experiments.prediction_results import find_journals, journal_of


TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port")
WORDS = ["the", "movie", "was", "great", "terrible"]


def write_corpus(path, count):
    """Utterances of many lengths, of which one cannot be predicted and some occur twice."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        length = int(generator.integers(1, 8))
        acoustic = generator.normal(size=(length, 74)).round(3).tolist()
        rows.append({"id": f"{index:05}", "words": list(generator.choice(WORDS, length)), "acoustic": acoustic})
    rows[count // 2] |= {"words": [" "], "acoustic": [[0.0] * 74]}  # no word has a subword
    rows[-5:] = [row | {"id": f"again {index}"} for index, row in enumerate(rows[:5])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def launched(model, data, out, python=None):
    options = ("--batch_size", 1, "--on_error", "skip", "--device", "cpu")
    command = ("-m", "modeling_cpsl", "predict", model, data, out, *options)
    return launch(*TORCHRUN, free_port(), *command, python=python)


def check_same(table, expected):
    pd.testing.assert_frame_equal(pd.read_parquet(table), pd.read_parquet(expected), check_exact=False, atol=1e-5)


@pytest.mark.slow
def test_two_processes_write_the_table_of_one(trained_folder, tmp_path):
    data = write_corpus(tmp_path / "data.jsonl", 100)
    expected, out = tmp_path / "one" / "out.parquet", tmp_path / "two" / "out.parquet"
    counts = predict_table(str(trained_folder), str(data), expected, batch_size=1, device="cpu", on_error="skip")
    assert counts[2] == 1
    output, _ = finish(launched(trained_folder, data, out))
    assert output == f"{out}: {counts[0]} utterances predicted now, 0 before, {counts[2]} skipped\n"
    check_same(out, expected)
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]


@pytest.mark.slow
def test_what_a_killed_process_has_found_is_not_lost(trained_folder, tmp_path):
    data, out = write_corpus(tmp_path / "data.jsonl", 3000), tmp_path / "out.parquet"
    process = launched(trained_folder, data, out, python=sys.executable)
    journal = journal_of(out, 1)
    while not (journal.exists() and journal.stat().st_size > 10_000):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    (second,) = (child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1")
    second.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode != 0 and not out.exists()
    assert len(find_journals(out)) == 2
    found = sum(path.read_bytes().count(b"\n") for path in find_journals(out))
    new, before, skipped = predict_table(
        str(trained_folder), str(data), out, batch_size=32, device="cpu", on_error="skip"
    )
    assert new + before + skipped == 3000
    assert before >= found - 1 > 0  # but for a line that the kill cut short or an error, which is tried again
    assert {path.name for path in tmp_path.iterdir()} == {"data.jsonl", "out.parquet"}
    ids = pd.read_parquet(out)["id"].tolist()
    assert ids == [json.loads(line)["id"] for line in data.read_text().splitlines()]
