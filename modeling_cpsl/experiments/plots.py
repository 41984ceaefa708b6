"""The pictures of a training run: losses and modulation over the epochs (figures 2 and 3 of the paper).

What all pictures have in common is here too: their style, their colours and how they write numbers.
"""

import itertools
import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_builders.files import replacing_file

from ..architectures_cpsl import ARCHITECTURES
from ..number_task_cpsl import NumberTask
from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT


if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Log = Sequence[dict[str, float]]


class Panel(NamedTuple):
    """One pair of axes: what it shows, the unit of its values, and their range where that is known beforehand."""

    title: str
    unit: str
    limits: tuple[float, float] | None = None


class Curve(NamedTuple):
    """A column of the log over the epochs; with deviations it has a band of one to either side."""

    epochs: list[float]
    values: list[float]
    deviations: list[float]
    label: str
    color: str
    marker: str


OF_LABEL = "that of the label"  # in place of units for which _with_units puts the task's
METRIC_PANELS = {
    "mae": Panel("Validation MAE", OF_LABEL),
    "corr": Panel("Validation correlation", "Pearson's r"),
    "ccc": Panel("Validation concordance", "Lin's correlation"),
    "accuracy": Panel("Validation accuracy", "fraction"),
    "uar": Panel("Validation UAR", "mean recall of the classes"),
    "f1_macro": Panel("Validation macro F1", "mean F1 of the classes"),
    "f1_weighted": Panel("Validation weighted F1", "mean F1 by support"),
}
MODULATION_PANELS = {
    "coefficient": Panel("Modulation coefficient $c_m$", "mean over the steps", (0.0, 1.0)),
    "damped": Panel("Damped steps ($c_m < 1$)", "fraction of the steps", (0.0, 1.0)),
    "conflict": Panel("Steps in conflict", "fraction of the steps", (0.0, 1.0)),
    "error": Panel("Unimodal error", OF_LABEL),
    "grad_norm": Panel("Gradient norm $g_m$", "mean over the steps"),
}
SKILL_PANEL = Panel("Who learns when", "validation skill $R_m$")
IMBALANCE_PANEL = Panel("Modality imbalance degree", "largest difference of mean $c_m$", (0.0, 1.0))

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; the markers serve print in grey.
SPLIT_STYLES = {"training": ("#0072B2", "o"), "validation": ("#D55E00", "s")}
MODALITY_STYLES = {"acoustic": ("#E69F00", "o"), "visual": ("#009E73", "s"), "text": ("#56B4E9", "^")}
FURTHER_STYLES = (("#CC79A7", "D"), ("#0072B2", "v"), ("#D55E00", "P"))
# Of what has only a name, such as classes or the rows of an experiment.
SERIES_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
POSITIVE, NEGATIVE = "#0072B2", "#D55E00"  # what raises and what lowers a sentiment
MARK_COLOR = "#555555"
PANELS_IN_ROW = 4
# In inches: a panel with its texts, the room of these left, right, below and above, and the legend's above all panels.
PANEL_SIZE = (3.3, 2.6)
AROUND_AXES = (0.85, 0.1, 0.45, 0.3)
LEGEND_HEIGHT = 0.3
# An axis covers at least this share of its values: a smaller change is not worth a curve.
SMALLEST_SPAN = 0.02
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 4),  # so that numbers at an axis have a known room
    "grid.color": "0.9",
    "lines.linewidth": 1.5,
    "lines.markersize": 3,
}
# Beside STYLE where words and names of a user's are drawn, which no dollar turns into formulas.
PLAIN_TEXT = {"text.parse_math": False}


def plot_training_dynamics(
    log_history: Log,
    path: str | os.PathLike,
    *,
    deviations: Log | None = None,
    best_step: int | None = None,
    task: Task = SENTIMENT,
) -> None:
    """Draws every loss over the epochs, of training and validation, and the validation metrics of [`METRIC_PANELS`].

    Args:
        log_history: Trainer's log history, or the means of several.
        path: The PNG file to write.
        deviations: Of the same rows and columns, where they are means: they become bands.
        best_step: The optimizer step with the best model (`TrainerState.best_global_step`), whose epoch is marked.
        task: What labels are, for the unit of errors.
    """
    panels = []
    for name, panel in _with_units(_loss_panels() | METRIC_PANELS, task).items():
        columns = {"training": f"train_{name}", "validation": f"eval_{name}"}
        curves = [
            _curve(log_history, deviations, column, split, SPLIT_STYLES[split]) for split, column in columns.items()
        ]
        panels.append((panel, curves))
    _save_figure(panels, path, best_epoch=_epoch_of(log_history, best_step))


