"""Utterances to predict, the command, and how its tables are read; shared by the tests of `cpsl predict`."""

import json

import numpy as np
import pandas as pd

from cpsl import main


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


READ_TABLE = {
    ".parquet": pd.read_parquet,
    # An id may be the text "NA"; only an empty cell is missing.
    ".csv": lambda path: pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"id": str, "digest": str}),
    ".jsonl": lambda path: pd.read_json(path, lines=True, precise_float=True, dtype={"id": str, "digest": str}),
}


def run(*arguments):
    device = [] if "--device" in arguments else ["--device", "cpu"]
    return main(["predict", *map(str, arguments), *device])
