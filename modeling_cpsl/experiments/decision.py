"""The decision layer of a run: its weights are fitted on half the validation groups, intervals on the other half."""

import logging
from typing import Any

import numpy as np

from data_builders.columns import read_columns
from data_builders.files import replacing_files

from ..decision_cpsl import fit_decision_weights, half_of_groups
from ..training.arguments import CPSLTrainingArguments
from ..training.encoding import modality_sets
from ..training.trainer import CPSLTrainer


logger = logging.getLogger(__name__)


def fit_decision(trainer: CPSLTrainer, split: Any, group: str) -> None:
    """Fits the model's decision weights where they pass their test, saves them, and prints what they are.

    Args:
        trainer: The trainer of a run that has trained a model with unimodal heads; every process calls it.
        split: The validation split.
        group: The column of what a sample is from.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.decision_weights = None
    ignored = [*model.config.keys_to_ignore_at_inference, "fusion_weights"]
    result = trainer.predict(split, ignore_keys=ignored)
    fused, unimodal = result.predictions
    groups = groups_of(split, group)
    rows = np.flatnonzero(half_of_groups(groups))
    sets = modality_sets(split, trainer.processing_class)
    weights = fit_decision_weights(
        fused[rows],
        {name: values[rows] for name, values in unimodal.items()},
        result.label_ids[rows],
        [sets[row] for row in rows],
        [groups[row] for row in rows],
    )
    model.config.decision_weights = weights or None
    if trainer.is_world_process_zero():
        with replacing_files(trainer.args.output_dir) as folder:
            model.config.save_pretrained(folder)
        print(f"decision weights, fitted on {len(rows)} validation samples: {describe(weights)}")


def calibration_samples(args: CPSLTrainingArguments, split: Any, group: str) -> np.ndarray:
    """Which validation samples (N,) bool intervals are fitted on: those that decision weights were not fitted on."""
    if not args.decision_weights:
        return np.ones(len(split), dtype=bool)
    return ~half_of_groups(groups_of(split, group))


def groups_of(split: Any, column: str) -> list[str]:
    """What each sample of a split is from; where the data does not say it, each sample is by itself."""
    if column not in split.features:
        logger.warning("there is no column %r: each sample is taken for a group by itself", column)
        column = "id"
    return [str(name) for table in read_columns(split, [column]) for name in table[column].to_pylist()]


def describe(weights: dict[str, dict[str, list[float]]]) -> str:
    """Decision weights on one line."""
    sets = (
        f"{name} = " + " + ".join(f"{weight:.2f} {candidate}" for candidate, (weight, _, _) in candidates.items())
        for name, candidates in weights.items()
    )
    return "; ".join(sets) or "the fused prediction stays as it is, since weights do not help on held-out samples"


__all__ = ["calibration_samples", "describe", "fit_decision", "groups_of"]
