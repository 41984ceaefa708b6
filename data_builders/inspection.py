"""What a dataset holds, as text and as plots."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from .builder import AlignedSentimentBuilder, make_builder
from .columns import modality_sizes, row_counts
from .files import DataError


LABEL_BINS = np.arange(-3.5, 4.0)  # one bin around each of the seven classes


def inspect(path: Path, *, labels: bool = True, **options: Any) -> str:
    """A report on a file or folder: format, splits, sizes, labels, lengths, faults, leaks and a few rows.

    Bad samples are listed and not fatal. Where the labels cannot be read, the report says why and is of the rest.

    Args:
        path: the file or folder.
        labels: whether labels are to be read.
        options: see `load_aligned_dataset`.

    Raises:
        DataError: the data cannot be read at all.
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
        lines += _leaks(splits)
        lines += ["", "first rows:"]
        for split in splits.values():
            lines += [_row_line(row) for row in split.select(range(min(2, len(split)))).with_format("numpy")]
    return "\n".join(lines)


def _built(path: Path, cache: str, **options: Any) -> AlignedSentimentBuilder:
    builder = make_builder(path, cache_dir=cache, on_error="skip", **options)
    builder.download_and_prepare()
    return builder


def plot(splits: datasets.DatasetDict, path: Path) -> None:
    """Draws how lengths, and labels where there are any, are distributed in each split, as a PNG file.

    Raises:
        DataError: the file is not called .png.
    """
    from matplotlib.figure import Figure

    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: the plot is a PNG file; give a name that ends in .png")
    figure = Figure(figsize=(10, 4), layout="constrained")
    labels, lengths = figure.subplots(1, 2)
    longest = max((max(_lengths(split), default=0) for split in splits.values()), default=0)
    for name, split in splits.items():
        style = {"label": f"{name} ({len(split)})", "histtype": "step", "linewidth": 1.5, "density": len(split) > 0}
        if "label" in split.features:
            labels.hist(split["label"][:], bins=np.linspace(-3, 3, 25), **style)
        lengths.hist(_lengths(split), bins=np.arange(longest + 2) - 0.5, **style)
    labels.set(xlabel="label", ylabel="density", title="Sentiment")
    lengths.set(xlabel="words", title="Length")
    lengths.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _split_lines(split: datasets.Dataset) -> list[str]:
    lines = []
    for name, size in modality_sizes(split).items():
        missing = int((row_counts(split, name) == 0).sum())
        lines.append(f"  {name}: {size} values a word, missing in {missing} samples")
    if "label" in split.features:
        labels = np.asarray(split["label"][:])
        counts, _ = np.histogram(labels, LABEL_BINS)
        lines.append("  labels: " + _listed(dict(zip(range(-3, 4), counts.tolist(), strict=True))))
        lines.append(
            f"  labels: mean {labels.mean():.3f}, deviation {labels.std():.3f}, zero {int((labels == 0).sum())}"
        )
    lengths = _lengths(split)
    return [*lines, f"  words: {min(lengths)} to {max(lengths)}, median {int(np.median(lengths))}"]


def _lengths(split: datasets.Dataset) -> list[int]:
    """Words of each sample, or feature rows where there are no words."""
    names = ["words", *modality_sizes(split)]
    return np.max([row_counts(split, name) for name in names], axis=0).tolist()


def _leaks(splits: datasets.DatasetDict) -> list[str]:
    ids = Counter(name for split in splits.values() for name in split["id"][:])
    videos = Counter(video for split in splits.values() for video in set(split["video_id"][:]))
    repeated = sorted(name for name, count in ids.items() if count > 1)
    leaking = sorted(video for video, count in videos.items() if count > 1)
    return [
        f"ids that occur more than once: {len(repeated)} {' '.join(repeated[:5])}".rstrip(),
        f"videos in more than one split: {len(leaking)} {' '.join(leaking[:5])}".rstrip(),
    ]


def _listed(counts: dict) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _row_line(row: dict[str, Any]) -> str:
    shapes = ", ".join(f"{name} {value.shape}" for name, value in row.items() if np.ndim(value) == 2)
    label = f" [{row['label']:+.2f}]" if "label" in row else ""
    return f"  {row['id']}{label} {' '.join(row['words'])[:80]!r} {shapes}"
