"""Predictions from one modality alone, of samples that their model has not seen."""

import numpy as np
import pytest
from datasets import Array2D, Dataset, Features, List, Value

from modeling_cpsl.training.unimodal_predictions import out_of_fold_errors


def made_split(number=60, size=3, *, columns=("video_id", "label"), lacking=None):
    """Samples whose voice says the label, whose words say it for a half, and whose face says nothing."""
    generator = np.random.default_rng(0)
    labels = generator.uniform(-3, 3, number).astype(np.float32)
    rows = []
    for index, label in enumerate(labels):
        voice = np.tile([label, 1, 0], (4, 1)).astype(np.float32)
        words = [("good" if label > 0 else "bad") if index % 2 else "it", "is"]
        face = generator.normal(size=(4, size)).astype(np.float32)
        if index == lacking:
            voice, words = voice[:0], []
        rows.append({"id": f"s{index}", "video_id": f"v{index // 4}", "label": label, "words": words})
        rows[-1] |= {"acoustic": voice, "visual": face}
    text = {name: Value("string") for name in ("id", "video_id")}
    features = text | {"label": Value("float32"), "words": List(Value("string"))}
    features |= {name: Array2D((None, size), "float32") for name in ("acoustic", "visual")}
    names = ["id", *columns, "words", "acoustic", "visual"]
    return Dataset.from_list(
        [{name: row[name] for name in names} for row in rows], Features({name: features[name] for name in names})
    )


def test_errors_are_small_where_a_modality_says_the_label():
    text, voice, face = out_of_fold_errors(made_split(), ["text", "acoustic", "visual"]).mean(axis=0)
    assert voice < 0.6 and voice < text < face


def test_no_model_sees_the_labels_of_the_video_that_it_predicts():
    split = made_split()
    before = out_of_fold_errors(split, ["acoustic"])[:4, 0]
    wrong = split.map(lambda row: {"label": -row["label"] if row["video_id"] == "v0" else row["label"]})
    after = out_of_fold_errors(wrong, ["acoustic"])[:4, 0]
    labels = np.array(split["label"][:4])
    # the same predictions, and labels of the other sign
    signs = [-1.0, 1.0]
    assert all(
        min(abs(abs(label + sign * error + label) - other) for sign in signs) < 1e-4
        for label, error, other in zip(labels, before, after, strict=True)
    )


def test_a_sample_without_a_modality_has_no_error():
    errors = out_of_fold_errors(made_split(lacking=5), ["text", "acoustic", "visual"])
    assert np.isnan(errors).sum() == 2 and np.isnan(errors[5, :2]).all()


def test_what_cannot_be_predicted_is_refused():
    with pytest.raises(ValueError, match="no labels"):
        out_of_fold_errors(made_split(columns=("video_id",)), ["acoustic"])
    with pytest.raises(ValueError, match="acoustic is known of samples of fewer than two video_ids"):
        out_of_fold_errors(made_split(number=3), ["acoustic"])
    assert np.isfinite(out_of_fold_errors(made_split(number=3, columns=("label",)), ["acoustic"])).all()
