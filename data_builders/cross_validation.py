"""Cross-validation by group: all splits of a data set together, cut anew so that no group is in two of them."""

from datasets import DatasetDict, concatenate_datasets

from .files import DataError


SMALLEST_NUM_FOLDS = 3


def cross_validation_splits(
    dataset: DatasetDict, fold: int, num_folds: int, *, group: str = "video_id"
) -> DatasetDict:
    """The splits of one fold of a cross-validation.

    The samples of all splits are shared out over `num_folds` folds of similar size, the samples of a group always to
    the same one, in the same way whenever it is done (scikit-learn's `GroupKFold`). Fold i is `test`; fold i + 1, or
    after the last one the first, is `validation`, on which models are selected and calibrated; the rest is `train`.

    Args:
        dataset: The data set's own splits.
        fold: Number of the fold, from 0.
        num_folds: The number of folds, at least 3.
        group: The column that says to which group a sample belongs, such as the video that it was cut from.

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
    if group not in samples.column_names:
        raise DataError(f"fold_group: the data has no column {group!r}; it has {', '.join(samples.column_names)}")
    groups = samples[group][:]
    num_groups = len(set(groups))
    if num_groups < num_folds:
        raise DataError(
            f"fold {fold}/{num_folds}: {num_groups} different values in the column {group!r} cannot fill {num_folds} "
            "folds; use fewer folds, or another column as fold_group"
        )
    from sklearn.model_selection import GroupKFold  # takes a third of a second to import

    parts = [held_out.tolist() for _, held_out in GroupKFold(num_folds).split(groups, groups=groups)]
    rows = {"validation": parts[(fold + 1) % num_folds], "test": parts[fold]}
    held_out = set().union(*rows.values())
    rows = {"train": [index for index in range(len(samples)) if index not in held_out]} | rows
    return DatasetDict({name: samples.select(sorted(indices)) for name, indices in rows.items()})


__all__ = ["cross_validation_splits"]