def plot_modulation(
    log_history: Log,
    path: str | os.PathLike,
    *,
    deviations: Log | None = None,
    modulated_epochs: range | None = None,
    task: Task = SENTIMENT,
) -> None:
    """Draws the means of each epoch's modulation by modality, the imbalance degree, and each modality's skill.

    Args:
        log_history: Trainer's log history of a run with at least one modulated modality, or the means of several.
        path: The PNG file to write.
        deviations: Of the same rows and columns, where they are means: they become bands.
        modulated_epochs: The epochs in the modulation window, counted from 0; they are shaded and their end is marked.
        task: What labels are, for the unit of errors.
    """
    names, able = _names_behind("train_error_", log_history), _names_behind("eval_skill_", log_history)
    styles = modality_styles([*names, *able])
    panels = [
        (panel, [_curve(log_history, deviations, f"train_{quantity}_{name}", name, styles[name]) for name in names])
        for quantity, panel in _with_units(MODULATION_PANELS, task).items()
    ]
    skills = [_curve(log_history, deviations, f"eval_skill_{name}", name, styles[name]) for name in able]
    panels.append((SKILL_PANEL, skills))
    panels.append((IMBALANCE_PANEL, [_curve(log_history, deviations, "train_imbalance", "", (MARK_COLOR, "o"))]))
    _save_figure(panels, path, modulated_epochs=modulated_epochs)


def plot_confusion(counts: np.ndarray, names: Sequence[str], path: str | os.PathLike, *, split: str) -> None:
    """Draws how many samples of each class were taken for each class, coloured by their share of the true class.

    Args:
        counts: (K, K), true classes in rows and predicted ones in columns.
        names: Of the K classes.
        path: The PNG file to write.
        split: What the samples are of, for the title.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.0, 0.55 * len(names) + 1.5)
    with matplotlib.rc_context(STYLE | PLAIN_TEXT | {"axes.grid": False}):
        figure = Figure(figsize=(side, side), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.add_subplot()
        axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(count), ha="center", va="center", color=color)
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
        axis.set(title=f"{split} split", xlabel="predicted", ylabel="true")
        with replacing_file(path) as temporary:
            figure.savefig(temporary, dpi=150)


def modality_styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The colour and marker of each modality, of those in `names` too that have none of their own."""
    others = sorted({*names} - {*MODALITY_STYLES})
    return MODALITY_STYLES | dict(zip(others, itertools.cycle(FURTHER_STYLES), strict=False))


def sentiment_color(value: float) -> str:
    """The colour of a score or of what changes it: one above 0, another below."""
    return POSITIVE if value > 0 else NEGATIVE


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign and so many digits after the point; zero has no sign.

    >>> signed(1.25), signed(-0.04, 1), signed(0)
    ('+1.25', '0.0', '0.00')
    """
    rounded = f"{abs(value):.{digits}f}"
    return rounded if float(rounded) == 0 else f"{'+' if value > 0 else '−'}{rounded}"


def has_modulation(log_history: Log) -> bool:
    """Whether there is something for [`plot_modulation`] to draw."""
    return any("train_imbalance" in row for row in log_history)


def _names_behind(prefix: str, log_history: Log) -> list[str]:
    return sorted({column.removeprefix(prefix) for row in log_history for column in row if column.startswith(prefix)})


def _loss_panels() -> dict[str, Panel]:
    panels = {"loss": Panel("Total loss", "weighted sum")}
    for architecture in ARCHITECTURES.values():
        for name, loss in architecture.loss_terms.items():
            panels.setdefault(f"{name}_loss", Panel(loss.title.capitalize(), loss.unit))
    # The paper's figure shows the entropy, of which the diversity loss is the negative.
    panels["feature_entropy"] = Panel("Feature entropy", panels.pop("diversity_loss").unit)
    return panels


def _with_units(panels: dict[str, Panel], task: Task) -> dict[str, Panel]:
    """Panels with the units that depend on what labels are."""
    units = {"mae": task.unit, "error": f"MAE ({task.unit})"}
    if not isinstance(task, NumberTask):
        units = {"error": task.unit, "task_loss": "cross-entropy", "unimodal_loss": "sum of cross-entropies"}
    return {name: panel._replace(unit=units.get(name, panel.unit)) for name, panel in panels.items()}


def _curve(log_history: Log, deviations: Log | None, column: str, label: str, style: tuple[str, str]) -> Curve:
    """A column of the epochs' rows; the row that sums up the whole training (`train_runtime`) is left out."""
    places = [place for place, row in enumerate(log_history) if column in row and "train_runtime" not in row]
    epochs, values = ([log_history[place][name] for place in places] for name in ("epoch", column))
    return Curve(epochs, values, [deviations[place][column] for place in places] if deviations else [], label, *style)


