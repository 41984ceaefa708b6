"""What a training run leaves behind: logs, predictions, plots (the paper's figures 2 and 3) and tables."""

import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpoints import write_errors


PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "cpsl")
METRICS = (
    *("mae", "corr", "acc7", "acc5", "acc2_has0", "f1_has0"),
    *("acc2_nonzero", "f1_nonzero", "mae_nonzero", "corr_nonzero"),
)
LOSS_PANELS = {
    "loss": "total loss",
    "task_loss": "task loss",
    "reconstruction_loss": "reconstruction loss",
    "unimodal_loss": "unimodal loss",
    "feature_entropy": "feature entropy (nats), -diversity loss",
    "statistical_loss": "statistical loss",
}
MODULATION_PANELS = {
    "coefficient": "modulation coefficient c_m",
    "conflict": "fraction of steps in conflict",
    "error": "unimodal error MAE_m",
    "grad_norm": "mean gradient norm g_m",
}
# Options in which the repetitions of a run differ; an ablation's name is said again by its switches.
_OF_ONE_RUN = ("seed", "data_seed", "output_dir", "run_name", "hub_model_id", "ablation")
RESULTS_FILE, CONFIG_FILE, LOG_FILE = "all_results.json", "resolved_config.yaml", "training_log.jsonl"


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place at the end; on an error `path` stays as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        with write_errors(path):
            yield Path(temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


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
            with replacing(Path(args.output_dir) / LOG_FILE) as path:
                path.write_text("".join(json.dumps(row) + "\n" for row in state.log_history))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Writes the options beside the checkpoint, for who goes on from it."""
        if state.is_world_process_zero:
            write_resolved_config(self.config, Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def write_results(metrics: dict[str, float], output_dir: str | os.PathLike) -> None:
    """Writes `all_results.json`: every metric as `<split>_<name>`."""
    with replacing(Path(output_dir) / RESULTS_FILE) as path:
        path.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")


def write_resolved_config(config: dict[str, Any], folder: str | os.PathLike) -> None:
    """Writes `resolved_config.yaml`: a recipe that repeats the run, with the versions that it ran on."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    with replacing(Path(folder) / CONFIG_FILE) as path:
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
    with replacing(path) as temporary:
        pd.DataFrame(columns).to_parquet(temporary, index=False)


def plot_training_dynamics(log_history: list[dict[str, float]], path: str | os.PathLike) -> None:
    """Draws every loss over epochs, training and validation (the paper's figure 2).

    Args:
        log_history: Trainer's log history.
        path: A PNG file.
    """
    curves = {"training": _rows(log_history, "train_task_loss"), "validation": _rows(log_history, "eval_task_loss")}
    panels = {
        name: title
        for name, title in LOSS_PANELS.items()
        if any(f"{prefix}_{name}" in rows for prefix, rows in zip(("train", "eval"), curves.values(), strict=True))
    }
    with _figure(len(panels), path) as axes:
        for axis, (name, title) in zip(axes, panels.items(), strict=True):
            for (split, rows), prefix in zip(curves.items(), ("train", "eval"), strict=True):
                if f"{prefix}_{name}" in rows:
                    axis.plot(rows["epoch"], rows[f"{prefix}_{name}"], marker=".", label=split)
            axis.set(title=title, xlabel="epoch")
            axis.legend()


def plot_modulation(log_history: list[dict[str, float]], path: str | os.PathLike) -> None:
    """Draws the modulation's epoch means by modality and the imbalance degree (the paper's figure 3).

    Args:
        log_history: Trainer's log history, of a run with at least one modulated modality.
        path: A PNG file.
    """
    rows = _rows(log_history, "train_imbalance")
    with _figure(len(MODULATION_PANELS) + 1, path) as axes:
        for axis, (quantity, title) in zip(axes, MODULATION_PANELS.items(), strict=False):
            for name in (column for column in rows if column.startswith(f"train_{quantity}_")):
                axis.plot(rows["epoch"], rows[name], marker=".", label=name.removeprefix(f"train_{quantity}_"))
            axis.set(title=title, xlabel="epoch")
            axis.legend()
        axes[-1].plot(rows["epoch"], rows["train_imbalance"], marker=".", color="tab:gray")
        axes[-1].set(title="modality imbalance degree", xlabel="epoch")


def has_modulation(log_history: list[dict[str, float]]) -> bool:
    """Whether there is something for [`plot_modulation`] to draw."""
    return any("train_imbalance" in row for row in log_history)


def results_table(metrics: dict[str, float], splits: Sequence[str]) -> str:
    """The metrics of METHOD 10 as a table to read, a column a split."""
    table = {split: [metrics[f"{split}_{name}"] for name in METRICS] for split in splits}
    return pd.DataFrame(table, index=list(METRICS)).to_string(float_format="{:.4f}".format)


def compare_runs(runs: Sequence[str | os.PathLike], split: str, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Mean and deviation of runs that differ in their seed alone.

    Args:
        runs: Output folders of `run_train.py`; one that is named twice counts once.
        split: The split to compare on.
        metrics: Names of METHOD 10.

    Returns:
        A row a group of runs, with the number of seeds and texts `mean +- sample deviation`, of a single run without
        a deviation. A group is named by the folder that holds it, or where another one is in it by its runs.

    Raises:
        ValueError: A folder holds no finished run, or a run has no such split or metric.
    """
    folders_by_place: dict[Path, Path] = {}
    for run in map(Path, runs):
        folders_by_place.setdefault(run.resolve(), run)
    groups: list[tuple[dict[str, Any], list[Path], list[dict[str, float]]]] = []
    for run in folders_by_place.values():
        results = _read_results(run, split, metrics)
        config = {name: value for name, value in read_resolved_config(run).items() if name not in _OF_ONE_RUN}
        for other, folders, rows in groups:
            if other == config:
                folders.append(run)
                rows.append(results)
                break
        else:
            groups.append((config, [run], [results]))
    names = [str(folders[0].parent if len(folders) > 1 else folders[0]) for _, folders, _ in groups]
    table = {}
    for name, (_, folders, rows) in zip(names, groups, strict=True):
        unique = name if names.count(name) == 1 else ", ".join(map(str, folders))
        table[unique] = {"seeds": len(rows)} | {
            metric: _mean_and_deviation([row[f"{split}_{metric}"] for row in rows]) for metric in metrics
        }
    return pd.DataFrame.from_dict(table, orient="index")


def _read_results(run: Path, split: str, metrics: Sequence[str]) -> dict[str, float]:
    if not (run / RESULTS_FILE).is_file() or not (run / CONFIG_FILE).is_file():
        raise ValueError(f"{run}: no finished run ({RESULTS_FILE} and {CONFIG_FILE} are not both there)")
    results = json.loads((run / RESULTS_FILE).read_text())
    if f"{split}_mae" not in results:
        raise ValueError(f"{run / RESULTS_FILE}: no metrics of the {split} split")
    if unknown := [metric for metric in metrics if f"{split}_{metric}" not in results]:
        raise ValueError(f"{unknown[0]!r} is no metric; there are {', '.join(METRICS)}")
    return results


def _mean_and_deviation(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} +- {np.std(values, ddof=1):.4f}"


def _rows(log_history: list[dict[str, float]], column: str) -> pd.DataFrame:
    return pd.DataFrame([row for row in log_history if column in row])


@contextmanager
def _figure(panels: int, path: str | os.PathLike) -> Iterator[list[Any]]:
    """Yields the axes of a figure of at most three columns and saves it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[panels:]:
        axis.set_visible(False)
    yield axes[:panels]
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
