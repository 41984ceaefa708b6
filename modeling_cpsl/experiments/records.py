"""What a training run leaves behind, written and read: log, results, resolved recipe, predictions."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from data_builders.files import replacing_file

from ..training.metrics import METRICS


PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "cpsl")
RESULTS_FILE, CONFIG_FILE, LOG_FILE = "all_results.json", "resolved_config.yaml", "training_log.jsonl"


class TrainingLog(TrainerCallback):
    """Keeps `training_log.jsonl` in step with the log history, which a resumed run continues.

    Args:
        config: The run's options, which each checkpoint keeps.
    """

    def __init__(self, config: dict[str, Any]):
        self.config = config

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Rewrites the file; a run has a few rows an epoch."""
        if state.is_world_process_zero:
            with replacing_file(Path(args.output_dir) / LOG_FILE) as path:
                path.write_text("".join(json.dumps(row) + "\n" for row in state.log_history))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Writes the options beside the checkpoint, for who goes on from it."""
        if state.is_world_process_zero:
            write_resolved_config(self.config, Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def write_results(metrics: dict[str, float], output_dir: str | os.PathLike) -> None:
    """Writes `all_results.json`: every metric as `<split>_<name>`."""
    with replacing_file(Path(output_dir) / RESULTS_FILE) as path:
        path.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")


def write_resolved_config(config: dict[str, Any], folder: str | os.PathLike) -> None:
    """Writes `resolved_config.yaml`: a recipe that repeats the run, with the versions that it ran on."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    with replacing_file(Path(folder) / CONFIG_FILE) as path:
        path.write_text(yaml.safe_dump(config | {"versions": versions}, sort_keys=False))


def read_resolved_config(folder: str | os.PathLike) -> dict[str, Any]:
    """What [`write_resolved_config`] wrote into a run or a checkpoint; empty where there is none."""
    path = Path(folder) / CONFIG_FILE
    return yaml.safe_load(path.read_text()) if path.is_file() else {}


def write_predictions(
    ids: Sequence[str],
    labels: np.ndarray,
    predictions: np.ndarray,
    unimodal_predictions: dict[str, np.ndarray],
    path: str | os.PathLike,
) -> None:
    """Writes one row a sample: `id`, `label`, `prediction` and `prediction_<modality>`.

    Args:
        ids: N sample ids.
        labels: (N,).
        predictions: (N,).
        unimodal_predictions: (N,) by modality.
        path: A Parquet file.
    """
    columns = {"id": list(ids), "label": labels, "prediction": predictions}
    columns |= {f"prediction_{name}": values for name, values in unimodal_predictions.items()}
    with replacing_file(path) as temporary:
        pd.DataFrame(columns).to_parquet(temporary, index=False)


def results_table(metrics: dict[str, float], splits: Sequence[str]) -> str:
    """The metrics of METHOD 10 as a table to read, a column a split."""
    table = {split: [metrics[f"{split}_{name}"] for name in METRICS] for split in splits}
    return pd.DataFrame(table, index=list(METRICS)).to_string(float_format="{:.4f}".format)
