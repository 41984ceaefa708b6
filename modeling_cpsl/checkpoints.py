"""Outputs that are whole or not there, and which checkpoint of a run that was killed can be trusted."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME


logger = logging.getLogger(__name__)


class WriteError(OSError):
    """A model or checkpoint could not be written; the message names its folder and the space that is left."""


@contextmanager
def write_errors(folder: str | os.PathLike) -> Iterator[None]:
    """Turns what Python, torch and safetensors raise on a full disk into a [`WriteError`] of one line."""
    try:
        yield
    except WriteError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(_existing(folder)).free
        raise WriteError(
            f"{folder}: could not be written, {free / 1e6:.0f} MB are free ({' '.join(str(error).split())[:200]}); "
            "what was there before is whole"
        ) from error


@contextmanager
def replacing_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields an empty folder whose files take their places in `folder` at the end.

    On an error or an interrupt the files of `folder` stay as they were.

    Raises:
        WriteError: A file could not be written.
    """
    folder = Path(folder)
    temporary = folder / ".unfinished"
    try:
        with write_errors(folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for path in temporary.iterdir():
                path.replace(folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def _existing(folder: str | os.PathLike) -> Path:
    return next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())


def _name(path: Path) -> re.Match | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name)


def _step_of(checkpoint: Path) -> int | None:
    try:
        return json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["global_step"]
    except (OSError, ValueError, KeyError):
        return None


__all__ = ["WriteError", "last_complete_checkpoint", "replacing_files", "write_errors"]
