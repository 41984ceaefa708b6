"""From the records of an experiment to what its tables and figures show of each row."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data_builders.command_line import did_you_mean
from data_builders.files import DataError

from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT
from ..training.task_metrics import metrics_of, overall_metrics
from .contributions import Contribution, contributions, subsets_of_rows
from .records import FINISHED, task_of_record
from .statistics import Difference, holm, paired_differences
from .task_sums import label_positions, metrics_of_task_sums
from .waterfall import Waterfall, waterfall


@dataclass(frozen=True)
class Row:
    """What is known of a row of the table.

    Attributes:
        name: Its name.
        num_runs: Number of finished runs that its figures are of.
        num_failed: Number of runs that failed.
        metrics: (seeds,) values by metric. With folds, a seed's value is that of the samples of all folds together.
        seconds: Mean time of a run.
        parameters: Number of the model's parameters.
        differences: Differences from the reference by metric; empty for the reference itself, and where the two have
            no run in common.
        corrected_p: p values by metric, corrected for the number of rows by Holm's method.
    """

    name: str
    num_runs: int
    num_failed: int
    metrics: dict[str, np.ndarray]
    seconds: float
    parameters: int
    differences: dict[str, Difference]
    corrected_p: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """What an experiment has shown so far.

    Attributes:
        rows: Its rows, in the specification's order.
        reference: Name of the row that the others are compared with.
        split: The split that the metrics are of.
        num_samples: Number of samples in it, of all folds together.
        num_groups: Number of groups in it.
        seeds: The seeds of the runs that figures are of.
        num_folds: Number of folds that figures are of; None for the data's own splits.
        contributions: What each modality contributes; empty where the rows are not every subset of the modalities.
        task: What labels are.
        waterfall: What each of some rows adds to the one before; None where none were named, or fewer than two have
            runs in common.
        left_out: Number of finished runs by row that no figure is of: rows are compared over the folds that all of
            them have, and over the seeds that have all of these folds.
    """

    rows: list[Row]
    reference: str
    split: str
    num_samples: int
    num_groups: int
    seeds: list[int]
    num_folds: int | None
    contributions: list[Contribution]
    task: Task = SENTIMENT
    waterfall: Waterfall | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


# By seed and fold, the (S,) sums of each group of the split.
_Sums = dict[tuple[int, int | None], dict[str, list[float]]]


def summarize(
    records: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    reference: str,
    *,
    split: str = "test",
    steps: Sequence[str] = (),
) -> Summary:
    """Summarises the records of an experiment.

    Args:
        records: The records, finished and failed ones, in any order.
        names: The rows to show, in their order; rows without a finished run are left out.
        reference: The row that the others are compared with.
        split: The split to look at.
        steps: Rows of which each adds something to the one before; one without a finished run is passed over.

    Raises:
        ValueError: No run has finished, none has the split, or two have other labels.
    """
    finished = [record for record in records if record["status"] == FINISHED and record["row"] in names]
    if not finished:
        raise ValueError("no run of these rows has finished yet; their records name the logs of those that failed")
    with_split = [record for record in finished if split in record["group_sums"]]
    if not with_split:
        raise ValueError(f"no run has the split {split!r}; they have {', '.join(finished[0]['group_sums'])}")
    task = _common_task(with_split)
    by_row: dict[str, _Sums] = defaultdict(dict)
    for record in with_split:
        by_row[record["row"]][record["seed"], record["fold"]] = record["group_sums"][split]
    finished_runs = {name: len(by_row[name]) for name in names if name in by_row}
    by_row = _comparable(by_row)
    names = [name for name in names if name in by_row]
    differences = {
        name: _differences(by_row[name], by_row[reference], task) if name != reference and reference in by_row else {}
        for name in names
    }
    corrected = _corrected(differences)
    rows = []
    for name in names:
        own = [each for each in with_split if each["row"] == name and (each["seed"], each["fold"]) in by_row[name]]
        rows.append(
            Row(
                name=name,
                num_runs=len(own),
                num_failed=sum(record["row"] == name and record["status"] != FINISHED for record in records),
                metrics=_metrics_by_seed(by_row[name], task),
                seconds=float(np.mean([record["seconds"] for record in own])),
                parameters=own[0]["parameters"],
                differences=differences[name],
                corrected_p=corrected[name],
            )
        )
    largest = max((_pooled(sums) for sums in by_row.values()), key=len)
    runs = {run for sums in by_row.values() for run in sums}
    folds = {fold for _, fold in runs}
    left_out = {name: number - len(by_row.get(name, ())) for name, number in finished_runs.items()}
    return Summary(
        rows=rows,
        reference=reference,
        split=split,
        num_samples=int(sum(values[0] for values in largest.values())),
        num_groups=len(largest),
        seeds=sorted({seed for seed, _ in runs}),
        num_folds=None if folds == {None} else len(folds),
        contributions=_contributions(with_split, by_row, task),
        task=task,
        waterfall=_waterfall({name: by_row[name] for name in steps if name in by_row}, task),
        left_out={name: number for name, number in left_out.items() if number},
    )


def shown_by_default(summary: Summary) -> Summary:
    """The summary without the metrics of single classes and of one of several numbers, the most important one first.

    Those of sentiments are all shown.
    """
    return with_metrics(summary, [name for name in overall_metrics(summary.task) if name in summary.rows[0].metrics])


def with_metrics(summary: Summary, metrics: Sequence[str]) -> Summary:
    """The summary with these metrics alone, in this order.

    Raises:
        ValueError: One of them is unknown.
    """
    for name in metrics:
        if name not in summary.rows[0].metrics:
            known = ", ".join(summary.rows[0].metrics)
            if name in metrics_of(summary.task):
                raise ValueError(f"metric {name!r} does not follow from the sums of the records; there are {known}")
            meant = did_you_mean(name, summary.rows[0].metrics)
            raise ValueError(f"metric {name!r} is unknown{meant}; there are {known}")
    rows = []
    for row in summary.rows:
        differences = {name: row.differences[name] for name in metrics if row.differences}
        rows.append(replace(row, metrics={name: row.metrics[name] for name in metrics}, differences=differences))
    return replace(summary, rows=rows)


def _common_task(records: Sequence[Mapping[str, Any]]) -> Task:
    """What the labels of all runs are; DataError where two have other ones."""
    tasks = [task_of_record(record) for record in records]
    for record, task in zip(records, tasks, strict=True):
        if task != tasks[0]:
            raise DataError(
                f"row {record['row']} has other labels than row {records[0]['row']} "
                f"({', '.join(task.names)}, not {', '.join(tasks[0].names)}), and their metrics cannot be compared; "
                "compare runs on the same labels"
            )
    return tasks[0]


def _comparable(by_row: Mapping[str, _Sums]) -> dict[str, _Sums]:
    """The runs of the folds that all rows have, and of the seeds that have all of these: others are of other samples.

    A row that has no fold in common with those that have the most is left out.
    """
    folds_of = {name: _most_folds(sums) for name, sums in by_row.items()}
    names = sorted(folds_of, key=lambda name: len(folds_of[name]), reverse=True)
    common = folds_of[names[0]]
    for name in names:
        common = common & folds_of[name] or common
    kept = {}
    for name, sums in by_row.items():
        seeds = {seed for seed, _ in sums if all((seed, fold) in sums for fold in common)}
        kept[name] = {run: groups for run, groups in sums.items() if run[0] in seeds and run[1] in common}
    return {name: runs for name, runs in kept.items() if runs}


def _most_folds(sums: _Sums) -> set[int | None]:
    """The folds of the seed that has the most of them."""
    folds: dict[int, set[int | None]] = defaultdict(set)
    for seed, fold in sums:
        folds[seed].add(fold)
    return max(folds.values(), key=len)


def _pooled(sums: _Sums) -> dict[str, list[float]]:
    """The groups of all folds of the first seed."""
    first = min(seed for seed, _ in sums)
    return {group: values for (seed, _), groups in sums.items() if seed == first for group, values in groups.items()}


def _metrics_by_seed(sums: _Sums, task: Task) -> dict[str, np.ndarray]:
    """(seeds,) by metric, each over all folds."""
    totals = []
    for seed in sorted({seed for seed, _ in sums}):
        groups = [values for (each, _), folds in sums.items() if each == seed for values in folds.values()]
        totals.append(np.sum(groups, axis=0))
    return metrics_of_task_sums(np.array(totals), task)


def _differences(row: _Sums, reference: _Sums, task: Task) -> dict[str, Difference]:
    """Differences over the runs that both have."""
    paired = _paired([row, reference], task)
    return {} if paired is None else paired_differences(paired[0], paired[1], task)


def _paired(systems: Sequence[_Sums], task: Task) -> np.ndarray | None:
    """(R, seeds, G, S): the sums of all systems over the seeds that they have in common; None without any.

    DataError where the samples are not the same.
    """
    of_labels = label_positions(task)
    common = set(systems[0]).intersection(*systems[1:])
    if not common:
        return None
    paired = []
    for seed in sorted({seed for seed, _ in common}):
        runs = sorted((run for run in common if run[0] == seed), key=str)
        for run in runs:
            if any(_samples(system[run], of_labels) != _samples(systems[0][run], of_labels) for system in systems[1:]):
                raise DataError(
                    f"the runs with seed {seed} were tested on other samples or labels, and their metrics cannot be "
                    "compared; compare runs on one data set"
                )
        paired.append([[values for run in runs for _, values in sorted(system[run].items())] for system in systems])
    return np.moveaxis(np.array(paired), 0, 1)


def _samples(sums: Mapping[str, Sequence[float]], of_labels: Sequence[int]) -> dict[str, list[float]]:
    """The sums of each group that follow from labels alone, which stand at these places."""
    return {group: [round(values[place], 6) for place in of_labels] for group, values in sums.items()}


def _contributions(
    records: Sequence[Mapping[str, Any]], by_row: Mapping[str, _Sums], task: Task
) -> list[Contribution]:
    options = {
        record["row"]: {name: value for name, value in record["options"].items() if name != "command_line"}
        for record in records
        if record["row"] in by_row
    }
    subsets = subsets_of_rows(options)
    paired = _paired([by_row[name] for name in subsets.values()], task) if subsets else None
    return [] if paired is None else contributions(dict(zip(subsets, paired, strict=True)), task)


def _waterfall(by_row: Mapping[str, _Sums], task: Task) -> Waterfall | None:
    paired = _paired(list(by_row.values()), task) if len(by_row) > 1 else None
    return None if paired is None else waterfall(dict(zip(by_row, paired, strict=True)), task)


def _corrected(differences: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, float]]:
    """Holm's p values by row and metric, each metric by itself."""
    corrected: dict[str, dict[str, float]] = {name: {} for name in differences}
    for metric in {metric for found in differences.values() for metric in found}:
        p_values = {name: found[metric].p for name, found in differences.items() if found}
        for name, p in holm(p_values).items():
            corrected[name][metric] = p
    return corrected


__all__ = ["Row", "Summary", "shown_by_default", "summarize", "with_metrics"]
