"""Reads transcripts: SRT, VTT, JSON and TextGrid, which say when something is said, and plain texts, which do not."""

import html
import json
import math
import re
from pathlib import Path
from typing import Any

from ..files import DataError, read_head
from ..rows import words_of_text
from .contract import Caption


SUFFIXES = (".srt", ".vtt", ".json", ".TextGrid", ".textgrid", ".txt")
MAX_BYTES = 32 << 20  # the transcript of an hour has about 60 kB, with times of words 500 kB
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d{1,6})?)"
_ARROW = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}")
_NOT_SPOKEN = re.compile(r"<[^<>]*>|\{\\[^{}]*\}|\[[^\[\]]*\]|[♪♫]+")  # tags, and [music]
_INTERVAL = re.compile(
    r"intervals\s*\[\d+\]:?\s*xmin\s*=\s*(\S+)\s*xmax\s*=\s*(\S+)\s*text\s*=\s*\"((?:[^\"]|\"\")*)\"", re.DOTALL
)
_TIER = re.compile(r"item\s*\[\d+\]:?\s*class\s*=\s*\"IntervalTier\"\s*name\s*=\s*\"((?:[^\"]|\"\")*)\"", re.DOTALL)


def find_transcript(folder: Path, name: str) -> Path | None:
    """The transcript of a clip in a folder of transcripts: the one with the clip's name and a known suffix."""
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def read_transcript(path: Path) -> list[Caption]:
    """What is said in a clip, in its order.

    Args:
        path: An SRT, VTT, JSON, TextGrid or text file. JSON is what speech recognisers write: a list of words or
            segments, or an object with one as `words` or `segments`; each has `text` or `word`, `start` and `end`.

    Returns:
        Captions that have words. The single caption of a plain text has no times.

    Raises:
        DataError: It cannot be read, or has no words.
    """
    head = read_head(path)
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: a transcript of more than {MAX_BYTES >> 20} MB; cut it")
    text = _decoded(path, head)
    if path.suffix.lower() == ".json":
        captions = _json_captions(path, text)
    elif _TIER.search(text):
        captions = _textgrid_captions(path, text)
    elif _ARROW.search(text):
        captions = _subtitle_captions(text)
    elif path.suffix.lower() in (".txt", ""):
        captions = [Caption(_spoken(text), None, None)]
    else:
        raise DataError(f"{path}: no times in it; check the file, or name it .txt to have its words aligned")
    captions = [caption for caption in captions if words_of_text(caption.text)]
    if not captions:
        raise DataError(f"{path}: no words in it; check the file, or leave it out to have the clip recognised")
    for caption in captions:
        if caption.start is not None and caption.end is not None and not 0 <= caption.start <= caption.end < math.inf:
            raise DataError(
                f"{path}: {caption.text[:40]!r} is from {caption.start:g} to {caption.end:g} s; correct the times"
            )
    return sorted(captions, key=lambda caption: caption.start or 0.0)


def _decoded(path: Path, head: bytes) -> str:
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"  # Praat writes UTF-16
    try:
        return path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the text is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _spoken(text: str) -> str:
    return " ".join(_NOT_SPOKEN.sub(" ", html.unescape(text)).split())


def _subtitle_captions(text: str) -> list[Caption]:
    """The captions of SRT and VTT: a line with times, and lines of text until a blank one."""
    captions = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.split("\n")
        for number, line in enumerate(lines):
            if match := _ARROW.match(line):
                times = match.groups()
                captions.append(
                    Caption(_spoken(" ".join(lines[number + 1 :])), _seconds(*times[:3]), _seconds(*times[3:]))
                )
                break
    return captions


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))


def _json_captions(path: Path, text: str) -> list[Caption]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable JSON ({error}); write it again") from None
    captions = list(_captions_of(content))
    if not captions:
        raise DataError(
            f"{path}: no list of words or segments in it; each needs text (or word), start and end in seconds"
        )
    return captions


def _captions_of(content: Any) -> list[Caption]:
    """Captions of a list of words or segments; of segments that have words, those."""
    if isinstance(content, dict):
        content = content.get("segments") or content.get("words")
    captions: list[Caption] = []
    for item in content if isinstance(content, list) else []:
        if not isinstance(item, dict):
            continue
        if isinstance(item.get("words"), list) and item["words"]:
            captions += _captions_of(item["words"])
            continue
        said = item.get("word", item.get("text"))
        times = item.get("start"), item.get("end")
        if isinstance(said, str) and all(isinstance(time, int | float) for time in times):
            captions.append(Caption(_spoken(said), float(times[0]), float(times[1])))  # type: ignore[arg-type]
    return captions


def _textgrid_captions(path: Path, text: str) -> list[Caption]:
    """The intervals of a TextGrid's tier of words, or else of its first tier."""
    tiers = list(_TIER.finditer(text))
    tier = next((tier for tier in tiers if "word" in tier[1].lower()), tiers[0])
    following = [other.start() for other in tiers if other.start() > tier.start()]
    try:
        return [
            Caption(_spoken(said.replace('""', '"')), float(start), float(end))
            for start, end, said in _INTERVAL.findall(text[tier.end() : following[0] if following else None])
        ]
    except ValueError as error:
        raise DataError(f"{path}: tier {tier[1][:40]}: {error}; correct the times") from None
