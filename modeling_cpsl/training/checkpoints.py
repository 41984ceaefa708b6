"""Which checkpoint of a run that was killed can be trusted."""

import json
import logging
import os
import re
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME


logger = logging.getLogger(__name__)


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The latest checkpoint of a run that was written to its end, with a warning for each later one that was not.

    Trainer writes `trainer_state.json` last, so a checkpoint is whole if that file is.

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


def _name(path: Path) -> re.Match | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name)


def _step_of(checkpoint: Path) -> int | None:
    try:
        return json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["global_step"]
    except (OSError, ValueError, KeyError):
        return None


__all__ = ["last_complete_checkpoint"]
