"""Rows in the row format, with missing modalities, odd words and more words than a model takes."""

import numpy as np
from datasets import Array2D, Dataset, DatasetDict, Features, List, Value


SIZES = {"acoustic": 3, "pose": 2, "visual": 4}
STATISTICS = {"acoustic": {"mean": [0.5, 0.0, -0.5], "std": [2.0, 1.0, 0.1]}}
WORDS = [
    ["the", "movie", "was", "terrible"],
    ["great"],
    ["", "wonderful", "unheardof", "\u200b", "ending"],
    ["movie"] * 60,
    ["but", "quite", "boring"],
]
MISSING = {(1, "acoustic"), (4, "pose"), (4, "visual")}


def make_rows():
    """Rows as `data_builders` gives them; a missing modality is an array of shape (0, d)."""
    generator = np.random.default_rng(0)
    return [
        {
            "id": f"video{index // 2}$_${index}",
            "video_id": f"video{index // 2}",
            "words": words,
            **{
                name: generator.normal(size=(0 if (index, name) in MISSING else len(words), size)).astype(np.float32)
                for name, size in SIZES.items()
            },
            "label": np.float32(index - 2.4),
            "start": np.float32(index),
            "word_start": [float(position) for position in range(len(words))],
        }
        for index, words in enumerate(WORDS)
    ]


def make_dataset(rows):
    features = {
        "id": Value("string"),
        "video_id": Value("string"),
        "words": List(Value("string")),
        **{name: Array2D((None, size), "float32") for name, size in SIZES.items()},
        "label": Value("float32"),
        "start": Value("float32"),
        "word_start": List(Value("float32")),
    }
    split = Dataset.from_list(rows, features=Features(features))
    return DatasetDict({"train": split, "test": split.select(range(1, 3))})
