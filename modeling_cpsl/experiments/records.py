"""What a training run leaves in its folder, written and read: log, results, resolved recipe, predictions."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from data_builders.files import broken_files_are_data_errors, replacing_file

from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT
from ..training.task_metrics import metrics_of
from .prediction_tables import TEXT, label_cells, part_cells, prediction_columns, result_cells, write_table
from .recipe import read_yaml


RESULTS_FILE, CONFIG_FILE, LOG_FILE = "all_results.json", "resolved_config.yaml", "training_log.jsonl"
TRAINING_PLOT, MODULATION_PLOT = "training_dynamics.png", "modulation.png"
CONFUSION_PLOT = "confusion.png"  # of classes
# What the folder of an experiment has, which is that of many runs.
SPECIFICATION_FILE, RECORDS = "specification.yaml", "records"
SAMPLE_BACKBONE_FOLDER = "sample_backbone"
# It writes all records again, from the last checkpoint if there is one.
_WAY_OUT = "remove it and repeat the training with --resume_from_checkpoint last"
# What of a run's folder stays on the machine: checkpoints, ids and labels of the data, paths and tokens.
NOT_SHARED = ("*/*", ".*", "predictions_*", "training_args.bin", CONFIG_FILE)
# Whose versions a resolved recipe notes.
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "cpsl")


class TrainingLog(TrainerCallback):
    """Keeps `training_log.jsonl` in step with Trainer's log history, which a resumed run continues.

    Args:
        config: The run's options, which each checkpoint keeps.
    """

    def __init__(self, config: dict[str, Any]):
        self.config = config

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Rewrites the file; a run logs a few rows an epoch."""
        if state.is_world_process_zero:
            with replacing_file(Path(args.output_dir) / LOG_FILE) as path:
                path.write_text("".join(_to_json(row) + "\n" for row in state.log_history))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Writes the options into the checkpoint, to compare them with those of a run that resumes from it."""
        if state.is_world_process_zero:
            write_resolved_config(self.config, Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def read_log(folder: str | os.PathLike) -> list[dict[str, float]]:
    """The rows of a run's `training_log.jsonl`; a DataError names one that cannot be read."""
    path = Path(folder) / LOG_FILE
    with broken_files_are_data_errors(path, "log of a run", _WAY_OUT):
        return [_from_json(line) for line in path.read_text().splitlines()]


def write_results(metrics: dict[str, float], folder: str | os.PathLike) -> None:
    """Writes `all_results.json`: every metric as `<split>_<name>`, and the times that were taken."""
    with replacing_file(Path(folder) / RESULTS_FILE) as path:
        path.write_text(_to_json(metrics, indent=2, sort_keys=True) + "\n")


def read_results(folder: str | os.PathLike) -> dict[str, float]:
    """What [`write_results`] wrote; a DataError names a file that cannot be read."""
    path = Path(folder) / RESULTS_FILE
    with broken_files_are_data_errors(path, "file of results", _WAY_OUT):
        return _from_json(path.read_text())


def _to_json(metrics: Mapping[str, float], **layout: Any) -> str:
    """Metrics as JSON, which has no NaN and no infinity: such a value is written as null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }
    return json.dumps(finite, allow_nan=False, **layout)


def _from_json(text: str) -> dict[str, float]:
    metrics = {name: math.nan if value is None else value for name, value in json.loads(text).items()}
    if wrong := [name for name, value in metrics.items() if not isinstance(value, int | float)]:
        raise ValueError(f"{wrong[0]} is not a number")
    return metrics


def write_resolved_config(config: dict[str, Any], folder: str | os.PathLike) -> None:
    """Writes `resolved_config.yaml`: a recipe that repeats the run, with the versions of the packages it ran on."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    with replacing_file(Path(folder) / CONFIG_FILE) as path:
        path.write_text(yaml.safe_dump(config | {"versions": versions}, sort_keys=False))


def read_resolved_config(folder: str | os.PathLike) -> dict[str, Any]:
    """What [`write_resolved_config`] wrote into a run's folder or a checkpoint; empty where there is none."""
    path = Path(folder) / CONFIG_FILE
    return read_yaml(path) if path.is_file() else {}


