"""Feeds mutated files to the readers: each must load or raise a DataError, quickly, and run nothing.

`python tests/support/fuzz.py KIND COUNT SEED` makes COUNT files out of valid ones of KIND (pickle, hdf5, table) by
flipping, cutting, splicing and inflating, and reads each to its last row. It ends with one line of JSON, unless it
crashes, hangs or meets an error that is not a DataError. The memory of the whole process is limited.
"""

import faulthandler
import io
import json
import logging
import pickle
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_builders.files import DataError
from data_builders.formats import READERS
from data_builders.formats.recognition import get_reader, open_source
from data_builders.rows import checked_row, is_empty


SECONDS_A_FILE = 60  # of wall time: a busy machine lets a process wait
MEMORY_HEADROOM = 1 << 30
FORBIDDEN_EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "exec")


def mag_samples(generator, count=3):
    lengths = generator.integers(1, 5, count)
    return [
        ((["good", "film", "é", "x"][:n], generator.normal(size=(n, 3)), generator.normal(size=(n, 4))), 0.5, f"v_{i}")
        for i, n in enumerate(lengths)
    ]


def pickle_seeds():
    generator = np.random.default_rng(0)
    mag = {split: mag_samples(generator) for split in ("train", "dev", "test")}
    misa = {
        "train": [(([1], f[1], f[2], f[0]), np.array([[label]]), name) for f, label, name in mag_samples(generator)]
    }
    mmim = {
        "dev": [
            (([1], f[1], f[2], f[0], len(f[1]), len(f[2])), label, name) for f, label, name in mag_samples(generator)
        ]
    }
    arrays = {"audio": generator.normal(size=(2, 5, 3)), "vision": generator.normal(size=(2, 7, 4)).astype("f4")}
    mmsa = {"raw_text": ["good film", "bad"], "id": ["a$_$1", "a$_$2"], "regression_labels": np.zeros(2), **arrays}
    mmsa["audio_lengths"] = mmsa["vision_lengths"] = [4, 5]
    mult = {
        "labels": np.zeros((2, 1, 1)),
        "id": np.array(["a", "b"]),
        "text": generator.normal(size=(2, 5, 6)),
        **arrays,
    }
    values = [mag, misa, mmim, {"train": mmsa}, {"valid": mult}]
    return [("data.pkl", pickle.dumps(value, protocol)) for value in values for protocol in range(6)]


def hdf5_seeds():
    generator = np.random.default_rng(0)
    words = np.array([[b"good"], [b"sp"], [b"film"]])
    sequences = {
        "words": (words, [[0, 1], [1, 2], [2, 3]]),
        "Opinion Labels": (np.array([[1.0], [-1.0]], "f4"), [[0, 1.5], [1.5, 3]]),
        "COVAREP": (generator.normal(size=(6, 4)), [[k / 2, k / 2 + 0.5] for k in range(6)]),
    }
    seeds = []
    for name, (features, intervals) in sequences.items():
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            for video in ("one", "two"):
                group = file.create_group(f"{name}/data/{video}")
                group.create_dataset("features", data=features, compression="gzip" if len(features) == 6 else None)
                group["intervals"] = np.array(intervals, float)
        seeds.append((f"{name}.csd", stream.getvalue()))
    return seeds


def table_seeds():
    rows = [
        {"id": f"v_{k}", "words": ["a", "b"], "acoustic": [[0.5, k], [1.0, 2.0]], "label": k / 2} for k in range(6)
    ]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=4)
    npz, npy = io.BytesIO(), io.BytesIO()
    np.savez_compressed(npz, acoustic=np.ones((2, 3)))
    np.save(npy, np.ones((2, 3)))
    return [
        ("data.parquet", stream.getvalue()),
        ("data.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()),
        ("data.csv", b'id,words,acoustic,label\na,"[""x""]","[[1, 2]]",1\nb,y z,"[[1, 2], [3, 4]]",-2\n'),
        ("x.npz", npz.getvalue()),
        ("x.npy", npy.getvalue()),
    ]


def mutate(data, others, random_numbers):
    """One to four random changes of a file: bytes flipped, cut out, repeated, spliced in, or made huge."""
    data = bytearray(data)
    for _ in range(random_numbers.randint(1, 4)):
        position = random_numbers.randrange(len(data) + 1)
        length = random_numbers.randint(1, 16)
        change = random_numbers.randrange(6)
        if change == 0 and data:
            data[position % len(data)] ^= 1 << random_numbers.randrange(8)
        elif change == 1:
            data[position : position + length] = random_numbers.randbytes(length)
        elif change == 2:
            del data[position : position + length]
        elif change == 3:
            other = random_numbers.choice(others)
            start = random_numbers.randrange(len(other))
            data[position:position] = other[start : start + random_numbers.randint(1, 200)]
        elif change == 4:
            data[position : position + 8] = random_numbers.choice([b"\xff", b"\x7f", b"\x00"]) * random_numbers.choice(
                [1, 4, 8]
            )
        elif random_numbers.random() < 0.3:
            del data[position:]
    return bytes(data)


def read_all(path):
    """Reads every row of a file or folder, as a build does."""
    source = open_source(path)
    for shards in source.splits.values():
        for shard in shards:
            for item in source.rows(shard):
                if isinstance(item, dict) and not is_empty(item, source.modality_sizes):
                    try:
                        checked_row(item, source.modality_sizes)
                    except DataError:
                        continue


def lay_out(kind, folder, seeds, index, content):
    """Writes a corpus in which one file is the mutated one; returns the path to read."""
    name = seeds[index][0]
    if kind == "pickle":
        (folder / name).write_bytes(content)
        return folder / name
    if kind == "hdf5":
        for position, (other, original) in enumerate(seeds):
            (folder / other).write_bytes(content if position == index else original)
        (folder / "folds.json").write_text('{"train": ["one"], "test": ["two"]}')
        return folder
    (folder / name).write_bytes(content)
    if name.startswith("x."):
        row = {"words": ["a", "b"], "label": 1, "acoustic": name}
        (folder / "data.jsonl").write_text(json.dumps(row) + "\n")
        return folder / "data.jsonl"
    return folder / name


def main(kind, count, seed):
    for name in READERS:  # else their own import is counted as something that a file ran
        get_reader(name)
    seeds = {"pickle": pickle_seeds, "hdf5": hdf5_seeds, "table": table_seeds}[kind]()
    contents = [content for _, content in seeds]
    logging.disable()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_HEADROOM,) * 2)
    events = []
    sys.addaudithook(lambda event, _: events.append(event) if event in FORBIDDEN_EVENTS else None)
    random_numbers = random.Random(seed)
    outcomes, slowest = Counter(), 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for content_index, (_, content) in enumerate(seeds):
            read_all(lay_out(kind, folder, seeds, content_index, content))
        events.clear()
        for _ in range(count):
            index = random_numbers.randrange(len(seeds))
            path = lay_out(kind, folder, seeds, index, mutate(contents[index], contents, random_numbers))
            faulthandler.dump_traceback_later(SECONDS_A_FILE, exit=True)
            started = time.process_time()
            try:
                read_all(path)
                outcomes["loaded"] += 1
            except DataError as error:
                assert "\n" not in str(error)
                outcomes["refused"] += 1
            slowest = max(slowest, time.process_time() - started)
            faulthandler.cancel_dump_traceback_later()
    # The peak of this process alone: what getrusage says includes the process that started it.
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    print(json.dumps({**outcomes, "events": events, "slowest_seconds": round(slowest, 3), "peak_mb": peak}))


if __name__ == "__main__":
    faulthandler.enable()
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
