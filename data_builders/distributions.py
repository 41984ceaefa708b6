"""Draws how the labels and lengths of a dataset are distributed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from .arrow_rows import label_format_of
from .columns import modality_sizes, row_counts
from .files import DataError, replacing_file
from .labels import LABEL_RANGE, LabelFormat, Range


if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Labels are means of a few annotators' ratings: multiples of 1 with one of them, of 1/3 in MOSEI, of 1/5 in MOSI.
_LABEL_STEPS = (1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 10)
_STEP_OF_OTHER_LABELS = 1 / 4
_MOST_LENGTH_BINS = 60
_COLORS = ("#0072B2", "#D55E00", "#009E73")  # Okabe and Ito's, which colour-blind people can distinguish


def plot(splits: datasets.DatasetDict, path: Path) -> None:
    """Draws how lengths, and labels where there are any, are distributed in each split, as a PNG file.

    Raises:
        DataError: The file is not called .png.
        WriteError: The file could not be written.
    """
    from matplotlib.figure import Figure

    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: the plot is a PNG file; give a name that ends in .png")
    lengths = {name: _lengths(split) for name, split in splits.items()}
    label_format = label_format_of(next(iter(splits.values())).features)
    num_panels = 0 if label_format is None else len(label_format.ranges) or 1
    figure = Figure(figsize=(5 * (num_panels + 1), 4), layout="constrained")
    *label_panels, length_panel = figure.subplots(1, num_panels + 1, squeeze=False)[0]
    if label_format is not None:
        labels = {name: split["label"][:] for name, split in splits.items()}
        _draw_labels(label_panels, labels, label_format)
    _draw_shares(length_panel, lengths, _length_bins(max(counts.max(initial=0) for counts in lengths.values())))
    length_panel.set(xlabel="words", ylabel="share of the utterances", title="Length")
    length_panel.legend()
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_labels(panels: Sequence["Axes"], labels: dict[str, Any], label_format: LabelFormat) -> None:
    """Draws each number in a panel, or classes in one."""
    if not label_format.ranges:
        values = {name: np.concatenate([np.ravel(label) for label in found]) for name, found in labels.items()}
        _draw_shares(panels[0], values, np.arange(len(label_format.names) + 1) - 0.5)
        panels[0].set_xticks(range(len(label_format.names)), label_format.names, rotation=90)
        panels[0].set(ylabel="share of the labels", title="Class")
        return
    for panel, name, bounds in zip(panels, label_format.names, label_format.ranges, strict=True):
        several = label_format.kind == "numbers"
        values = {
            split: np.array([label[name] for label in found] if several else found) for split, found in labels.items()
        }
        together = np.concatenate(list(values.values()))
        low, high = bounds or (together.min(), together.max())
        _draw_shares(panel, values, label_bins(together, (float(low), float(high))))
        panel.set(xlabel="label", ylabel="share of the utterances", title=name.capitalize())


def _draw_shares(panel: "Axes", values: dict[str, np.ndarray], bins: np.ndarray) -> None:
    for (name, found), color in zip(values.items(), _COLORS, strict=False):
        weights = np.full(len(found), 1 / max(len(found), 1))
        label = f"{name} ({len(found)})"
        panel.hist(found, bins.tolist(), weights=weights, histtype="step", linewidth=1.5, color=color, label=label)
    panel.set_xlim(bins[0], bins[-1])


def label_bins(labels: np.ndarray, bounds: Range = LABEL_RANGE) -> np.ndarray:
    """The edges of bins that are centred on the grid that labels lie on, so that each value of the grid has its own.

    Args:
        labels: Labels of any shape.
        bounds: The least and the greatest that a label can be.

    Returns:
        The edges in ascending order. The grid is the coarsest of some common ones that nine of ten labels lie on: a
        few utterances have ratings of more or fewer annotators than the others.
    """
    shares = {
        step: np.isclose(labels / step, np.rint(labels / step), rtol=0, atol=1e-3).mean() for step in _LABEL_STEPS
    }
    step = next((step for step, share in shares.items() if share >= 0.9), _STEP_OF_OTHER_LABELS)
    low, high = np.rint(np.array(bounds) / step)
    return (np.arange(low, high + 2) - 0.5) * step


def _length_bins(longest: int) -> np.ndarray:
    """The edges of the bins of lengths: one bin per length, or wider bins where some texts are long."""
    return np.arange(0, longest + 2 * (width := 1 + longest // _MOST_LENGTH_BINS), width) - 0.5


def _lengths(split: datasets.Dataset) -> np.ndarray:
    """The number of words of each sample, of shape (N,), or of its feature rows where the words are not kept."""
    return np.max([row_counts(split, name) for name in ("words", *modality_sizes(split))], axis=0)
