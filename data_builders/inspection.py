"""Describes the content of a dataset, as text and as plots."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from .builder import AlignedSentimentBuilder
from .columns import modality_sizes, repeated_ids, row_counts, shared_videos
from .files import DataError, replacing_file
from .loading import make_builder
from .rows import LABEL_RANGE


if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Labels are means of a few annotators' ratings: multiples of 1 with one of them, of 1/3 in MOSEI, of 1/5 in MOSI.
_LABEL_STEPS = (1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 10)
_STEP_OF_OTHER_LABELS = 1 / 4
_MOST_LENGTH_BINS = 60
_COLORS = ("#0072B2", "#D55E00", "#009E73")  # Okabe and Ito's, which colour-blind people can distinguish


def inspect(path: str | Path, *, labels: bool = True, **options: Any) -> str:
    """A report on a file or folder: format, splits, sizes, labels, lengths, faults, leaks and a few rows.

    Bad samples are listed and do not stop the report. Where the labels cannot be read, the report says why and is
    about the rest.

    Args:
        path: The file or folder.
        labels: Whether labels are to be read.
        options: See `load_aligned_dataset`.

    Raises:
        DataError: The data cannot be read at all.
    """
    with tempfile.TemporaryDirectory() as cache:
        unlabelled = [] if labels else ["labels: not read"]
        try:
            builder = _built(path, cache, labels=labels, **options)
        except DataError as error:
            if not labels:
                raise
            try:
                builder = _built(path, cache, labels=False, **options)
            except DataError:
                raise error from None
            unlabelled = [f"labels: none ({error})"]
        splits = builder.as_dataset()
        lines = [f"{path}: {builder.info.config_name}", *unlabelled]
        for name, split in splits.items():
            lines += [
                "",
                f"{name}: {len(split)} samples of {len(set(split['video_id'][:]))} videos",
                *_split_lines(split),
            ]
        lines += ["", "non-finite values replaced with 0: " + (_listed(builder.replaced) or "none")]
        lines += [f"left out: {len(builder.skipped)} samples"]
        lines += [f"  {skipped.id}: {skipped.reason}" for skipped in builder.skipped[:20]]
        lines += filter(None, [builder.info.description])
        lines += _leaks(splits)
        lines += ["", "first rows:"]
        for split in splits.values():
            names = modality_sizes(split)
            lines += [_row_line(row, names) for row in split.select(range(min(2, len(split)))).with_format("numpy")]
    return "\n".join(lines)


def _built(path: str | Path, cache: str, **options: Any) -> AlignedSentimentBuilder:
    builder = make_builder(path, cache_dir=cache, on_error="skip", **options)
    builder.download_and_prepare()
    return builder


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


def _split_lines(split: datasets.Dataset) -> list[str]:
    lines = []
    for name, size in modality_sizes(split).items():
        missing = int((row_counts(split, name) == 0).sum())
        lines.append(f"  {name}: {size} values a word, missing in {missing} samples")
    if "label" in split.features:
        labels = np.asarray(split["label"][:])
        classes = np.arange(LABEL_RANGE[0], LABEL_RANGE[1] + 1)
        counts, _ = np.histogram(labels, [*(classes - 0.5), classes[-1] + 0.5])
        lines.append(
            "  labels: " + _listed({f"{value:g}": count for value, count in zip(classes, counts, strict=True)})
        )
        lines.append(
            f"  labels: mean {labels.mean():.3f}, deviation {labels.std():.3f}, zero {int((labels == 0).sum())}"
        )
    lengths = _lengths(split)
    return [*lines, f"  words: {lengths.min()} to {lengths.max()}, median {int(np.median(lengths))}"]


def _lengths(split: datasets.Dataset) -> np.ndarray:
    """The number of words of each sample, of shape (N,), or of its feature rows where the words are not kept."""
    return np.max([row_counts(split, name) for name in ("words", *modality_sizes(split))], axis=0)


def _leaks(splits: datasets.DatasetDict) -> list[str]:
    repeated = repeated_ids(splits)
    leaking = sorted(set().union(*shared_videos(splits).values()))
    return [
        f"ids that occur more than once: {len(repeated)} {' '.join(repeated[:5])}".rstrip(),
        f"videos in more than one split: {len(leaking)} {' '.join(leaking[:5])}".rstrip(),
    ]


def _listed(counts: dict) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _row_line(row: dict[str, Any], modalities: Iterable[str]) -> str:
    shapes = ", ".join(f"{name} {row[name].shape}" for name in modalities)
    label = f" [{row['label']:+.2f}]" if "label" in row else ""
    return f"  {row['id']}{label} {' '.join(row['words'])[:80]!r} {shapes}"
