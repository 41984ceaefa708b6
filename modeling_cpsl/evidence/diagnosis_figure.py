"""The picture of a diagnosis: worth, calibration, worth by class, and what is left unused."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from data_builders.files import replacing_file

from ..experiments.plots import MARK_COLOR, STYLE, modality_styles
from .decision_table import DecisionTable


if TYPE_CHECKING:
    from matplotlib.axes import Axes


_KINDS = {"solo": "alone", "shapley": "Shapley value", "last": "last to come"}
_SHADES = (0.35, 1.0, 0.65)


def plot_decision_layer(
    table: DecisionTable, diagnosis: dict[str, Any], path: str | os.PathLike, *, title: str
) -> None:
    """Draws four panels; of a model without unimodal heads the two that need none.

    Args:
        table: The predictions that were diagnosed.
        diagnosis: What [`diagnose`] found.
        path: The PNG file to write.
        title: What the picture is of.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [_worth, _calibration, _classes, _unused] if table.unimodal else [_worth, _classes]
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4 * len(panels) / 2), layout="constrained")
        FigureCanvasAgg(figure)
        for place, draw in enumerate(panels, start=1):
            draw(figure.add_subplot(len(panels) // 2, 2, place), table, diagnosis)
        figure.suptitle(title, fontsize=9)
        with replacing_file(path) as unfinished:
            figure.savefig(unfinished, dpi=150, format="png")


def _worth(axes: "Axes", table: DecisionTable, diagnosis: dict[str, Any]) -> None:
    use, styles = diagnosis["figures"]["use"], modality_styles(table.modalities)
    for number, (kind, label) in enumerate(_KINDS.items()):
        places = np.arange(len(table.modalities)) + (number - 1) * 0.27
        found = [use[name][kind] for name in table.modalities]
        colors = [styles[name][0] for name in table.modalities]
        axes.bar(places, [figure["value"] for figure in found], 0.25, color=colors, alpha=_SHADES[number])
        axes.bar([0], [0], color=MARK_COLOR, alpha=_SHADES[number], label=label)
        _intervals(axes, places, found)
    axes.axhline(0, color=MARK_COLOR, linewidth=1)
    axes.set_xticks(range(len(table.modalities)), table.modalities)
    axes.set(title="What each modality is worth", ylabel="skill")
    axes.legend(frameon=False)


def _calibration(axes: "Axes", table: DecisionTable, diagnosis: dict[str, Any]) -> None:
    styles = modality_styles(table.modalities)
    for name, values in table.unimodal.items():
        color, line = styles[name][0], diagnosis["figures"]["calibration"][name]
        axes.plot(values, table.labels, ".", color=color, alpha=0.35, markeredgewidth=0)
        known = values[np.isfinite(values)]
        if len(known):
            ends = np.array([known.min(), known.max()])
            label = f"{name}: slope {line['slope']['value']:.2f}"
            axes.plot(ends, line["offset"]["value"] + line["slope"]["value"] * ends, color=color, label=label)
    axes.plot([-3, 3], [-3, 3], "--", color=MARK_COLOR, linewidth=1)
    axes.set(title="Calibration of each head", xlabel="prediction from one modality", ylabel="label")
    axes.legend(frameon=False)


def _classes(axes: "Axes", table: DecisionTable, diagnosis: dict[str, Any]) -> None:
    classes = sorted(diagnosis["figures"]["classes"].items(), key=lambda item: float(item[0]))
    shares = np.array([[row[f"shapley_{name}"]["value"] for name in table.modalities] for _, row in classes])
    largest = max(float(np.nanmax(np.abs(shares), initial=0.0)), 1e-9)
    axes.imshow(shares.T, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    for (column, row), value in np.ndenumerate(shares):
        color = "white" if abs(value) > 0.6 * largest else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    labels = [f"{name}\n({diagnosis['num_in_class'][name]})" for name, _ in classes]
    axes.set_xticks(range(len(classes)), labels)
    axes.set_yticks(range(len(table.modalities)), table.modalities)
    axes.grid(visible=False)
    axes.set(title="Shapley value by class (samples)")


def _unused(axes: "Axes", table: DecisionTable, diagnosis: dict[str, Any]) -> None:
    unused, styles = diagnosis["figures"]["unused"], modality_styles(table.modalities)
    names = list(table.unimodal)
    for place, name in enumerate(names):
        axes.plot(place, unused[name]["value"], "o", color=styles[name][0], markersize=5)
    _intervals(axes, np.arange(len(names)), [unused[name] for name in names])
    axes.axhline(0, color=MARK_COLOR, linewidth=1)
    axes.set_xticks(range(len(names)), [f"{name}\n{_change(table, diagnosis, name)}" for name in names])
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set(title="What the decision leaves unused", ylabel=r"$\gamma_m$ of the residual")


def _change(table: DecisionTable, diagnosis: dict[str, Any], name: str) -> str:
    """The weight of a head before and after [`fit_decision_weights`], for samples that have all modalities."""
    weights, everything = diagnosis["decision_weights"], "+".join(sorted(table.modalities))
    shown = [
        found.get(everything, {}).get(name, [0.0])[0]
        for found in (weights["before"], weights["after"])
        if found is not None
    ]
    return "weight " + " → ".join(f"{weight:.2f}" for weight in shown)


def _intervals(axes: "Axes", places: np.ndarray, figures: list[dict[str, float]]) -> None:
    for place, figure in zip(places, figures, strict=True):
        axes.plot([place, place], [figure["low"], figure["high"]], color=MARK_COLOR, linewidth=1, marker="")


__all__ = ["plot_decision_layer"]
