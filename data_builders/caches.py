"""Caches of `datasets` that are noticed to be damaged: each has the checksums of its files."""

import json
from pathlib import Path

from .files import content_hash


_CHECKSUMS = "checksums.json"


def seal(folder: Path) -> None:
    """Writes the checksums of all files of a finished cache beside them."""
    checksums = {file.name: content_hash([file], folder) for file in folder.iterdir()}
    (folder / _CHECKSUMS).write_text(json.dumps(checksums), encoding="utf-8")


def is_intact(folder: Path) -> bool:
    """Whether a cache has all the files that it was sealed with, as they were; others may have come since."""
    try:
        checksums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(checksums, dict) or not checksums:
        return False
    return all(content_hash([folder / name], folder) == checksum for name, checksum in checksums.items())
