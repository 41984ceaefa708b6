"""Subtitles of a clip: what is said, with its sentiment."""

import html
import os
from collections.abc import Sequence

from data_builders.files import replacing_file

from .clip_prediction import Segment


def write_subtitles(segments: Sequence[Segment], path: str | os.PathLike) -> None:
    """Writes SubRip subtitles, see [`subrip`].

    Args:
        segments: Of a [`ClipAnalysis`].
        path: The file to write, `.srt`.

    Raises:
        WriteError: The file could not be written.
    """
    with replacing_file(path) as temporary:
        temporary.write_text(subrip(segments), encoding="utf-8")


def subrip(segments: Sequence[Segment]) -> str:
    """SubRip subtitles: a caption for each segment, its score in the first line and its words below."""
    return "\n".join(
        f"{number}\n{_clock(segment.start)} --> {_clock(segment.end)}\n{_caption(segment)}\n"
        for number, segment in enumerate(segments, 1)
    )


def web_vtt(segments: Sequence[Segment]) -> str:
    """The same captions as WebVTT, which browsers show over a video."""
    return "WEBVTT\n\n" + "\n".join(
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{html.escape(_caption(segment), quote=False)}\n"
        for segment in segments
    )


def _caption(segment: Segment) -> str:
    words = " ".join(word.text for word in segment.words)
    score = f"[{segment.result['score']:+.1f} {segment.result['label']}]"
    return f"{score}\n{words}" if words else score


def _clock(seconds: float, point: str = ",") -> str:
    """A time as subtitles have it.

    >>> _clock(3725.5)
    '01:02:05,500'
    """
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


__all__ = ["subrip", "web_vtt", "write_subtitles"]