def is_experiment(folder: str | os.PathLike) -> bool:
    """Whether a folder is that of an experiment, and not of a run."""
    return Path(folder, RECORDS).is_dir() or Path(folder, SPECIFICATION_FILE).is_file()


def write_predictions(
    ids: Sequence[str],
    labels: np.ndarray,
    predictions: np.ndarray,
    unimodal_predictions: dict[str, np.ndarray],
    folder: str | os.PathLike,
    split: str,
    task: Task = SENTIMENT,
) -> None:
    """Writes `predictions_<split>.parquet`: the `id` of each sample and its [`prediction_columns`].

    Args:
        ids: N sample ids.
        labels: (N,) or (N, K), as losses take them.
        predictions: (N,) or (N, K), the logits.
        unimodal_predictions: As these, by modality.
        folder: The run's folder.
        split: Name of the split.
        task: What labels are.
    """
    columns = {"id": TEXT, **prediction_columns(unimodal_predictions, task)}
    parts = {
        name: task.results(torch.from_numpy(values), in_words=False) for name, values in unimodal_predictions.items()
    }
    results = enumerate(task.results(torch.from_numpy(predictions)))
    rows = (
        {"id": ids[index], **label_cells(task.sample_labels(labels[index])), **result_cells(result, task)}
        | {key: cell for name, of in parts.items() for key, cell in part_cells(name, of[index], task).items()}
        for index, result in results
    )
    write_table(rows, columns, _predictions_path(folder, split))


def read_predictions(folder: str | os.PathLike, split: str) -> pd.DataFrame:
    """What [`write_predictions`] wrote, a row a sample; a DataError names a table that cannot be read."""
    path = _predictions_path(folder, split)
    with broken_files_are_data_errors(path, "table of predictions", _WAY_OUT):
        return pd.read_parquet(path)


def _predictions_path(folder: str | os.PathLike, split: str) -> Path:
    return Path(folder) / f"predictions_{split}.parquet"


def without_paths(value: Any) -> Any:
    """`value` as it can be shown: without paths of this machine, and nothing that ends a line or a code span."""
    if isinstance(value, dict):
        return {name: without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    path = Path(value)
    text = path.name if path.is_absolute() or ".." in path.parts else value
    return "".join(character if character.isprintable() else " " for character in text).replace("`", "'")


def shared_files(folder: str | os.PathLike) -> dict[str, Path | bytes]:
    """What of a run's folder may be shared, paths or contents by name; the resolved recipe shows no paths."""
    files: dict[str, Path | bytes] = {
        path.name: path
        for path in sorted(Path(folder).iterdir())
        if path.is_file() and not any(fnmatch(path.name, pattern) for pattern in NOT_SHARED)
    }
    return files | {CONFIG_FILE: yaml.safe_dump(without_paths(read_resolved_config(folder)), sort_keys=False).encode()}


def results_table(metrics: Mapping[str, float], splits: Sequence[str], task: Task = SENTIMENT) -> str:
    """The metrics as a table to read, a row a metric and a column a split."""
    kinds = metrics_of(task)
    table = {split: [kind.as_text(metrics[f"{split}_{name}"]) for name, kind in kinds.items()] for split in splits}
    return pd.DataFrame(table, index=list(kinds)).to_string()


__all__ = [
    "CONFIG_FILE",
    "CONFUSION_PLOT",
    "LOG_FILE",
    "MODULATION_PLOT",
    "NOT_SHARED",
    "RECORDS",
    "RESULTS_FILE",
    "SAMPLE_BACKBONE_FOLDER",
    "SPECIFICATION_FILE",
    "TRAINING_PLOT",
    "TrainingLog",
    "is_experiment",
    "read_log",
    "read_predictions",
    "read_resolved_config",
    "read_results",
    "results_table",
    "shared_files",
    "without_paths",
    "write_predictions",
    "write_resolved_config",
    "write_results",
]
