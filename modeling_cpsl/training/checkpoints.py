"""Checkpoints of a run: which one can be trusted after the run was killed, and what is read from it to resume."""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME


logger = logging.getLogger(__name__)


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
        raise ValueError(f"{checkpoint} has no {name}: a run cannot be resumed from a checkpoint of the model alone")
    # Each rank loads to its current device; torch knows no `cpu:0`, as gloo's ranks are called.
    return torch.load(path, map_location=device.type, weights_only=True)


def _name(path: Path) -> re.Match | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name)


def _step_of(checkpoint: Path) -> int | None:
    try:
        return json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["global_step"]
    except (OSError, ValueError, KeyError):
        return None


__all__ = ["last_complete_checkpoint", "load_training_state"]
