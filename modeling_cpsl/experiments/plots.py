"""The figures of a training run: losses and modulation over the epochs (figures 2 and 3 of the paper)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

from data_builders.files import replacing_file


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
    with replacing_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
