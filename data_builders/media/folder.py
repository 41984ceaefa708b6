"""Turns many clips into a data set: in parallel, resumable, and the same for any number of processes."""

import hashlib
import itertools
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from huggingface_hub import DatasetCard, DatasetCardData

from ..arrow_rows import label_format_of, row_features, rows_to_table
from ..conversion import ROWS_PER_GROUP
from ..files import DataError, counted, locked, replacing_file, write_errors
from ..labels import SENTIMENT, LabelFormat
from ..rows import SPLITS, Row, checked_row
from .contract import ExtractionSettings, Measured
from .extraction import check_settings, extract_clip, feature_extractors, feature_names
from .labels import ClipLabels
from .transcripts import find_transcript
from .workers import run_jobs


logger = logging.getLogger(__name__)

SUFFIXES = (
    ".3gp", ".aac", ".ac3", ".aif", ".aiff", ".amr", ".asf", ".au", ".avi", ".caf", ".flac", ".flv", ".m2ts", ".m4a",
    ".m4v", ".mkv", ".mov", ".mp3", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".oga", ".ogg", ".ogv", ".opus", ".ts",
    ".w64", ".wav", ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip
_BYTES_PER_FILE = 64 << 20
_NOTE = b"cpsl"  # the key of a part's note in the metadata of its schema


class Clip(NamedTuple):
    """A clip: the name that its rows get, and its file."""

    name: str
    path: Path


class Job(NamedTuple):
    """What a worker needs to extract a clip: what, how, and the file in which its rows go."""

    clip: Clip
    transcript: Path | None
    labels: ClipLabels | None
    settings: ExtractionSettings
    features: Features
    part: Path
    key: str


class Done(NamedTuple):
    """What became of a clip: its split and counts, or the reason why it was left out."""

    clip: Clip
    split: str
    measured: Measured | None
    reason: str


def find_clips(paths: Iterable[Path]) -> list[Clip]:
    """The clips that are given, and those in folders that are given, sorted by their names.

    A clip's name is its path within the folder, without the suffix.

    Raises:
        DataError: There is no such file, no clip, or two have the same name.
    """
    found: list[Clip] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; check the path")
        if path.is_dir():
            inside = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
            found += [Clip(file.relative_to(path).with_suffix("").as_posix(), file) for file in inside]
        else:
            found.append(Clip(path.stem, path))
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no clips there; give folders or files of video or sound")
    found.sort()
    for one, other in itertools.pairwise(found):
        if one.name == other.name:
            raise DataError(f"{one.path} and {other.path} have the same name; rename one, or leave it out")
    return found


def extract_clips(
    clips: Sequence[Clip],
    out: Path,
    settings: ExtractionSettings,
    *,
    transcripts: Path | None = None,
    labels: Mapping[str, ClipLabels] | None = None,
    label_format: LabelFormat = SENTIMENT,
    num_proc: int = 1,
    shard: tuple[int, int] = (0, 1),
    on_error: str = "skip",
) -> list[Done]:
    """Writes a data set of clips, as Parquet files that `load_aligned_dataset` reads.

    Each finished clip is kept until all are, so that the same call goes on after an interrupt or a failure.

    Args:
        clips: The clips of all shards, see [`find_clips`].
        out: The folder of the data set; several shards have the same one.
        settings: What is extracted, and how.
        transcripts: A folder of transcripts that have the names of the clips.
        labels: By the clip's name; clips without a label are then left out. None: the rows have no labels.
        label_format: What the labels are, see [`read_labels`].
        num_proc: The number of processes.
        shard: Which shard of how many is extracted, counted from 0.
        on_error: What is done about a clip that cannot be extracted, see `ON_ERROR`.

    Returns:
        What became of each clip of the shard, in their order.

    Raises:
        DataError: Nothing could be extracted; or, with `on_error="raise"`, one of the clips.
        WriteError: Something could not be written.
    """
    check_settings(settings)
    index, count = shard
    if existing := sorted(out.glob(f"data/*-{index:05d}-of-{count:05d}.parquet")):
        raise DataError(f"{existing[0]}: exists already; give a new folder")
    _warn_of_labels_without_clips(clips, labels or {})
    parts = out / f".clips-{index}-of-{count}"
    features = _features(settings, None if labels is None else label_format)
    mine = clips[index::count]
    with locked(out / f"shard-{index}-of-{count}"):
        with write_errors(out):
            parts.mkdir(exist_ok=True)
        jobs = [_job(clip, transcripts, _labels_of(clip, labels), settings, features, parts) for clip in mine]
        results = _run(jobs, num_proc, on_error, labelled=labels is not None)
        if not any(result.measured for result in results):
            first = f"; the first: {results[0].reason}" if results else ""
            raise DataError(f"{out}: none of {counted(len(mine), 'clip')} could be extracted{first}")
        _write(results, out, parts, features, shard)
        splits = {label.split for label in labels.values()} if labels else {SPLITS[0]}
        with replacing_file(out / "README.md") as temporary:
            _card(settings, features, sorted(splits, key=SPLITS.index)).save(temporary)
        shutil.rmtree(parts, ignore_errors=True)
    return results


def _warn_of_labels_without_clips(clips: Sequence[Clip], labels: Mapping[str, ClipLabels]) -> None:
    if absent := sorted(labels.keys() - {name for clip in clips for name in _names(clip)}):
        logger.warning("%s of clips that are not there, the first is %s", counted(len(absent), "label"), absent[0])


def _run(jobs: Sequence[Job], num_proc: int, on_error: str, *, labelled: bool) -> list[Done]:
    """What becomes of each clip, in their order; those that an earlier call has finished are not extracted again."""
    done: dict[str, Done] = {}
    waiting = []
    for job in jobs:
        if labelled and job.labels is None:
            done[job.clip.name] = Done(job.clip, "", None, f"{job.clip.path}: no label for it")
        elif measured := _finished(job):
            done[job.clip.name] = Done(job.clip, _split(job), measured, "")
        else:
            waiting.append(job)
    for job, measured, reason in run_jobs(extract_job, waiting, num_proc, total=len(jobs), finished=len(done)):
        if reason and on_error == "raise":
            raise DataError(f"{reason}; to leave such clips out give --on_error skip")
        done[job.clip.name] = Done(job.clip, _split(job), measured, reason)
    return [done[job.clip.name] for job in jobs]


def _features(settings: ExtractionSettings, label_format: LabelFormat | None) -> Features:
    sizes = {modality: len(names) for modality, names in sorted(feature_names(settings).items())}
    return row_features(sizes, True, label_format=label_format, feature_extractors=feature_extractors(settings))


def _split(job: Job) -> str:
    return job.labels.split if job.labels else SPLITS[0]


def _names(clip: Clip) -> tuple[str, str]:
    """What a table of labels may call a clip."""
    return clip.name, f"{clip.name}{clip.path.suffix}"


# One clip


def _labels_of(clip: Clip, labels: Mapping[str, ClipLabels] | None) -> ClipLabels | None:
    return next((labels[name] for name in _names(clip) if name in labels), None) if labels else None


def _job(
    clip: Clip,
    transcripts: Path | None,
    labels: ClipLabels | None,
    settings: ExtractionSettings,
    features: Features,
    parts: Path,
) -> Job:
    """The job of a clip; its key changes with everything that its rows depend on."""
    transcript = find_transcript(transcripts, clip.name) if transcripts else None
    states = [(file, file.stat()) for file in (clip.path, transcript) if file]
    files = [(os.fsencode(file), state.st_size, state.st_mtime_ns) for file, state in states]
    key = hashlib.sha256(repr((files, labels, settings, features.to_dict())).encode()).hexdigest()
    return Job(clip, transcript, labels, settings, features, _part(parts, clip), key)


def _part(parts: Path, clip: Clip) -> Path:
    """The file of a clip's rows; the name of a clip may be too long for a file."""
    return parts / f"{hashlib.sha256(os.fsencode(clip.name)).hexdigest()}.parquet"


def extract_job(job: Job) -> Measured:
    """Extracts a clip and writes its rows into the file of the job."""
    labels = job.labels
    extracted = extract_clip(
        job.clip.path,
        job.settings,
        name=job.clip.name.encode(errors="backslashreplace").decode(),
        transcript=job.transcript,
        spans=labels.spans if labels else None,
    )
    rows: list[Row] = extracted.rows
    if labels:
        rows = [
            row | {"label": label, "video_id": labels.video_id} for row, label in zip(rows, labels.labels, strict=True)
        ]
    sizes = {name: feature.shape[1] for name, feature in job.features.items() if hasattr(feature, "shape")}
    label_format = label_format_of(job.features)
    table, _ = rows_to_table([checked_row(row, sizes, label_format=label_format) for row in rows], job.features)
    note = json.dumps({"key": job.key, "measured": extracted.measured})
    table = table.replace_schema_metadata((table.schema.metadata or {}) | {_NOTE: note.encode()})
    with replacing_file(job.part) as temporary:
        pq.write_table(table, temporary)
    return extracted.measured


def _finished(job: Job) -> Measured | None:
    """The counts of a clip that an earlier call has extracted in the same way."""
    try:
        note = json.loads(pq.read_schema(job.part).metadata[_NOTE])
        return Measured(*note["measured"]) if note["key"] == job.key else None
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException):
        return None


