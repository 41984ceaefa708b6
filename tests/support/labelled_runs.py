"""Short trainings on labels of each kind, with words, voice and face, pushed to a Hub; made once in a test run."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fake_hub import running_hub
from huggingface_hub import HfApi
from run_cases import pictures_not_rendered
from shared_run import built_once

from modeling_cpsl.experiments.run import run


SIZES = {"acoustic": 3, "visual": 2}
WORDS = {"happy": ("great", "wonderful"), "sad": ("terrible", "boring"), "calm": ("slow", "quiet")}
# By the name of a kind: the label of an utterance of such words, and the options of a training on it.
LABELS = {
    "number": lambda mood: {"happy": 0.9, "sad": -0.8, "calm": 0.0}[mood],
    "numbers": lambda mood: {"valence": 1.0 + 2 * (mood == "happy"), "arousal": 4.0 * (mood != "calm")},
    "class": lambda mood: mood,
    "classes": lambda mood: [mood, "talking"] if mood != "calm" else [],
}
OPTIONS = {
    "number": {"label_range": [-1, 1]},
    "numbers": {},
    "class": {"class_weights": "balanced"},
    "classes": {"class_weights": "balanced"},
}
# 48 utterances to train on in batches of 16: three steps an epoch.
SHORT = {"num_train_epochs": 4, "learning_rate": 3e-3, "save_total_limit": 1, "disable_tqdm": True}
SMALL = {"latent_size": 16, "modality_hidden_size": 16, "fusion_size": 16, "max_length": 24}


class LabelledRun(NamedTuple):
    """A finished training.

    Attributes:
        kind: What labels are, a name in `LABELS`.
        data: The file that it was made from.
        folder: What it left.
        pushed: What the Hub has of it.
    """

    kind: str
    data: Path
    folder: Path
    pushed: Path


def labelled_rows(kind: str) -> list[dict]:
    """90 utterances, of which every other one has no voice."""
    rng, rows = np.random.default_rng(0), []
    for index in range(90):
        mood = [*WORDS][index % 3]
        words = ["this", "movie", "was", rng.choice(WORDS[mood]), "and", "it", "felt", rng.choice(WORDS[mood])]
        features = {name: rng.normal(size=(len(words), size)).round(3).tolist() for name, size in SIZES.items()}
        split = "train" if index < 48 else "validation" if index < 72 else "test"
        row = {"id": f"s{index}", "split": split, "words": [*map(str, words)], **features, "label": LABELS[kind](mood)}
        rows.append(row | ({"acoustic": None} if index % 2 else {}))
    return rows


def write_rows(rows: list[dict], path: Path) -> Path:
    """Writes rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(kind: str, data: Path, output_dir: Path, **options: object) -> None:
    """A training of 12 steps in 4 epochs."""
    with pictures_not_rendered():
        run("sample", dataset=str(data), output_dir=str(output_dir), **SHORT, **SMALL, **OPTIONS[kind], **options)


def labelled_run(kind: str) -> LabelledRun:
    """The training on labels of a kind; no test may change what is in its folders."""

    def build(folder: Path) -> None:
        data = write_rows(labelled_rows(kind), folder / "data.jsonl")
        with running_hub() as hub, pytest.MonkeyPatch.context() as patch:
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
            for module in ("transformers.trainer", "modeling_cpsl.experiments.run"):
                patch.setattr(f"{module}.hf_api", lambda: HfApi(endpoint=hub.endpoint))
            train(kind, data, folder / f"{kind}_model", push_to_hub=True, hub_token="hf_none")
            pushed = hub.repositories[f"user/{kind}_model"]
        (folder / "hub").mkdir()
        for name, content in pushed.items():
            (folder / "hub" / name).write_bytes(content)

    folder = built_once(f"labelled_{kind}", build)
    return LabelledRun(kind, folder / "data.jsonl", folder / f"{kind}_model", folder / "hub")
