"""The derived modality `timing`: how fast and with which pauses a segment is spoken."""

from typing import Any

import numpy as np


TIMING_FEATURES = (
    "log_duration",
    "log_pause_before",
    "log_pause_after",
    "log_relative_duration",
    "log_speaking_rate",
    "relative_position",
)
_RESOLUTION = 0.01  # seconds: below it, word times are noise, and logarithms need a floor


def timing_features(row: dict[str, Any]) -> np.ndarray | None:
    """The timing of each word of a segment, from the times of words alone.

    Args:
        row: A row with `start`, `end` of the segment and `word_start`, `word_end` of its n words, in seconds.

    Returns:
        Features of shape (n, len(TIMING_FEATURES)), float32, or `None` where the row has no word times. The columns:

        - logarithms (natural, of the value plus 0.01) of the word's duration, of the pause to the previous word or the
          segment's start, of the pause to the next word or the segment's end (all in seconds), of the duration
          relative to the mean word of the segment, and of the words a second in the segment;
        - the position of the word's middle within the segment, from 0 to 1.

        A pause is whatever lies between words, so the `sp` tokens that readers drop count as pauses.
    """
    if not len(row["word_start"]):
        return None
    start, end = np.asarray(row["word_start"], np.float64), np.asarray(row["word_end"], np.float64)
    segment_start, segment_end = float(row["start"]), float(row["end"])
    duration = np.maximum(end - start, 0)
    borders_before = np.concatenate([[segment_start], end[:-1]])
    borders_after = np.concatenate([start[1:], [segment_end]])
    length = max(segment_end - segment_start, _RESOLUTION)
    columns = [
        _log(duration),
        _log(start - borders_before),
        _log(borders_after - end),
        _log(duration) - _log(duration.mean()),
        np.full(len(start), _log(len(start) / length)),
        np.clip(((start + end) / 2 - segment_start) / length, 0, 1),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _log(values: np.ndarray | float) -> np.ndarray:
    return np.log(np.maximum(values, 0) + _RESOLUTION)