# The data set


def _write(results: list[Done], out: Path, parts: Path, features: Features, shard: tuple[int, int]) -> None:
    """Puts the rows of finished clips together, in the order of the clips."""
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for result in results:
        if result.measured:
            splits[result.split].append(_part(parts, result.clip))
    schema = features.arrow_schema
    for split, files in splits.items():
        groups = [files] if shard[1] > 1 else _groups_of_size(files)
        for index, group in enumerate(filter(None, groups)):
            position, count = shard if shard[1] > 1 else (index, len(groups))
            path = out / "data" / f"{split}-{position:05d}-of-{count:05d}.parquet"
            with replacing_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
                for file in group:
                    writer.write_table(pq.read_table(file).cast(schema), row_group_size=ROWS_PER_GROUP)


def _groups_of_size(files: list[Path]) -> list[list[Path]]:
    """Files in their order, in groups of about `_BYTES_PER_FILE`."""
    groups: list[list[Path]] = []
    size = 0
    for file in files:
        if not groups or size >= _BYTES_PER_FILE:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.stat().st_size
    return groups


def _card(settings: ExtractionSettings, features: Features, splits: Sequence[str]) -> DatasetCard:
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    data = DatasetCardData(
        task_categories=["text-classification"],
        tags=["multimodal-sentiment-analysis"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    modalities = "".join(
        f"- `{name}` by {features[name].id}, {len(names)} values: {', '.join(names)}\n"
        for name, names in feature_names(settings).items()
    )
    source = "half seconds, without words"
    if settings.words:
        source = f"words from transcripts, or recognised by {settings.asr}" if settings.asr else "words of transcripts"
    return DatasetCard(
        f"---\n{data.to_yaml()}\n---\n\n# Clips, word by word\n\nWritten by `cpsl extract`: one row is one utterance, "
        f"and its features have one row a word ({source}).\n\n{modalities}"
    )


def summary(results: Sequence[Done], seconds: float) -> str:
    """What was extracted, for people.

    Args:
        results: What became of each clip.
        seconds: How long it took.
    """
    measured = [result.measured for result in results if result.measured]
    length = sum(one.seconds for one in measured)
    words, timed = sum(one.words for one in measured), sum(one.words_timed for one in measured)
    frames, faces = sum(one.frames for one in measured), sum(one.faces for one in measured)
    utterances = Counter[str]()
    missing = Counter[str]()
    for result in results:
        if result.measured:
            utterances[result.split] += result.measured.utterances
            missing.update(result.measured.missing)
    by_split = ", ".join(f"{split} {utterances[split]}" for split in SPLITS if utterances[split])
    lines = [
        f"{counted(len(measured), 'clip')} of {length / 60:.1f} min in {seconds / 60:.1f} min "
        f"({length / max(seconds, 1e-9):.1f} seconds a second); utterances: {by_split}"
    ]
    if words:
        lines.append(f"words: {words}, {timed / words:.1%} of them aligned")
    if frames:
        lines.append(f"pictures: {frames}, {faces / frames:.1%} of them with a face")
    lines.append("utterances that lack a modality: " + ", ".join(f"{name} {missing[name]}" for name in missing))
    left_out = [result for result in results if not result.measured]
    if left_out:
        lines.append(f"left out: {counted(len(left_out), 'clip')}")
        lines += [f"  {result.reason}" for result in left_out]
    return "\n".join(lines)
