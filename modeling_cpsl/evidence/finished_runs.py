"""Finished runs of `cpsl train` side by side: mean and deviation over seeds."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers.utils import CONFIG_NAME

from data_builders.command_line import did_you_mean
from data_builders.files import broken_files_are_data_errors
from data_builders.rows import SPLIT_ALIASES

from ..experiments.label_formats import TASK_FIELDS, task_of_fields
from ..experiments.records import CONFIG_FILE, RESULTS_FILE, is_experiment, read_resolved_config, read_results
from ..task_cpsl import Task
from ..training.task_metrics import metrics_of, overall_metrics
from .tables import mean_and_deviation


logger = logging.getLogger(__name__)

_SEEDS = ("seed", "data_seed")
# Options in which repetitions may differ: how a run is called, shown and kept. An ablation's switches are options too.
_OF_NO_INFLUENCE = (
    "ablation", "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory",
    "dataloader_prefetch_factor", "disable_tqdm", "hub_always_push", "hub_model_id", "hub_private_repo",
    "hub_revision", "hub_strategy", "log_level", "log_level_replica", "log_on_each_node", "logging_first_step",
    "logging_nan_inf_filter", "logging_steps", "logging_strategy", "output_dir", "project", "push_to_hub",
    "report_to", "run_name", "save_on_each_node", "save_only_model", "save_total_limit", "skip_memory_metrics",
)  # fmt: skip


@dataclass
class _Run:
    """A run's folder, its options that matter, its seeds, and its metrics on the split, none if it lacks that.

    `task` is what its labels are.
    """

    folder: Path
    options: dict[str, Any]
    seeds: tuple[Any, ...]
    metrics: dict[str, float]
    task: Task


def compare_runs(
    runs: Sequence[str | os.PathLike], split: str = "test", metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """Compares runs by their metrics; runs that differ in their seed alone are averaged.

    A warning names runs that lack the split, and runs with the seed and the metrics of another one, which count once.

    Args:
        runs: Output folders of finished runs; one that is named twice counts once.
        split: The split to compare on: train, validation or test, or another name that data may have for them.
        metrics: Names of metrics. Default: those that every run has, but of no single class or target.

    Returns:
        A row for each group of runs: the number of `runs`, and each metric as text, `mean ± sample deviation`, or for
        a single run the value alone; where there are several rows, `options` has the values in which they differ. A
        group is named by the folder that holds its runs, or, where another group is in the same folder, by its runs.

    Raises:
        ValueError: The split is unknown, a folder holds no finished run, no run has the split, two are on different
            data sets or labels, or one lacks a metric.
    """
    split = standard_split(split)
    folders: dict[Path, Path] = {}
    for path in map(Path, runs):
        folders.setdefault(path.resolve(), path)
    found = [_read_run(folder, split) for folder in folders.values()]
    with_split = [run for run in found if run.metrics]
    if not with_split:
        raise ValueError(
            f"{found[0].folder / RESULTS_FILE}: it has no metrics of the split {split!r}; name another with --split"
        )
    if without := [str(run.folder) for run in found if not run.metrics]:
        logger.warning("left out, since they have no metrics of the split %r: %s", split, ", ".join(without))
    _check_data_sets(with_split)
    if metrics is None:
        known = overall_metrics(with_split[0].task)
        metrics = [name for name in known if all(name in run.metrics for run in with_split)]
    for run in with_split:
        _check_metrics(run, metrics)
    return _table(_grouped(with_split), metrics)


def standard_split(split: str) -> str:
    """The standard name of a split, whichever name of it is given; ValueError where it is none."""
    if split.lower() not in SPLIT_ALIASES:
        meant = did_you_mean(split, SPLIT_ALIASES)
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLIT_ALIASES)}{meant}")
    return SPLIT_ALIASES[split.lower()]


def _grouped(runs: Sequence[_Run]) -> list[list[_Run]]:
    """Repetitions together: runs with the same options, each of its seeds once."""
    groups: list[list[_Run]] = []
    for run in runs:
        group = next((group for group in groups if group[0].options == run.options), None)
        if group is None:
            groups.append([run])
        elif same := [other for other in group if (other.seeds, other.metrics) == (run.seeds, run.metrics)]:
            logger.warning("%s: not counted, with the seed and the metrics of %s", run.folder, same[0].folder)
        else:
            group.append(run)
    return groups


def _read_run(folder: Path, split: str) -> _Run:
    if not (folder / RESULTS_FILE).is_file() or not (folder / CONFIG_FILE).is_file():
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        near = [path for path in (*inside, folder.parent, folder.parent.parent) if is_experiment(path)]
        raise ValueError(
            f"{folder}: not a finished run, for {RESULTS_FILE} and {CONFIG_FILE} are not both in it; "
            + (f"name the experiment {near[0]}" if near else "name the output folder of one")
        )
    with broken_files_are_data_errors(folder, "finished run", "name the output folder of one"):
        results, options = read_results(folder), read_resolved_config(folder)
        versions = {f"version of {name}": value for name, value in options.pop("versions", {}).items()}
        task = _task(folder)
        metrics = {
            name: float(results[f"{split}_{name}"]) for name in metrics_of(task) if f"{split}_{name}" in results
        }
    seeds = tuple(options.pop(name, None) for name in _SEEDS)
    options = {name: value for name, value in options.items() if name not in _OF_NO_INFLUENCE}
    if (options.get("max_steps") or -1) > 0:  # it decides how long the run was
        options.pop("num_train_epochs", None)
    return _Run(folder, options | versions, seeds, metrics, task)


def _task(folder: Path) -> Task:
    """What the labels of a run are, by the configuration of its model; a sentiment where there is none."""
    path = folder / CONFIG_NAME
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return task_of_fields({name: config[name] for name in TASK_FIELDS if name in config})


def _check_data_sets(runs: Sequence[_Run]) -> None:
    """Refuses figures of different data; the folder does not matter, for data may have moved."""
    names = [Path(str(run.options.get("dataset"))).name for run in runs]
    other = next((index for index, name in enumerate(names) if name != names[0]), 0)
    if other:
        raise ValueError(
            f"{runs[other].folder} is a run on the data set {names[other]}, and {runs[0].folder} on {names[0]}: their "
            "metrics cannot be compared; name runs on one data set"
        )
    for run in runs:
        if run.task != runs[0].task:
            raise ValueError(
                f"{run.folder} predicts {', '.join(run.task.names)}, and {runs[0].folder} "
                f"{', '.join(runs[0].task.names)}: their metrics cannot be compared; name runs on the same labels"
            )


def _check_metrics(run: _Run, metrics: Sequence[str]) -> None:
    for metric in metrics:
        if metric not in run.metrics:
            meant = did_you_mean(metric, run.metrics)
            known = ", ".join(run.metrics)
            raise ValueError(f"{run.folder / RESULTS_FILE}: it has no metric {metric!r}{meant} (it has {known})")


def _table(groups: Sequence[Sequence[_Run]], metrics: Sequence[str]) -> pd.DataFrame:
    names = [str(group[0].folder.parent if len(group) > 1 else group[0].folder) for group in groups]
    options = dict.fromkeys(name for group in groups for name in group[0].options)
    differing = [name for name in options if any(_differ(name, group, groups[0]) for group in groups)]
    rows = {}
    for name, group in zip(names, groups, strict=True):
        unique_name = name if names.count(name) == 1 else ", ".join(str(run.folder) for run in group)
        values = {metric: mean_and_deviation(np.array([run.metrics[metric] for run in group])) for metric in metrics}
        rows[unique_name] = {"runs": len(group), **values}
        if differing:
            rows[unique_name]["options"] = " ".join(f"{name}={group[0].options.get(name)}" for name in differing)
    return pd.DataFrame.from_dict(rows, orient="index")


def _differ(option: str, group: Sequence[_Run], other: Sequence[_Run]) -> bool:
    return group[0].options.get(option) != other[0].options.get(option)


__all__ = ["compare_runs", "standard_split"]
