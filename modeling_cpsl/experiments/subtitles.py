"""Subtitles of a clip: what is said, and what is predicted of it."""

import html
import os
import re
from collections.abc import Sequence
from pathlib import Path

from data_builders.files import replacing_file

from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT
from .clip_prediction import Segment
from .label_texts import said


def write_subtitles(segments: Sequence[Segment], path: str | os.PathLike, task: Task = SENTIMENT) -> None:
    """Writes SubRip subtitles, see [`subrip`].

    Args:
        segments: Of a [`ClipAnalysis`].
        path: The file to write, `.srt`.
        task: What labels are.

    Raises:
        WriteError: The file could not be written.
    """
    with replacing_file(path) as temporary:
        temporary.write_text(subrip(segments, task), encoding="utf-8")


def check_replaceable(path: Path) -> None:
    """Refuses to replace subtitles that are not of [`write_subtitles`], whose captions begin with a prediction.

    Raises:
        ValueError: Names the file.
    """
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    captions = re.split(r"\n\n+", text) if text else []
    if not all(re.match(r"\d+\n.+ --> .+\n\[.*\](\n|$)", caption) for caption in captions):
        raise ValueError(f"{path}: it has other captions than predictions; remove it or name another output")


def subrip(segments: Sequence[Segment], task: Task = SENTIMENT) -> str:
    """SubRip subtitles: a caption for each segment, what is predicted in the first line and its words below."""
    return "\n".join(
        f"{number}\n{_clock(segment.start)} --> {_clock(segment.end)}\n{_caption(segment, task)}\n"
        for number, segment in enumerate(segments, 1)
    )


def web_vtt(segments: Sequence[Segment], task: Task = SENTIMENT) -> str:
    """The same captions as WebVTT, which browsers show over a video."""
    return "WEBVTT\n\n" + "\n".join(
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n"
        f"{html.escape(_caption(segment, task), quote=False)}\n"
        for segment in segments
    )


def _caption(segment: Segment, task: Task) -> str:
    words = " ".join(word.text for word in segment.words)
    predicted = f"[{said(segment.result, task)}]"
    return f"{predicted}\n{words}" if words else predicted


def _clock(seconds: float, point: str = ",") -> str:
    """A time as subtitles have it.

    >>> _clock(3725.5)
    '01:02:05,500'
    """
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


__all__ = ["check_replaceable", "subrip", "web_vtt", "write_subtitles"]
