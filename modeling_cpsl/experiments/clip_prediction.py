"""What a model predicts over the time of a clip: a video or audio file, a segment at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from data_builders.files import DataError
from data_builders.media.contract import ExtractionSettings, Track, Word
from data_builders.media.extraction import extract_clip, feature_extractors
from data_builders.media.extras import load
from data_builders.media.face import FACE_FEATURES, find_face_model
from data_builders.media.voice import VOICES
from data_builders.rows import Row
from data_builders.timing import timing_features

from ..number_task_cpsl import NumberTask
from ..pipeline_cpsl import MultimodalSentimentPipeline
from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT
from .label_texts import has_prediction, interval_of, said, scales, score_of
from .prediction import result_columns
from .prediction_tables import (
    INTEGER,
    NUMBER,
    TEXT,
    WRITERS,
    label_columns,
    prediction_columns,
    read_table,
    share_columns,
    uncertainty_cells,
    uncertainty_columns,
    write_table,
)


# The first columns of a table of segments.
_SEGMENT_COLUMNS: dict[str, pa.DataType] = {"start": NUMBER, "end": NUMBER, "words": TEXT}
LOWEST_PITCH = 27.5  # Hz, above which extractors count semitones
VALUES_PER_SECOND = 10  # of a track that is drawn
# What is drawn of a modality: a name with the unit, and the measured values of which it is the mean.
DRAWN: dict[str, dict[str, tuple[str, ...]]] = {
    "acoustic": {"loudness": ("loudness", "Loudness_sma3"), "pitch (Hz)": ("f0", "F0semitoneFrom27.5Hz_sma3nz")},
    "visual": {"smile (0 to 1)": ("mouthSmileLeft", "mouthSmileRight"), "raised brows (0 to 1)": ("browInnerUp",)},
}


class Segment(NamedTuple):
    """An utterance of a clip and what the model says of it.

    Attributes:
        start: Its beginning, in seconds of the clip.
        end: Its end.
        words: Its words with their times; none where the text is missing.
        result: As the pipeline gives it with `explain="words"`: `score`, `label`, `modalities`, `uncertainty`,
            `word_shares` (a share for each of the words, or by name, None where there is none) ...
    """

    start: float
    end: float
    words: tuple[Word, ...]
    result: dict[str, Any]


class ClipAnalysis(NamedTuple):
    """What was found in a clip.

    Attributes:
        segments: In the order of time.
        tracks: What was measured and can be drawn, by its name with the unit, such as `pitch (Hz)`: at most 10 values
            a second, NaN where a value is not defined; values have the shape (n,).
        notes: What a reader must know, a line each: modalities of the model that the clip lacks or that come from
            other extractors, so that the model predicted without them.
        task: What the model predicts.
    """

    segments: list[Segment]
    tracks: dict[str, Track]
    notes: list[str]
    task: Task = SENTIMENT


def analyse(
    sentiment: MultimodalSentimentPipeline,
    clip: Path,
    settings: ExtractionSettings,
    *,
    transcript: Path | None = None,
    batch_size: int = 32,
) -> ClipAnalysis:
    """Predicts the label of each segment of a clip, with each word's share in it.

    Memory does not grow with the sound and the pictures of a clip, which are read piece by piece.

    Args:
        sentiment: The pipeline of a model, see [`load_pipeline`]. A model whose voice and face features come from
            other extractors predicts from the words and their timing alone, which `notes` says.
        clip: A video or audio file.
        settings: How words come about, and what is measured of voice and face.
        transcript: The words, with or without times; None: they are recognised.
        batch_size: Utterances in a forward pass.

    Raises:
        DataError: The clip or its transcript cannot be read, there is nothing in it that the model can use, or a
            package or model that it needs is missing. The message is one line.
    """
    notes: list[str] = []
    settings = _measurable(settings, notes)
    usable = _usable_modalities(sentiment, settings, notes)
    if not (settings.words and sentiment.model.config.use_text) and not usable - {"timing"}:
        raise DataError(
            f"{clip}: nothing in it that this model can use ({'; '.join(notes) or 'it reads words alone'}); give a "
            "model that reads words and let them be recognised, or train one on what `cpsl extract` makes of clips"
        )
    drawn = _DrawnTracks(settings)
    rows = extract_clip(clip, settings, transcript=transcript, watch=drawn.add).rows
    for modality in settings.modalities:
        if usable and modality in usable and (lacking := sum(row[modality] is None for row in rows)):
            notes.append(f"no {modality} features in {lacking} of {len(rows)} segments, which are scored without them")
    given = [(row, utterance) for row in rows if (utterance := _utterance(row, usable))]
    if not given:
        raise DataError(f"{clip}: nothing was found in it that this model can use; give a clip with speech")
    utterances = [utterance for _, utterance in given]
    results: list[dict[str, Any]] = sentiment(utterances, batch_size=batch_size, explain="words")  # type: ignore[assignment]
    segments = [
        Segment(row["start"], row["end"], _words(row), result) for (row, _), result in zip(given, results, strict=True)
    ]
    return ClipAnalysis(segments, drawn.tracks(), notes, sentiment.model.task)


def _measurable(settings: ExtractionSettings, notes: list[str]) -> ExtractionSettings:
    """The settings without faces, if the caller did not name a model for them and what they need is missing."""
    if "visual" in settings.modalities and settings.face_model is None:
        try:
            find_face_model(None)
            load("mediapipe")
        except DataError as error:
            notes.append(f"faces are not measured: {error}")
            return settings._replace(modalities=tuple(name for name in settings.modalities if name != "visual"))
    return settings


def _usable_modalities(
    sentiment: MultimodalSentimentPipeline, settings: ExtractionSettings, notes: list[str]
) -> set[str]:
    """The modalities of the model that clips have, made by the extractors that it was trained on."""
    made_by = feature_extractors(settings)
    trained_on = sentiment.processor.feature_extractors
    usable = set()
    for name in sentiment.model.config.modality_sizes:
        if name == "timing" or (name in made_by and made_by[name] == trained_on.get(name)):
            usable.add(name)
        else:
            source = f"features of {trained_on[name]!r}" if name in trained_on else "features of an unknown extractor"
            is_drawn = "they are drawn and not scored" if name in made_by else "it is scored without them"
            notes.append(f"{name}: the model was trained on {source}, which this clip does not have; {is_drawn}")
    return usable


def _utterance(row: Row, usable: set[str]) -> dict[str, Any] | None:
    """What the pipeline is given of a row; None where there is nothing for it."""
    features = {name: row.get(name) for name in usable if name != "timing"}
    if "timing" in usable:
        features["timing"] = timing_features(row)
    utterance = {"id": row["id"], "words": row["words"] or None, **features}
    has_any = any(value is not None for name, value in utterance.items() if name != "id")
    return utterance if has_any else None


def _words(row: Row) -> tuple[Word, ...]:
    return tuple(map(Word, row["words"], row["word_start"], row["word_end"]))


class _DrawnTracks:
    """Collects what is drawn of the tracks of a clip, with so few values a second that an hour of them is small."""

    def __init__(self, settings: ExtractionSettings):
        self._names = {"acoustic": VOICES[settings.voice].features, "visual": FACE_FEATURES}
        self._blocks: dict[str, list[Track]] = {}

    def add(self, modality: str, track: Track) -> None:
        """Takes a block of a track of a modality."""
        names = self._names[modality]
        for drawn, measured in DRAWN[modality].items():
            columns = [names.index(name) for name in measured if name in names]
            if columns and len(track.times):
                self._blocks.setdefault(drawn, []).append(_thinned(track.times, track.values[:, columns].mean(axis=1)))

    def tracks(self) -> dict[str, Track]:
        """The tracks by name, without those that are not defined anywhere."""
        tracks = {}
        for name, blocks in self._blocks.items():
            times, values = (np.concatenate([block[index] for block in blocks]) for index in (0, 1))
            if np.isfinite(values).any():
                tracks[name] = Track(times, LOWEST_PITCH * 2 ** (values / 12) if name == "pitch (Hz)" else values)
        return tracks


def _thinned(times: np.ndarray, values: np.ndarray) -> Track:
    """The median of the defined values in each tenth of a second, NaN where there is none."""
    medians = pd.Series(values).groupby(np.floor(times * VALUES_PER_SECOND + 1e-6)).median()
    return Track((medians.index.to_numpy() + 0.5) / VALUES_PER_SECOND, medians.to_numpy())


def write_segments(analysis: ClipAnalysis, modalities: Sequence[str], path: Path) -> None:
    """Writes a table of the segments, with a row for each; docs/reference.md describes its columns.

    Args:
        analysis: From [`analyse`].
        modalities: The modalities of the model, `text` included.
        path: A `.parquet`, `.jsonl` or `.csv` file.

    Raises:
        WriteError: The file could not be written.
    """
    task = analysis.task
    columns = _SEGMENT_COLUMNS | prediction_columns(modalities, task)
    for name in label_columns(task):  # the true label, which nobody knows
        del columns[name]
    columns |= {**share_columns(task), **uncertainty_columns(task), "num_cut": INTEGER}
    rows = (
        {"start": segment.start, "end": segment.end, "words": _spoken(segment), **result_columns(segment.result, task)}
        for segment in analysis.segments
    )
    write_table(({name: row.get(name) for name in columns} for row in rows), columns, path)


def segment_lines(segments: Sequence[Segment], task: Task = SENTIMENT) -> list[str]:
    """The segments as lines to print: when, what is predicted, also from each modality alone, and the words.

    One number has its interval beside it, and classes the set that they are in.
    """
    modalities = list(dict.fromkeys(name for segment in segments for name in segment.result["modalities"]))
    rows = [["start", "end", *_result_titles(task), *modalities, "words"]]
    for segment in segments:
        parts = [_part_text(segment.result["modalities"].get(name), task) for name in modalities]
        when = [f"{segment.start:.1f}", f"{segment.end:.1f}"]
        rows.append([*when, *_result_cells(segment.result, task), *parts, _spoken(segment)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0  # of the words, which stand where they begin
    return ["  ".join(map(str.rjust, row, widths)).rstrip() for row in rows]


def _result_titles(task: Task) -> list[str]:
    if not isinstance(task, NumberTask):
        return ["label", "set"]
    return [*task.names, "interval"] if task.is_one_number else list(task.names)


def _result_cells(result: Mapping[str, Any], task: Task) -> list[str]:
    if not isinstance(task, NumberTask):
        return [said(result, task), uncertainty_cells(result["uncertainty"] or {}, task).get("set", "")]
    cells = [scale.plain(score_of(result, scale.name, task), further=1) for scale in scales(task)]
    if task.is_one_number:
        interval = interval_of(result, task.names[0], task)
        cells.append("" if interval is None else " to ".join(map(scales(task)[0].plain, interval)))
    return cells


def _part_text(part: Mapping[str, Any] | None, task: Task) -> str:
    """What is predicted from a modality alone; of several numbers in their order."""
    if not has_prediction(part):
        return "-"
    if not isinstance(task, NumberTask):
        return said(part, task)
    return ", ".join(scale.plain(score_of(part, scale.name, task), further=1) for scale in scales(task))


def check_outputs(
    clip: Path, transcript: Path | None, out: Path | None, plot: Path | None, subtitles: Path | None
) -> None:
    """Refuses an output that would destroy something or has a wrong suffix, before anything is computed.

    Raises:
        ValueError: Names the output.
    """
    inputs = [path for path in (clip, transcript) if path is not None and path.exists()]
    for path, suffixes in ((out, (*WRITERS,)), (plot, (".png",)), (subtitles, (".srt",))):
        if path is None:
            continue
        if path.suffix not in suffixes:
            raise ValueError(
                f"{path}: the suffix {path.suffix!r} is not one of {', '.join(suffixes)}; rename the output"
            )
        if path.exists() and any(path.samefile(read) for read in inputs):
            raise ValueError(f"{path}: it is read, and an output would replace it; name another output")
    if out is not None and out.exists() and not _has_segments(out):
        raise ValueError(f"{out}: it has other rows than segments of a clip; remove it or name another output")


def _has_segments(path: Path) -> bool:
    """Whether a table is one of [`write_segments`]."""
    try:
        row = next(read_table(path, _SEGMENT_COLUMNS), {})
    except Exception:  # every library has its own errors for something else
        return False
    return row.keys() >= _SEGMENT_COLUMNS.keys()


def _spoken(segment: Segment) -> str:
    return " ".join(word.text for word in segment.words)


__all__ = ["ClipAnalysis", "Segment", "analyse", "check_outputs", "segment_lines", "write_segments"]
