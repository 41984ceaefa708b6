"""What each modality alone says of samples that the predictor was not fitted on: small models, fitted on the fly."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from data_builders.columns import modality_rows, read_columns


NUM_FOLDS = 5
# Strengths of the ridge penalty to choose from: for rows of length 1, and for columns of variance 1.
_TEXT_PENALTIES, _FEATURE_PENALTIES = (0.1, 1.0, 10.0), (10.0, 100.0, 1000.0, 10000.0)


def out_of_fold_errors(split: Dataset, modalities: Sequence[str]) -> np.ndarray:
    """Absolute errors of predictions of each training sample from one modality alone, by models that never saw it.

    The samples are cut into five folds by video, and each fold is predicted by ridge regressions on the others: of the
    label on the weighted words (TF-IDF), or on the means and standard deviations of a modality's features over the
    words. They take seconds, see nothing but the training split, and do not depend on the model that is trained.

    Args:
        split: The training split, encoded or not, with `label`, and `video_id` unless each sample is by itself.
        modalities: M names, `text` for the words.

    Returns:
        (N, M); NaN where a sample lacks the modality.

    Raises:
        ValueError: There are no labels, fewer than two videos, or fewer than two samples with a modality.
    """
    names = split.column_names
    if "label" not in names:
        raise ValueError("train split: there are no labels to predict from one modality alone")
    group = "video_id" if "video_id" in names else "id"
    tables = list(read_columns(split, ["label", group]))
    labels = np.concatenate([table["label"].to_numpy() for table in tables]).astype(np.float64)
    groups = np.array([str(name) for table in tables for name in table[group].to_pylist()])
    errors = np.full((len(labels), len(modalities)), np.nan)
    for column, name in enumerate(modalities):
        present, inputs = _words(split) if name == "text" else _pooled_features(split, name)
        if len(set(groups[present])) < 2:
            raise ValueError(
                f"train split: {name} is known of samples of fewer than two {group}s, and predictions from it alone "
                "cannot be made for samples that their model has not seen; leave the modality out"
            )
        predictions = _cross_predictions(name, inputs, labels[present], groups[present])
        errors[present, column] = np.abs(predictions - labels[present])
    return errors


def _cross_predictions(name: str, inputs: Any, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(n,): what models of the other folds predict, with the penalty of which that is best over all folds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold
    from sklearn.preprocessing import StandardScaler

    penalties = _TEXT_PENALTIES if name == "text" else _FEATURE_PENALTIES
    candidates = np.zeros((len(penalties), len(labels)))
    for rest, held_out in GroupKFold(min(NUM_FOLDS, len(set(groups)))).split(labels, groups=groups):
        prepare = TfidfVectorizer(analyzer=_lower) if name == "text" else StandardScaler()
        fitted = prepare.fit_transform([inputs[index] for index in rest])
        unseen = prepare.transform([inputs[index] for index in held_out])
        for penalty, predictions in zip(penalties, candidates, strict=True):
            predictions[held_out] = Ridge(penalty).fit(fitted, labels[rest]).predict(unseen)
    return candidates[np.abs(candidates - labels).mean(axis=1).argmin()]


def _lower(words: Sequence[str]) -> list[str]:
    return [word.lower() for word in words]


def _words(split: Dataset) -> tuple[np.ndarray, list[list[str]]]:
    """Which samples have words, and the words of those."""
    words = [row for table in read_columns(split, ["words"]) for row in table["words"].to_pylist()]
    present = np.array([len(row) > 0 for row in words])
    return present, [row for row in words if row]


def _pooled_features(split: Dataset, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Which samples have a modality, and means and deviations (2 d_m,) of the features of those."""
    pooled = [
        np.concatenate([rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)])
        if len(rows)
        else None
        for rows in modality_rows(split, name)
    ]
    return np.array([row is not None for row in pooled]), [row for row in pooled if row is not None]


__all__ = ["NUM_FOLDS", "out_of_fold_errors"]
