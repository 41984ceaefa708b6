"""Subtitles of a clip: what is said, with its sentiment."""

import os
from collections.abc import Sequence

from data_builders.files import replacing_file

from .clip_prediction import Segment


def write_subtitles(segments: Sequence[Segment], path: str | os.PathLike) -> None:
    """Writes SubRip subtitles: a caption for each segment, its score in the first line and its words below.

    Args:
        segments: Of a [`ClipAnalysis`].
        path: The file to write, `.srt`.

    Raises:
        WriteError: The file could not be written.
    """
    captions = []
    for number, segment in enumerate(segments, 1):
        words = " ".join(word.text for word in segment.words)
        score = f"[{segment.result['score']:+.1f} {segment.result['label']}]"
        times = f"{_clock(segment.start)} --> {_clock(segment.end)}"
        captions.append("\n".join([str(number), times, score, *([words] if words else [])]) + "\n")
    with replacing_file(path) as temporary:
        temporary.write_text("\n".join(captions), encoding="utf-8")


def _clock(seconds: float) -> str:
    """A time as SubRip writes it.

    >>> _clock(3725.5)
    '01:02:05,500'
    """
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"


__all__ = ["write_subtitles"]
