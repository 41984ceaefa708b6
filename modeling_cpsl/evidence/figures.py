"""The figures of an experiment: paired differences as forest and waterfall, and learning curves with bands."""

import itertools
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_builders.files import replacing_file

from ..experiments.plots import (
    METRIC_PANELS,
    SERIES_COLORS,
    STYLE,
    Log,
    has_modulation,
    plot_modulation,
    plot_training_dynamics,
)
from ..experiments.records import MODULATION_PLOT, TRAINING_PLOT
from ..task_cpsl import Task
from ..training.task_metrics import best_metric, metrics_of, overall_metrics
from .records import FINISHED, task_of_record
from .specification import file_name
from .statistics import CONFIDENCE, Difference
from .summary import Summary


FOREST_PLOT, WATERFALL_PLOT, LEARNING_CURVES = "forest.png", "waterfall.png", "learning_curves.png"
CURVES = "curves"
FOREST_METRICS = ("mae", "corr", "acc2_nonzero")  # of sentiments
# Okabe and Ito's: better, worse, cannot tell. A filled marker says the same as the colour.
_BETTER, _WORSE, _CANNOT_TELL = "#009E73", "#D55E00", "#555555"
_ROW_STYLES = ("-", "--", ":")


def plot_forest(summary: Summary, path: str | os.PathLike) -> None:
    """Draws each row's difference from the reference with its interval; a filled marker where that excludes 0.

    Args:
        summary: With at least one row that was compared.
        path: The PNG file to write.
    """
    import matplotlib.pyplot as plt

    rows = [row for row in summary.rows if row.differences][::-1]
    wanted = FOREST_METRICS if summary.task.is_sentiment else overall_metrics(summary.task)[: len(FOREST_METRICS)]
    known = [name for name in wanted if name in rows[0].differences] or list(rows[0].differences)[:1]
    metrics = [name for name in known if np.isfinite([row.differences[name].value for row in rows]).all()]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(metrics), figsize=(3.2 * len(metrics) + 1, 0.32 * len(rows) + 1.4), sharey=True, squeeze=False
        )
        for axes, name in zip(panels[0], metrics, strict=True):
            greater_is_better = metrics_of(summary.task)[name].greater_is_better
            axes.axvline(0, color="0.4", linewidth=1)
            for position, row in enumerate(rows):
                difference = row.differences[name]
                color = _color(difference, greater_is_better)
                axes.plot([difference.low, difference.high], [position, position], color=color)
                face = color if difference.is_clear else "white"
                axes.plot(difference.value, position, "o", markersize=5, color=color, markerfacecolor=face)
            axes.set_xlabel(f"difference in {name}\n({'right' if greater_is_better else 'left'} is better)")
            axes.grid(axis="y", visible=False)
            axes.set_ylim(-0.6, len(rows) - 0.4)
            axes.locator_params(axis="x", nbins=5)
        panels[0][0].set_yticks(range(len(rows)), [row.name for row in rows])
        title = f"Difference from {summary.reference} on the {summary.split} split, {CONFIDENCE * 100:.0f} % intervals"
        figure.suptitle(title, fontsize=9)
        _save(figure, path)


def plot_waterfall(summary: Summary, path: str | os.PathLike) -> None:
    """Draws what each step of the [`Waterfall`] adds to the first metric shown, from the first row to the last one.

    Args:
        summary: With a waterfall.
        path: The PNG file to write.
    """
    import matplotlib.pyplot as plt

    assert summary.waterfall is not None
    steps, metric = summary.waterfall.steps, next(iter(summary.rows[0].metrics))
    greater_is_better = metrics_of(summary.task)[metric].greater_is_better
    ends = np.cumsum([summary.waterfall.start[metric], *(step.differences[metric].value for step in steps)])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.5, 0.36 * len(steps) + 2.0))
        for position, end in ((0, ends[0]), (len(ends), ends[-1])):
            axes.plot(end, position, "D", markersize=5, color=_CANNOT_TELL)
            axes.annotate(f"{end:.4f}", (end, position), xytext=(8, 0), textcoords="offset points", va="center")
        for position, (step, start) in enumerate(zip(steps, ends[:-1], strict=True), start=1):
            _draw_step(axes, position, start, step.differences[metric], greater_is_better)
        for position, end in enumerate(ends):
            axes.plot([end, end], [position, position + 1], color="0.6", linewidth=0.8, zorder=0)
        axes.set_yticks(range(len(ends) + 1), [summary.waterfall.first, *(step.name for step in steps), "in all"])
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.locator_params(axis="x", nbins=6)
        axes.grid(axis="y", visible=False)
        better = "right" if greater_is_better else "left"
        axes.set_xlabel(f"{metric} on the {summary.split} split ({better} is better)")
        title = f"Difference of each row from the one above, {CONFIDENCE * 100:.0f} % intervals"
        figure.suptitle(title, fontsize=9)
        _save(figure, path)


