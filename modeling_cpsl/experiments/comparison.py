"""Finished runs side by side: mean and deviation over seeds."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_builders.command_line import did_you_mean

from ..training.metrics import METRICS
from .records import CONFIG_FILE, RESULTS_FILE, read_resolved_config, read_results


# Options ignored when runs are grouped: repetitions differ in them, and an ablation's switches are options as well.
_OPTIONS_OF_ONE_RUN = ("seed", "data_seed", "output_dir", "run_name", "hub_model_id", "ablation")


@dataclass
class _Group:
    """Runs with the same options."""

    options: dict[str, Any]
    folders: list[Path]
    results: list[dict[str, float]]


def compare_runs(
    runs: Sequence[str | os.PathLike], split: str = "test", metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """Compares runs by their metrics; runs that differ in their seed alone are averaged.

    Args:
        runs: Output folders of finished runs; one that is named twice counts once.
        split: The split to compare on.
        metrics: Names of metrics. Default: those that every run has.

    Returns:
        A row for each group of runs: the number of `runs`, and each metric as text, `mean +- sample deviation`, or for
        a single run the value alone. A group is named by the folder that holds its runs, or, where another group
        is in the same folder, by its runs.

    Raises:
        ValueError: A folder holds no finished run, or a run has no such split or metric.
    """
    folders: dict[Path, Path] = {}
    for run in map(Path, runs):
        folders.setdefault(run.resolve(), run)
    results_by_folder = {folder: _read_metrics(folder, split, metrics or ()) for folder in folders.values()}
    if metrics is None:
        metrics = [name for name in METRICS if all(f"{split}_{name}" in row for row in results_by_folder.values())]
    groups: list[_Group] = []
    for folder, results in results_by_folder.items():
        options = {
            name: value for name, value in read_resolved_config(folder).items() if name not in _OPTIONS_OF_ONE_RUN
        }
        group = next((group for group in groups if group.options == options), None)
        if group is None:
            group = _Group(options, [], [])
            groups.append(group)
        group.folders.append(folder)
        group.results.append(results)
    return _table(groups, split, metrics)


def _table(groups: Sequence[_Group], split: str, metrics: Sequence[str]) -> pd.DataFrame:
    names = [str(group.folders[0].parent if len(group.folders) > 1 else group.folders[0]) for group in groups]
    rows = {}
    for name, group in zip(names, groups, strict=True):
        unique_name = name if names.count(name) == 1 else ", ".join(map(str, group.folders))
        rows[unique_name] = {"runs": len(group.results)} | {
            metric: _mean_and_deviation([results[f"{split}_{metric}"] for results in group.results])
            for metric in metrics
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _read_metrics(folder: Path, split: str, metrics: Sequence[str]) -> dict[str, float]:
    if not (folder / RESULTS_FILE).is_file() or not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder}: not a finished run; {RESULTS_FILE} and {CONFIG_FILE} are not both in it")
    results = read_results(folder)
    if not any(f"{split}_{name}" in results for name in METRICS):
        raise ValueError(f"{folder / RESULTS_FILE}: it has no metrics of the split {split!r}")
    for metric in metrics:
        if f"{split}_{metric}" not in results:
            known = [name for name in METRICS if f"{split}_{name}" in results]
            meant = did_you_mean(metric, known)
            raise ValueError(
                f"{folder / RESULTS_FILE}: it has no metric {metric!r}{meant} (it has {', '.join(known)})"
            )
    return results


def _mean_and_deviation(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} +- {np.std(values, ddof=1):.4f}"


__all__ = ["compare_runs"]
