import errno
import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from forked import ForkedProcess

import data_builders.builder
from data_builders import (
    AlignedSentimentBuilder,
    CMUMosei,
    CMUMosi,
    DataError,
    features_are_normalized,
    files,
    load_aligned_dataset,
    make_builder,
)
from data_builders.arrow_rows import rows_to_table
from data_builders.formats.sample import sample_splits


@pytest.fixture
def write_jsonl(tmp_path):
    def write(rows):
        path = tmp_path / "x.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_names_need_their_data(cache):
    with pytest.raises(DataError, match="mosi: give data_dir"):
        load_aligned_dataset("mosi", cache_dir=cache)
    with pytest.raises(DataError, match="data_dir goes with the names mosi, mosei only"):
        load_aligned_dataset("somewhere", data_dir="elsewhere", cache_dir=cache)
    with pytest.raises(DataError, match="absent: no such file"):
        load_aligned_dataset("absent", cache_dir=cache)
    with pytest.raises(DataError, match="on_error='ignore' is unknown; give one of raise, skip"):
        load_aligned_dataset("absent", cache_dir=cache, on_error="ignore")
    with pytest.raises(
        DataError, match=r"modalities='acoustic,text' is one string; give a list: \['acoustic', 'text'\]"
    ):
        load_aligned_dataset("absent", cache_dir=cache, modalities="acoustic,text")


def test_a_cache_that_cannot_be_made(mag_data, write_pickle, tmp_path):
    path = write_pickle(mag_data())
    with pytest.raises(DataError, match=r"data\.pkl/cache: no cache can be made here \(Not a directory\)"):
        load_aligned_dataset(path, cache_dir=path / "cache")
    with pytest.raises(ValueError, match="num_proc=0 must be at least 1"):
        load_aligned_dataset(path, cache_dir=tmp_path / "cache", num_proc=0)


def test_a_cache_that_cannot_be_written_names_the_way_out(mag_data, write_pickle, cache, monkeypatch):
    path = write_pickle(mag_data())
    builder = make_builder(path, cache_dir=cache)

    def refuse(*_, **__):
        raise PermissionError(errno.EROFS, "Read-only file system", "x.lock")

    monkeypatch.setattr("datasets.builder.FileLock", refuse)
    for build in (builder.download_and_prepare, lambda: make_builder(path, cache_dir=cache)):
        with pytest.raises(
            DataError, match=r"cache: no cache can be made here \(Read-only .*HF_DATASETS_CACHE .*cache_dir"
        ):
            build()
    monkeypatch.undo()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache / "other")
    assert len(load_aligned_dataset(path)["train"]) == 6


@pytest.mark.parametrize("read", ["stream", "read_once"])
def test_what_is_read_once_needs_no_cache(mag_data, write_pickle, monkeypatch, read):
    path = write_pickle(mag_data())
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", path)  # no folder
    if read == "stream":
        assert len(list(load_aligned_dataset(path, streaming=True)["train"])) == 6
    else:
        assert sum(len(table) for _, table in make_builder(path, streaming=True).read_once()[1]) == 12


def damage_by(kind):
    def damage(file):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "emptied": b""}[kind])

    return Path.unlink if kind == "removed" else damage


@pytest.mark.parametrize("kind", ["cut", "flipped", "emptied", "removed"])
@pytest.mark.parametrize("file", ["*-train.arrow", "dataset_info.json", "report-test-*.json", "checksums.json"])
def test_a_damaged_cache_is_built_again(mag_data, write_pickle, cache, caplog, kind, file):
    path = write_pickle(mag_data())
    expected = load_aligned_dataset(path, cache_dir=cache)["train"].to_dict()
    [damaged] = cache.rglob(file)
    damage_by(kind)(damaged)
    for message in ("damaged", None):
        caplog.clear()
        assert load_aligned_dataset(path, cache_dir=cache)["train"].to_dict() == expected
        assert len(caplog.messages) == bool(message) and (message or "") in caplog.text


def interrupt_when_building(path, cache, num_proc):
    """Ends with 3 if the build ends with one KeyboardInterrupt."""
    os.setsid()  # so that its workers are interrupted too, as by a terminal, and nobody else
    rows_to_table, main = data_builders.builder.rows_to_table, os.getpid()

    def make_table(*arguments):
        if num_proc is None or os.getpid() != main:
            os.killpg(0, signal.SIGINT)
            time.sleep(0 if num_proc is None else 60)
        return rows_to_table(*arguments)

    data_builders.builder.rows_to_table = make_table
    try:
        load_aligned_dataset(path, cache_dir=cache, num_proc=num_proc)
    except KeyboardInterrupt:
        return 3


