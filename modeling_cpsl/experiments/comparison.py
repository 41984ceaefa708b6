"""Finished runs side by side: mean and deviation over seeds."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..training.metrics import METRICS
from .records import CONFIG_FILE, RESULTS_FILE, read_resolved_config


# Options in which the repetitions of a run differ; an ablation's name is said again by its switches.
_OF_ONE_RUN = ("seed", "data_seed", "output_dir", "run_name", "hub_model_id", "ablation")


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
