"""Rows of a table, and what is read from them."""

import json

import numpy as np


def example_rows(count=7, seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(generator.integers(1, 6))
        rows.append(
            {
                "id": f"v{index // 3}_{index}",
                "words": [f"w{k}" for k in range(length)],
                "acoustic": generator.normal(size=(length, 3)).astype(np.float32),
                "label": float(np.float32(generator.uniform(-3, 3))),
                "split": ["train", "train", "dev", "test"][index % 4],
            }
        )
    rows[2]["acoustic"] = None
    return rows


def check(splits, rows):
    assert splits["train"].info.config_name == "table"
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        expected = [row for row in rows if row["split"] == name]
        assert list(splits[split]["id"]) == [row["id"] for row in expected]
        for row, original in zip(splits[split].with_format("numpy"), expected, strict=True):
            assert list(row["words"]) == original["words"] and row["label"] == np.float32(original["label"])
            wanted = np.zeros((0, 3)) if original["acoustic"] is None else original["acoustic"]
            np.testing.assert_array_equal(row["acoustic"], wanted)


def as_lists(row):
    return {**row, "acoustic": None if row["acoustic"] is None else row["acoustic"].tolist()}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GOOD = {"id": "good_1", "words": ["a", "b"], "acoustic": [[1.0], [2.0]], "label": 1.0}


def as_arrays(splits):
    return [(name, split.with_format("numpy")) for name, split in splits.items()]
