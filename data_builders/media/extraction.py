"""Turns one clip into rows."""

from collections.abc import Callable
from pathlib import Path

from .contract import ExtractedClip, ExtractionSettings, Track


def extract_clip(
    path: Path,
    settings: ExtractionSettings,
    *,
    transcript: Path | None = None,
    watch: Callable[[str, Track], None] | None = None,
) -> ExtractedClip:
    """The rows of a clip, one for each utterance.

    Args:
        path: The clip.
        settings: What is extracted, and how.
        transcript: Its words: SRT, VTT, JSON or TextGrid with times, or a plain text. None: they are recognised.
        watch: Is called with the name of a modality and each block of its track as it is measured, to draw them.

    Raises:
        DataError: The clip or its transcript cannot be read, or something is missing that the settings need.
    """
    raise NotImplementedError


def feature_extractors(settings: ExtractionSettings) -> dict[str, str]:
    """What makes the features of each modality: the extractor's name, version and settings, for the column's id."""
    raise NotImplementedError


def feature_names(settings: ExtractionSettings) -> dict[str, tuple[str, ...]]:
    """The names of the values in a row of each modality, in their order."""
    raise NotImplementedError
