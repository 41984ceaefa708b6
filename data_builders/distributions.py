"""Draws how the labels and lengths of a dataset are distributed."""

from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np

from .columns import modality_sizes, row_counts
from .files import DataError, replacing_file
from .rows import LABEL_RANGE


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
    labels = {name: np.asarray(split["label"][:]) for name, split in splits.items() if "label" in split.features}
    figure = Figure(figsize=(10 if labels else 5, 4), layout="constrained")
    *label_panel, length_panel = figure.subplots(1, 2 if labels else 1, squeeze=False)[0]
    for panel in label_panel:
        _draw_shares(panel, labels, label_bins(np.concatenate(list(labels.values()))))
        panel.set(xlabel="label", ylabel="share of the utterances", title="Sentiment")
    _draw_shares(length_panel, lengths, _length_bins(max(counts.max(initial=0) for counts in lengths.values())))
    length_panel.set(xlabel="words", ylabel="share of the utterances", title="Length")
    length_panel.legend()
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_shares(panel: "Axes", values: dict[str, np.ndarray], bins: np.ndarray) -> None:
    for (name, found), color in zip(values.items(), _COLORS, strict=False):
        weights = np.full(len(found), 1 / max(len(found), 1))
        label = f"{name} ({len(found)})"
        panel.hist(found, bins.tolist(), weights=weights, histtype="step", linewidth=1.5, color=color, label=label)
    panel.set_xlim(bins[0], bins[-1])


def label_bins(labels: np.ndarray) -> np.ndarray:
    """The edges of bins that are centred on the grid that labels lie on, so that each value of the grid has its own.

    Args:
        labels: Labels within `LABEL_RANGE`, of any shape.

    Returns:
        The edges in ascending order. The grid is the coarsest of some common ones that nine of ten labels lie on: a
        few utterances have ratings of more or fewer annotators than the others.
    """
    shares = {
        step: np.isclose(labels / step, np.rint(labels / step), rtol=0, atol=1e-3).mean() for step in _LABEL_STEPS
    }
    step = next((step for step, share in shares.items() if share >= 0.9), _STEP_OF_OTHER_LABELS)
    low, high = np.rint(np.array(LABEL_RANGE) / step)
    return (np.arange(low, high + 2) - 0.5) * step


def _length_bins(longest: int) -> np.ndarray:
    """The edges of the bins of lengths: one bin per length, or wider bins where some texts are long."""
    return np.arange(0, longest + 2 * (width := 1 + longest // _MOST_LENGTH_BINS), width) - 0.5


def _lengths(split: datasets.Dataset) -> np.ndarray:
    """The number of words of each sample, of shape (N,), or of its feature rows where the words are not kept."""
    return np.max([row_counts(split, name) for name in ("words", *modality_sizes(split))], axis=0)