def _save(figure: Any, path: str | os.PathLike) -> None:
    """Writes a figure as a PNG file, which appears whole or not at all, and forgets it."""
    import matplotlib.pyplot as plt

    figure.tight_layout()
    with replacing_file(path) as unfinished:
        figure.savefig(unfinished, dpi=150, format="png")
    plt.close(figure)


def _draw_step(axes: Any, position: int, start: float, difference: Difference, greater_is_better: bool) -> None:
    """A bar with its interval: empty where that has 0, hatched where the step makes it worse."""
    color = _color(difference, greater_is_better)
    fill = {"facecolor": color if difference.is_clear else "white", "alpha": 0.6}
    axes.barh(position, difference.value, 0.6, left=start, **fill, hatch="////" if color == _WORSE else None)
    axes.barh(position, difference.value, 0.6, left=start, facecolor="none", edgecolor=color)
    axes.plot([start + difference.low, start + difference.high], [position, position], color="black", linewidth=1)
    right = start + np.nanmax([0.0, difference.value, difference.high])
    label = f"{difference.value:+.4f}"
    axes.annotate(label, (right, position), xytext=(5, 0), textcoords="offset points", va="center")


def _color(difference: Difference, greater_is_better: bool) -> str:
    if not difference.is_clear:
        return _CANNOT_TELL
    return _BETTER if (difference.value > 0) == greater_is_better else _WORSE


def plot_curves(records: Sequence[Mapping[str, Any]], names: Sequence[str], folder: Path) -> None:
    """Draws curves over the epochs: means over a row's runs, with bands of one deviation.

    `learning_curves.png` has the validation metric of all rows that picks the best epoch where none is named, the MAE
    of sentiments; `curves/` has the paper's figures 2 (losses) and 3 (modulation) of each row.

    Args:
        records: The records of an experiment.
        names: The rows to draw.
        folder: The experiment's folder.
    """
    curves = folder / CURVES
    curves.mkdir(exist_ok=True)
    learning = {}
    finished = [record for record in records if record["status"] == FINISHED]
    task = task_of_record(finished[0])
    for name in names:
        logs = [record["curves"] for record in finished if record["row"] == name]
        means, deviations = mean_log(logs)
        learning[name] = means, deviations
        plot_training_dynamics(means, curves / f"{file_name(name)}-{TRAINING_PLOT}", deviations=deviations, task=task)
        if has_modulation(means):
            plot_modulation(means, curves / f"{file_name(name)}-{MODULATION_PLOT}", deviations=deviations, task=task)
    _plot_learning_curves(learning, task, folder / LEARNING_CURVES)


def mean_log(logs: Sequence[Log]) -> tuple[Log, Log]:
    """The means of several runs' logs and their deviations: in both, a row an epoch that has every column.

    A run that has ended before an epoch does not count there.
    """
    values: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in itertools.chain.from_iterable(logs):
        if "train_runtime" in row:  # the summary of a whole training
            continue
        for name, value in row.items():
            if value is not None:
                values[round(row["epoch"], 3)][name].append(value)
    rows = [values[epoch] for epoch in sorted(values)]
    means, deviations = (
        [{name: float(function(found)) for name, found in row.items()} for row in rows]
        for function in (np.mean, np.std)
    )
    return means, deviations


def _plot_learning_curves(logs: Mapping[str, tuple[Log, Log]], task: Task, path: Path) -> None:
    import matplotlib.pyplot as plt

    metric = best_metric(task)
    curve = f"eval_{metric}"
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.5, 4))
        for index, (name, (means, deviations)) in enumerate(logs.items()):
            color = SERIES_COLORS[index % len(SERIES_COLORS)]
            style = _ROW_STYLES[index // len(SERIES_COLORS) % len(_ROW_STYLES)]
            epochs = [row["epoch"] for row in means if curve in row]
            values, bands = (np.array([row[curve] for row in log if curve in row]) for log in (means, deviations))
            axes.plot(epochs, values, style, marker="o", markersize=3, color=color, label=name)
            axes.fill_between(epochs, values - bands, values + bands, color=color, alpha=0.15, linewidth=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation MAE ({task.unit})" if metric == "mae" else METRIC_PANELS[metric].title)
        axes.legend(fontsize=8, frameon=False, ncols=1 + len(logs) // 8)
        _save(figure, path)


__all__ = ["plot_curves", "plot_forest", "plot_waterfall"]
