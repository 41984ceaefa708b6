"""Splits cut anew by group: for cross-validation, and smaller training splits."""

import itertools
import logging
from collections import Counter
from hashlib import blake2b

from datasets import Dataset, DatasetDict, concatenate_datasets

from .arrow_rows import label_format_of
from .files import DataError


logger = logging.getLogger(__name__)

SMALLEST_NUM_FOLDS = 3


def cross_validation_splits(
    dataset: DatasetDict, fold: int, num_folds: int, *, group: str = "video_id", seed: int | None = None
) -> DatasetDict:
    """The splits of one fold of a cross-validation.

    The samples of all splits are shared out over `num_folds` folds of similar size, the samples of a group always to
    the same one, in the same way whenever it is done (scikit-learn's `GroupKFold`). Fold i is `test`; fold i + 1, or
    after the last one the first, is `validation`, on which models are selected and calibrated; the rest is `train`.
    Of classes, those that it lacks are named in a warning.

    Args:
        dataset: The data set's own splits.
        fold: Number of the fold, from 0.
        num_folds: The number of folds, at least 3.
        group: The column that says to which group a sample belongs, such as the video that it was cut from.
        seed: Another one shares the groups out in another way; their number in each fold is then similar, rather than
            that of their samples.

    Raises:
        DataError: There is no such fold or column, or there are fewer groups than folds.

    Example:
        >>> splits = cross_validation_splits(load_aligned_dataset("mosi", data_dir="data"), fold=0, num_folds=5)
    """
    if num_folds < SMALLEST_NUM_FOLDS or not 0 <= fold < num_folds:
        raise DataError(
            f"fold {fold}/{num_folds}: name a fold from 0 to one below the number of folds, of which there must be at "
            f"least {SMALLEST_NUM_FOLDS} (train, validation and test), such as 0/5"
        )
    samples = concatenate_datasets(list(dataset.values()))
    groups = _groups(samples, group)
    num_groups = len(set(groups))
    if num_groups < num_folds:
        raise DataError(
            f"fold {fold}/{num_folds}: {num_groups} different values in the column {group!r} cannot fill {num_folds} "
            "folds; use fewer folds, or another column as fold_group"
        )
    from sklearn.model_selection import GroupKFold  # takes a third of a second to import

    folds = GroupKFold(num_folds, shuffle=seed is not None, random_state=seed)
    parts = [held_out.tolist() for _, held_out in folds.split(groups, groups=groups)]
    rows = {"validation": parts[(fold + 1) % num_folds], "test": parts[fold]}
    held_out = set().union(*rows.values())
    rows = {"train": [index for index in range(len(samples)) if index not in held_out]} | rows
    splits = DatasetDict({name: samples.select(sorted(indices)) for name, indices in rows.items()})
    if missing := _classes_missing_in(splits["train"]):
        logger.warning(
            "fold %d/%d: no sample of the training split has the label %s, which cannot be learned then; use another "
            "number of folds or another fold_seed",
            fold, num_folds, " or ".join(missing),
        )  # fmt: skip
    return splits


def _classes_missing_in(split: Dataset) -> list[str]:
    """The classes of a data set that no sample of a split has."""
    label_format = label_format_of(split.features)
    if label_format is None or label_format.kind not in ("class", "classes"):
        return []
    labels = split["label"][:]
    found = set(labels if label_format.kind == "class" else itertools.chain.from_iterable(labels))
    return [name for number, name in enumerate(label_format.names) if number not in found]


def share_of_groups(split: Dataset, share: float, *, group: str = "video_id") -> Dataset:
    """A part of a split, in whole groups: to learn what more data is worth.

    Which groups it is depends on their names alone, and a smaller share is a part of every larger one.

    Args:
        split: The split.
        share: How much of its samples to keep, above 0 and at most 1. The group that reaches it is kept whole.
        group: The column that says to which group a sample belongs.

    Raises:
        DataError: There is no such share or column.
    """
    if not 0 < share <= 1:
        raise DataError(f"train_share={share} must lie above 0, and be at most 1")
    groups = _groups(split, group)
    sizes = Counter(groups)
    kept: set[str] = set()
    num_kept = 0
    for name in sorted(sizes, key=lambda name: blake2b(str(name).encode()).digest()):
        if num_kept >= share * len(split):
            break
        kept.add(name)
        num_kept += sizes[name]
    return split.select([index for index, name in enumerate(groups) if name in kept])


def _groups(samples: Dataset, column: str) -> list[str]:
    if column not in samples.column_names:
        raise DataError(
            f"there is no column {column!r} to group by; the data has {', '.join(samples.column_names)}: name one of "
            "them, or add the column to the data's table"
        )
    return samples[column][:]


__all__ = ["cross_validation_splits", "share_of_groups"]