def _epoch_of(log_history: Log, step: int | None) -> float | None:
    return next((row["epoch"] for row in log_history if step is not None and row.get("step") == step), None)


def _save_figure(
    panels: list[tuple[Panel, list[Curve]]],
    path: str | os.PathLike,
    *,
    best_epoch: float | None = None,
    modulated_epochs: range | None = None,
) -> None:
    """Draws those panels that have curves, with one legend for all, and writes the picture."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(panel, [curve for curve in curves if curve.epochs]) for panel, curves in panels]
    panels = [(panel, curves) for panel, curves in panels if curves]
    with matplotlib.rc_context(STYLE):
        figure = Figure(dpi=150)
        entries: dict[str, Artist] = {}
        for axis, (panel, curves) in zip(_grid(figure, len(panels)), panels, strict=True):
            for curve in curves:
                axis.plot(curve.epochs, curve.values, color=curve.color, marker=curve.marker, label=curve.label)
                if curve.deviations:
                    values, deviations = np.array(curve.values), np.array(curve.deviations)
                    low, high = values - deviations, values + deviations
                    axis.fill_between(curve.epochs, low, high, color=curve.color, alpha=0.15, linewidth=0)
            last_epoch = max(curve.epochs[-1] for curve in curves)
            _mark(axis, last_epoch, best_epoch, modulated_epochs)
            _set_ranges(axis, last_epoch, panel.limits)
            axis.set(title=panel.title, ylabel=panel.unit, xlabel="epoch")
            handles, labels = axis.get_legend_handles_labels()
            entries |= dict(zip(labels, handles, strict=True))
        figure.legend(entries.values(), entries.keys(), loc="upper center", ncols=len(entries), frameon=False)
        with replacing_file(path) as temporary:
            FigureCanvasAgg(figure).print_png(temporary)  # `savefig` would draw everything twice


def _grid(figure: "Figure", num_panels: int) -> list["Axes"]:
    """Axes in rows that are all full: where one has a panel fewer than the first, its panels are wider."""
    num_rows = math.ceil(num_panels / PANELS_IN_ROW)
    counts = [num_panels // num_rows + (row < num_panels % num_rows) for row in range(num_rows)]
    num_columns = math.lcm(*counts)
    width, height = PANEL_SIZE[0] * counts[0], PANEL_SIZE[1] * num_rows + LEGEND_HEIGHT
    figure.set_size_inches(width, height)
    left, right, bottom, top = AROUND_AXES
    # Room that is known beforehand: to look for what texts need would take as long as to draw them, twice.
    across, down = left + right, bottom + top
    grid = figure.add_gridspec(
        num_rows,
        num_columns,
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - (top + LEGEND_HEIGHT) / height,
        wspace=across * num_columns / (width - num_columns * across),
        hspace=down / (PANEL_SIZE[1] - down),
    )
    spans = [(row, column, num_columns // count) for row, count in enumerate(counts) for column in range(count)]
    return [figure.add_subplot(grid[row, column * span : (column + 1) * span]) for row, column, span in spans]


def _mark(axis: "Axes", last_epoch: float, best_epoch: float | None, modulated_epochs: range | None) -> None:
    """Shades the modulation window, and draws lines where it ends and where the best epoch is."""
    if modulated_epochs is not None:
        start, end = modulated_epochs.start, modulated_epochs.stop  # an epoch's values are drawn where it ends
        axis.axvspan(start, end, color="0.94", linewidth=0, zorder=0, label="modulation window")
        if end < last_epoch:
            label = f"end of the window (epoch {end})"
            axis.axvline(end, color=MARK_COLOR, linestyle=":", linewidth=1.5, zorder=1, label=label)
    if best_epoch is not None:
        label = f"best epoch ({best_epoch:g})"
        axis.axvline(best_epoch, color=MARK_COLOR, linestyle="--", linewidth=1, zorder=1, label=label)


def _set_ranges(axis: "Axes", last_epoch: float, limits: tuple[float, float] | None) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlim(0, 1.02 * last_epoch)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=last_epoch >= 1))
    if limits is None:
        low, high = axis.get_ylim()
        missing = SMALLEST_SPAN * max(abs(low), abs(high)) - (high - low)
        margin = max(missing, 0) / 2
    else:
        low, high = limits
        margin = 0.03 * (high - low)
    axis.set_ylim(low - margin, high + margin)
