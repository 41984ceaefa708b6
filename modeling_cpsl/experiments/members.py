"""The members of an ensemble that a run is distilled from: what is kept of each, and what they predict together."""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data_builders.files import broken_files_are_data_errors, counted, replacing_file

from ..task_cpsl import Task
from ..training.labels import label_values
from ..training.task_metrics import best_metric, compute_task_metrics
from .recipe import Recipe


_MEMBERS = "members"  # the folder in a run's own


class Member(NamedTuple):
    """What is kept of a member that has been trained: no weights.

    Attributes:
        options: Its options by name.
        logits: (N,) or (N, K) by split, what it predicts, in the order of the data.
    """

    options: dict[str, Any]
    logits: dict[str, np.ndarray]


def member_recipe(recipe: Recipe, number: int) -> Recipe:
    """The recipe of a run's member: the run's own with another seed, without anything that leaves its folder.

    The seed follows from the run's and the number, so that runs with different seeds share no member.
    """
    training = copy.copy(recipe.training)
    training.seed = int(np.random.SeedSequence([training.seed, number]).generate_state(1)[0] >> 1)
    training.output_dir = str(Path(training.output_dir, _MEMBERS, str(number)))
    training.push_to_hub, training.report_to = False, []
    for field in dataclasses.fields(training):
        if field.name.startswith("distillation_"):
            setattr(training, field.name, field.default)
    return recipe._replace(training=training)


def has_members(output_dir: str | os.PathLike) -> bool:
    """Whether a run has finished a member, or left a checkpoint of one."""
    return any(any(Path(output_dir, _MEMBERS).glob(pattern)) for pattern in ("*.pt", "*/checkpoint-*"))


def write_member(member: Member, folder: Path) -> None:
    """Writes what is kept of a member, beside the folder that it was trained in."""
    logits = {name: torch.from_numpy(values) for name, values in member.logits.items()}
    with replacing_file(_path(folder)) as path:
        torch.save({"options": member.options, "logits": logits}, path)


def read_member(folder: Path) -> Member | None:
    """What [`write_member`] wrote; None where the member has not been trained to its end.

    Raises:
        DataError: The file holds something else.
    """
    path = _path(folder)
    if not path.is_file():
        return None
    with broken_files_are_data_errors(path, "member of an ensemble", "remove it, and it is trained again"):
        kept = torch.load(path, map_location="cpu", weights_only=True)
        return Member(dict(kept["options"]), {name: values.numpy() for name, values in kept["logits"].items()})


def _path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.pt")


def ensemble_logits(members: Sequence[Member], split: str, task: Task) -> np.ndarray:
    """The logits (N,) or (N, K) of the mean of what the members predict for the samples of a split."""
    return task.ensemble_logits(torch.from_numpy(np.stack([member.logits[split] for member in members]))).numpy()


def ensemble_metrics(members: Sequence[Member], dataset: Mapping[str, Any], task: Task) -> dict[str, float]:
    """The metrics of the ensemble itself, `<split>_ensemble_<name>` for all splits but the training's."""
    return {
        f"{split}_ensemble_{name}": value
        for split, samples in dataset.items()
        if split != "train"
        for name, value in compute_task_metrics(
            task, ensemble_logits(members, split, task), label_values(samples, task)
        ).items()
    }


def describe_ensemble(metrics: Mapping[str, float], number: int, splits: Sequence[str], task: Task) -> str:
    """How good the ensemble is by itself, on one line."""
    name = best_metric(task)
    values = ", ".join(f"{split} {name} {metrics[f'{split}_ensemble_{name}']:.4f}" for split in splits)
    return f"distilled from {counted(number, 'member')}, which together have {values or 'no split to be judged on'}"


__all__ = [
    "Member",
    "describe_ensemble",
    "ensemble_logits",
    "ensemble_metrics",
    "has_members",
    "member_recipe",
    "read_member",
    "write_member",
]
