"""How fast clips are extracted, stage by stage, and whether memory grows with their length.

`python benchmarks/bench_media.py [--asr MODEL] [--face_model FILE] [--seconds 60] [--minutes 60] [--repetitions 2]
[--quick] [--json OUT]`, with the extra `media` and Debian's espeak-ng. The clips are generated, see talking_clip.py:
one of 720p for the speed, and a minute of 180p again and again for the memory. `--asr` is a model of faster-whisper
(tiny.en) and `--face_model` MediaPipe's FaceLandmarker; without them their stages are left out, and words of the long
clip are aligned with its text. A stage that needs sound or pictures decodes them itself, except for `face, decoded
before`.
"""

import itertools
import json
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from measuring import by_turns, in_fresh_process, parse_arguments, peak_megabytes, report
from talking_clip import repeat_clip, write_talking_clip

from data_builders.media.contract import FRAMES_PER_SECOND, SAMPLING_RATE, ExtractionSettings
from data_builders.media.decoding import audio_chunks, video_frames
from data_builders.media.extraction import extract_clip
from data_builders.media.face import face_tracks
from data_builders.media.voice import VOICES
from data_builders.media.words import words_of_clip


_DECODED_BEFORE = 10  # seconds of pictures that are held in memory


def stages(
    clip: Path, text: Path, seconds: int, asr: str | None, face_model: Path | None
) -> dict[str, tuple[Callable[[], Any], float]]:
    """What is measured, by its name: a function, and how many seconds of the clip it covers."""

    def all_of(blocks: Iterable[Any]) -> None:
        deque(blocks, maxlen=0)

    def extract(*modalities: str) -> Callable[[], Any]:
        settings = ExtractionSettings(modalities, asr=asr, face_model=face_model)
        return lambda: extract_clip(clip, settings, transcript=None if asr else text)

    found: dict[str, tuple[Callable[[], Any], float]] = {
        "sound decoded": (lambda: all_of(audio_chunks(clip)), seconds),
        "pictures decoded": (lambda: all_of(video_frames(clip)), seconds),
        "words aligned": (lambda: words_of_clip(clip, seconds, transcript=text, asr=None), seconds),
        "voice": (lambda: all_of(VOICES["cpsl"].tracks(audio_chunks(clip), SAMPLING_RATE)), seconds),
        "words and voice": (extract("acoustic"), seconds),
    }
    if asr:
        found["words recognised"] = (lambda: words_of_clip(clip, seconds, transcript=None, asr=asr), seconds)
    if face_model:
        frames = list(itertools.islice(video_frames(clip), _DECODED_BEFORE * FRAMES_PER_SECOND))
        found["face, decoded before"] = (lambda: all_of(face_tracks(frames, face_model)), frames[-1].time)
        found["face"] = (lambda: all_of(face_tracks(video_frames(clip), face_model)), seconds)
        found["all together"] = (extract("acoustic", "visual"), seconds)
    return found


def extraction_peak(clip: Path, text: Path, asr: str | None, face_model: Path | None) -> dict[str, float]:
    """The peak memory of this process when it has extracted a clip."""
    modalities = ("acoustic", "visual") if face_model else ("acoustic",)
    settings = ExtractionSettings(modalities, asr=asr, face_model=face_model)
    extract_clip(clip, settings, transcript=None if asr else text)
    return {"megabytes": peak_megabytes()}


def measure_memory(
    folder: Path, minutes: int, height: int, asr: str | None, face_model: Path | None
) -> dict[str, float]:
    """The peak memory of a minute's extraction and of a long clip's, each in a process of its own."""
    peaks = {}
    minute = folder / "minute.mp4"
    said = write_talking_clip(minute, 60, height)
    for name, times in (("minute", 1), ("long", minutes)):
        clip, text = folder / f"{name}-clip.mkv", folder / f"{name}.txt"
        repeat_clip(minute, times, clip)
        text.write_text(" ".join([said] * times))
        given = (clip, text, asr or "", face_model or "")
        peaks[name] = in_fresh_process(__file__, "--peak", *map(str, given))["megabytes"]
    return {
        "minutes": minutes,
        "megabytes_of_a_minute": peaks["minute"],
        "megabytes_of_all": peaks["long"],
        "memory_ratio": peaks["long"] / peaks["minute"],
    }


def main() -> None:
    """Measures and reports."""
    options = parse_arguments(__doc__, files=("asr", "face_model"), seconds=60, minutes=60, repetitions=2)
    seconds, height, repetitions = options.seconds, 720, options.repetitions
    if options.quick:
        seconds, height, repetitions = 6, 180, 1
    with tempfile.TemporaryDirectory(prefix="bench-media-") as name:
        clip, text = Path(name, "clip.mp4"), Path(name, "clip.txt")
        text.write_text(write_talking_clip(clip, seconds, height))
        asr = options.asr and str(options.asr)
        variants = stages(clip, text, seconds, asr, options.face_model)
        rows = {}
        for stage, turns in by_turns({stage: run for stage, (run, _) in variants.items()}, repetitions).items():
            cpu = min(turn["cpu"] for turn in turns)
            rows[stage] = {"cpu_seconds": cpu, "times_real_time": variants[stage][1] / cpu}
        memory = {} if options.quick else measure_memory(Path(name), options.minutes, 180, asr, options.face_model)
    results = {"words_and_voice_times_real_time": rows["words and voice"]["times_real_time"], **memory}
    report(f"Extraction of a clip of {height}p", rows, results, options.json)


if __name__ == "__main__":
    if "--peak" in sys.argv:
        media, transcript, recogniser, model = sys.argv[sys.argv.index("--peak") + 1 :]
        peak = extraction_peak(Path(media), Path(transcript), recogniser or None, Path(model) if model else None)
        print(json.dumps(peak))
    else:
        main()