@pytest.mark.parametrize("num_proc", [None, 2])
def test_an_interrupt_ends_a_build_once(mag_data, write_pickle, cache, num_proc):
    path = write_pickle(mag_data((20, 4, 4)))
    process = ForkedProcess(interrupt_when_building, path, cache, num_proc)
    process.daemon = False  # it has workers
    process.start()
    errors = process.finish()[1]
    assert process.exitcode == 3 and "Traceback" not in errors
    assert len(load_aligned_dataset(path, cache_dir=cache)["train"]) == 20


@pytest.mark.parametrize("num_proc", [None, 2])
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("data_builders.builder.rows_to_table", UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed")),
        ("datasets.arrow_writer.ArrowWriter.write_table", OSError(28, "No space left on device")),
        ("datasets.arrow_writer.ArrowWriter.finalize", OSError(28, "No space left on device")),
    ],
)
def test_every_failure_of_a_build_is_one_line(mag_data, write_pickle, cache, monkeypatch, where, error, num_proc):
    path = write_pickle(mag_data((20, 5, 5)))

    def fail(*arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(DataError, match=r"data\.pkl: the train split cannot be built \(") as caught:
            load_aligned_dataset(path, cache_dir=cache, num_proc=num_proc)
    assert f"({type(error).__name__}: {error})" in str(caught.value) and "\n" not in str(caught.value)
    assert len(load_aligned_dataset(path, cache_dir=cache)["train"]) == 20


def test_the_sample_comes_through_the_same_builder(cache):
    splits = load_aligned_dataset("sample", cache_dir=cache)
    assert splits["train"].info.config_name == "sample" and features_are_normalized("sample")
    for name, expected in sample_splits().items():
        split = splits[name].with_format("numpy")
        assert list(split["id"]) == [row["id"] for row in expected]
        row = split[5]
        assert list(row["words"]) == list(expected[5]["words"])
        np.testing.assert_array_equal(row["acoustic"], expected[5]["acoustic"])
        assert row["label"] == np.float32(expected[5]["label"])


def test_builders_are_used_directly(mag_data, write_pickle, cache, caplog):
    path = write_pickle(mag_data())
    for builder_class, name in ((CMUMosi, "cmu_mosi"), (CMUMosei, "cmu_mosei"), (AlignedSentimentBuilder, "aligned_")):
        builder = builder_class(path, cache_dir=cache)
        builder.download_and_prepare()
        split = builder.as_dataset(split="train")
        assert len(split) == 6 and split.info.dataset_name.startswith(name)
    # These videos are not MOSI's.
    assert [r.message.split(": ")[1] for r in caplog.records] == [
        "2 videos of the train split outside of cmu_mosi's standard train fold; the first is trainvideo0",
        "1 video of the validation split outside of cmu_mosi's standard validation fold; the first is devvideo2",
        "1 video of the test split outside of cmu_mosi's standard test fold; the first is testvideo3",
    ]


def test_only_the_wanted_modalities(mag_data, write_pickle, cache):
    path = write_pickle(mag_data())
    columns = ["id", "video_id", "words", "label"]
    for modalities, expected in ((None, ["acoustic", "visual"]), (["text"], []), (["text", "visual"], ["visual"])):
        splits = load_aligned_dataset(path, cache_dir=cache, modalities=modalities)
        assert splits["train"].column_names == [*columns[:3], *expected, *columns[3:]]
    with pytest.raises(DataError, match=r"no modality 'timing' in it; its modalities are: text, acoustic, visual"):
        load_aligned_dataset(path, cache_dir=cache, modalities=["timing"])


def test_non_finite_values_are_reported(mag_data, write_pickle, cache, caplog):
    data = mag_data()
    data["train"][0][0][2][0, :3] = [np.nan, np.inf, -np.inf]
    data["test"][1][0][1][0, 0] = np.nan
    path = write_pickle(data)
    splits = load_aligned_dataset(path, cache_dir=cache)
    messages = [
        f"{path}: 3 non-finite acoustic values were replaced with 0",
        f"{path}: 1 non-finite visual values were replaced with 0",
    ]
    assert [r.message for r in caplog.records] == messages
    assert splits["train"].with_format("numpy")[0]["acoustic"][0, :3].tolist() == [0, 0, 0]
    caplog.clear()
    load_aligned_dataset(path, cache_dir=cache)
    assert [r.message for r in caplog.records] == messages


@pytest.mark.parametrize("num_proc", [None, 2])
def test_what_a_build_left_out_is_known_from_its_cache_too(mag_data, write_pickle, cache, caplog, num_proc):
    data = mag_data((20, 10, 3))
    for split, index in (("train", 1), ("train", 18), ("dev", 2)):
        data[split][index] = (data[split][index][0], 9.0, f"{split}_{index}")
    data["train"][0][0][2][0, 0] = data["train"][19][0][2][0, 0] = np.nan
    path = write_pickle(data)
    reason = (
        "label 9 is outside of [-3, 3]; correct or remove the sample, or scale all labels to this range, or give "
        "theirs (--label_range)"
    )
    builders = [make_builder(path, cache_dir=cache, on_error="skip") for _ in range(2)]
    for builder in builders:
        caplog.clear()
        builder.download_and_prepare(num_proc=num_proc)
        assert builder.skipped == [
            ("train_1", reason, "train"), ("train_18", reason, "train"), ("dev_2", reason, "validation"),
        ]  # fmt: skip
        assert builder.skipped[2].id == "dev_2" and builder.skipped[2].split == "validation"
        assert builder.replaced == {"acoustic": 2}
        assert f"{path}: left out 3 samples: train_1 and 2 more: {reason}" in caplog.text
        assert f"{path}: 2 non-finite acoustic values were replaced with 0" in caplog.text


def test_an_utterance_of_nothing_is_a_fault_where_predictions_are_wanted(write_jsonl, cache):
    path = write_jsonl([{"id": "a", "words": ["x"], "label": 1}, {"id": "b", "words": [], "label": 1}])
    builder = make_builder(path, cache_dir=cache)
    builder.download_and_prepare()
    expected = [("b", "neither words nor features", "train")]
    assert builder.skipped == expected
    with pytest.raises(DataError, match=r"x\.jsonl: sample b: neither words nor features; .*on_error='skip'"):
        load_aligned_dataset(path, cache_dir=cache, labels=False)
    builder = make_builder(path, cache_dir=cache, labels=False, on_error="skip")
    builder.download_and_prepare()
    assert builder.skipped == expected and builder.as_dataset()["train"]["id"] == ["a"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet", "x.pkl"])
def test_rows_are_read_once_without_a_cache(mag_data, write_pickle, tmp_path, cache, name):
    """In their order, with their number beforehand and what was left out afterwards."""
    path = tmp_path / name
    rows = [{"id": f"v_{k}", "words": "a" if k != 3 else ""} for k in range(600)]
    if name == "x.pkl":
        path = write_pickle(mag_data((3, 2, 1)))
    elif name == "x.parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        frame = pd.DataFrame(rows)
        frame.to_csv(path, index=False) if name == "x.csv" else frame.to_json(path, orient="records", lines=True)
    builder = make_builder(path, labels=False, on_error="skip", streaming=True, cache_dir=cache)
    num_rows, tables = builder.read_once()
    assert "id" in builder.info.features
    found = [(split, sample_id) for split, table in tables for sample_id in table["id"].to_pylist()]
    whole = make_builder(path, labels=False, on_error="skip", cache_dir=cache)
    assert not list(cache.rglob("*.arrow"))
    whole.download_and_prepare()
    assert found == [(name, sample_id) for name, split in whole.as_dataset().items() for sample_id in split["id"]]
    assert builder.skipped == whole.skipped and num_rows - len(found) in (0, 1, 2)


def test_large_rows_make_small_tables(mag_data, write_pickle, cache, monkeypatch):
    path = write_pickle(mag_data((10, 2, 2)))
    monkeypatch.setattr("data_builders.arrow_rows.BYTES_PER_TABLE", 100)
    made = []
    monkeypatch.setattr("data_builders.builder.rows_to_table", lambda *a: made.append(len(a[0])) or rows_to_table(*a))
    assert len(load_aligned_dataset(path, cache_dir=cache)["train"]) == 10
    assert made == [2] * 7


def test_repeated_ids_and_leaking_videos_are_warned_of(mag_data, write_pickle, cache, caplog):
    data = mag_data()
    data["test"][0] = (*data["test"][0][:2], "trainvideo0_1")
    load_aligned_dataset(write_pickle(data), cache_dir=cache)
    assert "1 id more than once, the first is trainvideo0_1" in caplog.text
    assert "train and test share 1 video, so speakers leak" in caplog.text
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_a_changed_file_never_meets_a_stale_cache(mag_data, write_pickle, cache):
    path = write_pickle(mag_data(seed=0))
    stamp = path.stat()
    before = load_aligned_dataset(path, cache_dir=cache)["train"].with_format("numpy")[0]["acoustic"]
    path = write_pickle(mag_data(seed=2))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = load_aligned_dataset(path, cache_dir=cache)["train"].with_format("numpy")[0]["acoustic"]
    assert before.shape != after.shape or (before != after).any()


def test_a_moved_file_still_meets_its_cache(mag_data, write_pickle, tmp_path, cache, monkeypatch):
    path = write_pickle(mag_data())
    load_aligned_dataset(path, cache_dir=cache)
    other = tmp_path / "elsewhere" / path.name
    other.parent.mkdir()
    path.rename(other)
    monkeypatch.setattr(
        "data_builders.formats.pickles.safe_pickle_load", lambda _: pytest.fail("the file was read again")
    )
    splits = load_aligned_dataset(other, cache_dir=cache)
    assert splits["train"].info.config_name == "mag_pickle"  # told by the cache, not by the file


def test_a_new_reader_version_builds_anew(mag_data, write_pickle, cache, monkeypatch):
    path = write_pickle(mag_data())
    load_aligned_dataset(path, cache_dir=cache)
    monkeypatch.setattr("data_builders.builder.READER_VERSION", "999.0.0")
    monkeypatch.setattr("data_builders.formats.pickles.safe_pickle_load", lambda path: {})
    with pytest.raises(DataError, match="none of the known layouts"):
        load_aligned_dataset(path, cache_dir=cache)


def load_and_count(path, cache, queue):
    splits = load_aligned_dataset(path, cache_dir=cache)
    queue.put({name: (len(split), float(np.sum(split["label"]))) for name, split in splits.items()})


def test_two_processes_build_at_once(mag_data, write_pickle, cache):
    data = mag_data((900, 300, 300))
    path = write_pickle(data)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=load_and_count, args=(path, cache, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0
    assert results[0] == results[1]
    assert {name: count for name, (count, _) in results[0].items()} == {"train": 900, "validation": 300, "test": 300}
    expected = sum(float(label[0, 0]) for _, label, _ in data["train"])
    assert results[0]["train"][1] == pytest.approx(expected, rel=1e-4)


def test_a_damaged_cache_is_removed_by_one_process_alone(mag_data, write_pickle, cache):
    """Another one, which has noticed the damage too, does not remove what the first has built since."""
    path = write_pickle(mag_data())
    expected = load_aligned_dataset(path, cache_dir=cache)["train"].to_dict()
    (damaged,) = cache.rglob("*-train.arrow")
    damage_by("flipped")(damaged)
    context, is_intact = multiprocessing.get_context("fork"), files.is_intact
    noticed, built = context.Event(), context.Event()

    def is_intact_said_late(folder):
        found = is_intact(folder)
        noticed.set()
        assert built.wait(timeout=300)
        return found

    def load_late():
        files.is_intact = is_intact_said_late
        return int(load_aligned_dataset(path, cache_dir=cache)["train"].to_dict() != expected)

    late = ForkedProcess(load_late)
    late.start()
    assert noticed.wait(timeout=300)
    splits = load_aligned_dataset(path, cache_dir=cache)
    (arrow,) = cache.rglob("*-train.arrow")
    made = arrow.stat().st_ino
    built.set()
    _, errors = late.finish()
    assert late.exitcode == 0 and "damaged" not in errors, errors
    assert splits["train"].to_dict() == expected and arrow.stat().st_ino == made


def test_an_interrupted_build_starts_again(mag_data, write_pickle, cache):
    path = write_pickle(mag_data())

    def build():
        data_builders.builder.rows_to_table = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
        load_aligned_dataset(path, cache_dir=cache)

    process = ForkedProcess(build)
    process.start()
    process.finish()
    assert process.exitcode == -signal.SIGKILL
    assert list(cache.rglob("*.incomplete")), "the build was not in its middle"
    started = time.monotonic()
    splits = load_aligned_dataset(path, cache_dir=cache)
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 3, "test": 3}
    assert time.monotonic() - started < 30


def test_errors_of_a_build_leave_no_cache_behind(mag_data, write_pickle, cache):
    data = mag_data()
    data["test"][2] = (data["test"][2][0], 9.0, "bad_1")
    path = write_pickle(data)
    for _ in range(2):
        with pytest.raises(DataError, match="sample bad_1: label 9 is outside"):
            load_aligned_dataset(path, cache_dir=cache)


def test_several_processes_give_the_same_rows(mag_data, write_pickle, cache):
    path = write_pickle(mag_data((50, 20, 20)))
    one = load_aligned_dataset(path, cache_dir=cache / "one")
    two = load_aligned_dataset(path, cache_dir=cache / "two", num_proc=2)
    assert one["train"].to_dict() == two["train"].to_dict()


def test_an_error_in_a_worker_process_is_ours(mag_data, write_pickle, cache):
    data = mag_data((50, 20, 20))
    data["train"][45] = (data["train"][45][0], 9.0, "bad_1")
    with pytest.raises(DataError, match="sample bad_1: label 9 is outside"):
        load_aligned_dataset(write_pickle(data), cache_dir=cache, num_proc=2)


@pytest.mark.parametrize("value", [{}, {"a": 1}, {"train": []}, 5, {"train": {"x": np.ones(3)}}])
def test_a_pickle_of_something_else(write_pickle, cache, value):
    with pytest.raises(DataError, match=r"data\.pkl: a pickle of none of the known layouts"):
        load_aligned_dataset(write_pickle(value), cache_dir=cache)
