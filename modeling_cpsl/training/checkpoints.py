"""Checkpoints of a run: which one can be trusted after the run was killed, and what is read from it to resume."""

import contextlib
import filecmp
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from data_builders.files import DataError, one_line

from .loss_watch import NonFiniteLossError


logger = logging.getLogger(__name__)

# What Trainer itself reads to go on, and would go on without. Where there are several ranks, names have their numbers.
_TRAINING_STATE = {"optimizer.pt": "optimizer*", "scheduler.pt": "scheduler.pt", "rng_state.pth": "rng_state*.pth"}
# Trainer uses the values of its state as what they should be, long after it has read them. Callbacks are a dict there.
_STATE_KINDS = get_type_hints(TrainerState) | {"stateful_callbacks": dict}


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The latest checkpoint of a run that was written to its end, with a warning for each later one that was not.

    Trainer writes `trainer_state.json` last, so a checkpoint is complete if that file is.

    Args:
        output_dir: A run's `output_dir`.

    Returns:
        Its path, or None where there is none.
    """
    found = [(int(match[1]), path) for path in Path(output_dir).glob("checkpoint-*") if (match := _name(path))]
    for step, path in sorted(found, reverse=True):
        if _step_of(path) == step:
            return str(path)
        logger.warning("%s was cut short while it was written and is not used", path)
    return None


def check_training_state(checkpoint: str | os.PathLike) -> int:
    """Refuses a checkpoint that holds less than a training needs to go on as if it had not been stopped.

    Returns:
        The number of steps that the training had taken.

    Raises:
        ValueError: A file of the optimizer, its schedule or the random numbers is missing, or the trainer's state
            cannot be read; names it.
    """
    with resuming_from(checkpoint):
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        wrong = [name for name, kind in _STATE_KINDS.items() if not _is_of_kind(getattr(state, name), kind)]
        if wrong or not all(isinstance(row, dict) for row in state.log_history):
            raise TypeError(f"{TRAINER_STATE_NAME}: {', '.join(wrong) or 'log_history'} has a value of a wrong type")
    for name, pattern in _TRAINING_STATE.items():
        if not any(Path(checkpoint).glob(pattern)):
            raise ValueError(_lacks(checkpoint, name))
    return state.global_step


def _is_of_kind(value: Any, annotation: Any) -> bool:
    """Whether a value of JSON is what a type annotation says, without a look at what a list or dict holds."""
    members = get_args(annotation) if isinstance(annotation, UnionType) else [annotation]
    kinds = [get_origin(member) or member for member in members]
    return isinstance(value, (*kinds, int) if float in kinds else tuple(kinds))


@contextlib.contextmanager
def resuming_from(
    checkpoint: str | os.PathLike | None, is_under_way: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Turns whatever a damaged checkpoint makes the block raise into a [`DataError`] that names it.

    Args:
        checkpoint: None where nothing is resumed: errors then stay what they are.
        is_under_way: Whether the training has gone on already, so that an error has another cause.
    """
    try:
        yield
    except (DataError, NonFiniteLossError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if checkpoint is None or is_under_way():
            raise
        raise DataError(
            f"{checkpoint}: a training cannot go on from it ({one_line(error)[:200]}); name an earlier checkpoint, or "
            "start anew in another output_dir"
        ) from error


def load_training_state(checkpoint: str | os.PathLike, name: str, device: torch.device) -> dict[str, Any]:
    """Reads a file that a checkpoint keeps beside the model, to resume the training.

    Args:
        checkpoint: Folder of the checkpoint.
        name: Name of the file.
        device: Where its tensors are needed.

    Raises:
        ValueError: The checkpoint has no such file.
    """
    path = Path(checkpoint, name)
    if not path.is_file():
        raise ValueError(_lacks(checkpoint, name))
    with resuming_from(checkpoint):
        # Each rank loads to its current device; torch knows no `cpu:0`, as gloo's ranks are called.
        return torch.load(path, map_location=device.type, weights_only=True)


def link_equal_weights(folder: str | os.PathLike, checkpoint: str | os.PathLike) -> None:
    """Lets the weights of a model and of a checkpoint be one file on the disk where they have the same content.

    Whoever writes one of them again, safetensors and this package alike, writes a new file and leaves the other as it
    is. Where the file system has no links, both stay.

    Args:
        folder: Where the model is saved.
        checkpoint: Whose model it is, as far as known: the best of a run.
    """
    for weights in Path(folder).glob("*.safetensors"):
        original = Path(checkpoint, weights.name)
        if not original.is_file() or original.samefile(weights) or not filecmp.cmp(original, weights, shallow=False):
            continue
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix=".unfinished.", dir=folder) as temporary:
            link = Path(temporary, weights.name)
            link.hardlink_to(original)
            link.replace(weights)


def _lacks(checkpoint: str | os.PathLike, name: str) -> str:
    return (
        f"{checkpoint} has no {name}: a run cannot be resumed from a checkpoint of the model alone; train it further "
        f"with --model_name_or_path {checkpoint} in another output_dir"
    )


def _name(path: Path) -> re.Match | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name)


def _step_of(checkpoint: Path) -> int | None:
    try:
        return json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["global_step"]
    except Exception:  # whatever was cut short or is not from a training
        return None


__all__ = [
    "check_training_state",
    "last_complete_checkpoint",
    "link_equal_weights",
    "load_training_state",
    "resuming_from",
]
