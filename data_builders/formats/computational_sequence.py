"""CMU-MultimodalSDK computational sequences: a folder of `.csd` files with words, labels and feature sequences.

A `.csd` file is HDF5: `{root}/data/{video}/features` and `/intervals` (seconds), one row a word, a frame or an opinion
segment. Segments are the intervals of the labels. A word belongs to the segment that holds its midpoint (of several:
the one it overlaps most, then the earlier), and its row of a modality is the mean of that segment's frames weighted by
their overlap with the word, or the nearest frame where none overlaps. `sp` marks a pause and is not a word. Segments
overlap in real data; a segment that lies within another and would be left without words shares the other's.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alignment import align_frames, zero_non_finite
from ..files import HDF5_SIGNATURE, DataError, read_head
from ..folds import CMU_MOSI_FOLDS
from ..rows import LABEL_SIZES, SPLITS, Replaced, Row, Skipped, Source, as_text, split_name
from .contract import Head, ReadOptions


FORMAT = "computational_sequence"
FEATURES_ARE_NORMALIZED = False

PAUSE = "sp"
VIDEOS_PER_SHARD = 16

_EXTRACTORS = {
    "acoustic": ("covarep", "opensmile", "acoustic", "audio"),
    "visual": ("facet", "openface", "visual", "vision"),
}
_FOLDER_IS_NEEDED = "give the folder with the .csd files of words and labels"
_FOLDS_FILE, _SEGMENTS_FILE = "folds.json", "segments.json"
_FOLDS_EXAMPLE = '{"train": [video ids], "validation": [...], "test": [...]}'
_NOT_MODALITIES = ("glove", "wordvector", "word2vec", "bert", "phone")


class _Sequence(NamedTuple):
    """One computational sequence: its place in a file, and the kind of its rows."""

    path: Path
    root: str
    is_text: bool
    size: int
    videos: list[str]

    @property
    def label(self) -> str:
        return f"{self.path.name} ({self.root})"

    def matches(self, *names: str) -> bool:
        text = f"{self.path.stem} {self.root}".lower().replace("_", "").replace(" ", "")
        return any(name in text for name in names)


class _Folder(NamedTuple):
    """What is needed to read videos; it is pickled for worker processes."""

    words: _Sequence
    labels: _Sequence
    modalities: dict[str, _Sequence]
    segment_ids: dict[str, list[tuple[float, float, str]]]
    unassigned_videos: frozenset[str]


def files(path: Path) -> list[Path]:
    """The computational sequences of a folder, and the JSON files beside them that say more about their segments."""
    sequences = _sequence_files(path) if path.is_dir() else []
    beside = [path / _FOLDS_FILE, path / _SEGMENTS_FILE] if sequences else []
    return [*sequences, *filter(Path.exists, beside)]


def recognizes(path: Path, head: Head) -> bool:
    """Whether a folder holds computational sequences.

    Raises:
        DataError: The path is a single HDF5 file.
    """
    if head.first_bytes.startswith(HDF5_SIGNATURE):
        raise DataError(f"{path}: a single HDF5 file; {_FOLDER_IS_NEEDED}")
    return bool(files(path))


def read(path: Path, options: ReadOptions) -> Source:
    """Opens a folder of `.csd` files.

    Args:
        path: The folder.
        options: In `feature_sequences`, `words` and `labels` may be named too. Without `folds`, those of `folds.json`
            beside the files are taken, else the standard folds of CMU-MOSI.

    Raises:
        DataError: Words or labels are not found, a modality is ambiguous, no video is in a fold, or a file is broken.
    """
    if not path.is_dir():
        raise DataError(f"{path}: not a folder; {_FOLDER_IS_NEEDED}")
    sequences = [sequence for file in _sequence_files(path) for sequence in _open_sequences(file)]
    words, labels, modalities = _assign(path, sequences, dict(options.feature_sequences or {}))
    videos_of, unassigned = _split_videos(path, labels, options.folds)
    contents = _Folder(words, labels, modalities, _known_segment_ids(path), frozenset(unassigned))
    next(iter(videos_of.values())).extend(unassigned)  # the first split reports the videos that belong to no split
    splits = {
        split: [videos[start : start + VIDEOS_PER_SHARD] for start in range(0, len(videos), VIDEOS_PER_SHARD)]
        for split, videos in videos_of.items()
    }
    sizes = {name: sequence.size for name, sequence in sorted(modalities.items())}
    # The same extractor's features of the other data set have another prefix.
    extractors = {name: re.sub("^CMU_MOSE?I_", "", sequence.root) for name, sequence in modalities.items()}
    return Source(path, FORMAT, sizes, True, splits, functools.partial(_rows, contents), extractors)


# The files. h5py is imported where a file is opened, so that recognising other formats does not import it.


def _sequence_files(folder: Path) -> list[Path]:
    """The computational sequences of a folder; beside one, an HDF5 file that cannot be read is taken for another."""
    known = {file: _is_sequence(file) for file in sorted(folder.iterdir()) if file.is_file()}
    return [file for file, is_one in known.items() if is_one is not False] if True in known.values() else []


def _is_sequence(path: Path) -> bool | None:
    """Whether a file is a computational sequence by its name or its layout; None for HDF5 that cannot be read."""
    if path.suffix == ".csd":
        return True
    try:
        if not read_head(path).startswith(HDF5_SIGNATURE):
            return False
    except DataError:
        return False
    from .hdf5 import has_groups_with

    try:
        return has_groups_with("data", path)
    except DataError:
        return None


def _open_sequences(path: Path) -> list[_Sequence]:
    from .hdf5 import child, open_hdf5

    sequences = []
    with open_hdf5(path) as file:
        for root in file:
            data = child(child(file, root, path), "data", path)
            videos = sorted(data)
            if not videos:
                continue
            features = child(child(data, videos[0], path), "features", path)
            is_text = features.dtype.kind in "SO"
            if features.ndim != 2 or not (is_text or features.dtype.kind in "fiu"):
                raise DataError(f"{path}: {features.name} is not a table of words or numbers")
            sequences.append(_Sequence(path, root, is_text, features.shape[1], videos))
    return sequences


def _read_videos(sequence: _Sequence, videos: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features and intervals of those of the videos that the sequence has."""
    from .hdf5 import child, open_hdf5, read_matrix

    path, found = sequence.path, {}
    with open_hdf5(path) as file:
        data = file[sequence.root]["data"]
        for video in videos:
            if video not in data:
                continue
            group = child(data, video, path)
            features, intervals = read_matrix(group, "features", path), read_matrix(group, "intervals", path)
            if intervals.shape != (len(features), 2) or not np.isfinite(intervals).all():
                raise DataError(
                    f"{path}: video {video}: intervals {intervals.shape} for {len(features)} rows, or not finite; "
                    "get the file again"
                )
            if features.shape[1] != sequence.size:
                raise DataError(
                    f"{path}: video {video}: rows of {features.shape[1]} values, and {sequence.videos[0]} has "
                    f"{sequence.size}; the file mixes two extractors, keep one"
                )
            found[video] = features, intervals.astype(np.float64)
    return found


# The role of each sequence, and the split of each video


def _assign(
    folder: Path, sequences: list[_Sequence], named: dict[str, str]
) -> tuple[_Sequence, _Sequence, dict[str, _Sequence]]:
    """Words, labels and the modalities among the sequences of a folder."""
    chosen = {name: _named_sequence(folder, sequences, name, wanted) for name, wanted in named.items()}
    candidates = [sequence for sequence in sequences if not sequence.matches(*_NOT_MODALITIES)]
    texts = [sequence for sequence in candidates if sequence.is_text]
    numbers = [sequence for sequence in candidates if not sequence.is_text]
    words = chosen.pop("words", None) or _only(folder, "words", texts)
    ratings = [
        sequence for sequence in numbers if sequence.size in LABEL_SIZES and sequence.matches("label", "opinion")
    ]
    labels = chosen.pop("labels", None) or _only(folder, "labels", ratings)
    if named.keys() - {"words", "labels"}:
        return words, labels, chosen
    features = [sequence for sequence in numbers if sequence is not labels]
    for name, extractors in _EXTRACTORS.items():
        matching = [sequence for sequence in features if sequence.matches(*extractors)]
        if matching:
            chosen[name] = _only(folder, name, matching)
    unknown = [sequence.label for sequence in features if sequence not in chosen.values()]
    if unknown:
        raise DataError(
            f"{folder}: cannot tell which modality {', '.join(unknown)} is; say so with "
            'feature_sequences={"acoustic": "file or root name", ...}; sequences that it does not name are left out'
        )
    return words, labels, chosen


def _named_sequence(folder: Path, sequences: list[_Sequence], modality: str, wanted: str) -> _Sequence:
    matching = [
        sequence for sequence in sequences if wanted in (sequence.root, sequence.path.name, sequence.path.stem)
    ]
    if len(matching) == 1:
        return matching[0]
    found = ", ".join(sequence.label for sequence in sequences)
    raise DataError(f"{folder}: feature_sequences names {wanted!r} for {modality}, which is not one of: {found}")


def _only(folder: Path, what: str, candidates: list[_Sequence]) -> _Sequence:
    if len(candidates) == 1:
        return candidates[0]
    found = ", ".join(sequence.label for sequence in candidates) or "none"
    raise DataError(
        f"{folder}: one sequence of {what} is needed and these look like it: {found}; "
        f'name it with feature_sequences={{"{what}": "file or root name"}}'
    )


def _split_videos(
    folder: Path, labels: _Sequence, folds: Mapping[str, Sequence[str]] | None
) -> tuple[dict[str, list[str]], list[str]]:
    """The videos of each split, and the videos that belong to no split."""
    origin = "folds="
    if folds is None:
        file = folder / _FOLDS_FILE
        folds, origin = (_read_json(file), file.name) if file.exists() else (CMU_MOSI_FOLDS, "standard CMU-MOSI folds")
    if not isinstance(folds, dict) or not all(
        isinstance(videos, list | tuple) and all(isinstance(video, str) for video in videos)
        for videos in folds.values()
    ):
        raise DataError(f"{folder}: {origin} must be {_FOLDS_EXAMPLE}")
    split_of = {video: split_name(split, folder) for split, videos in folds.items() for video in videos}
    unassigned = [video for video in labels.videos if video not in split_of]
    if len(unassigned) == len(labels.videos):
        raise DataError(
            f"{folder}: none of its {len(unassigned)} videos (the first is {unassigned[0]}) is in a split of "
            f"{origin}; put a folds.json {_FOLDS_EXAMPLE} beside the .csd files or give folds="
        )
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for video in labels.videos:
        if video in split_of:
            splits[split_of[video]].append(video)
    return {split: videos for split, videos in splits.items() if videos}, unassigned


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable JSON ({error})") from None


def _known_segment_ids(folder: Path) -> dict[str, list[tuple[float, float, str]]]:
    """The (start, end, released id) of each video's segments, from `segments.json` where it lies beside the files.

    The rows of a `.csd` file do not carry ids, and their order is not always that of the release.
    """
    file = folder / _SEGMENTS_FILE
    if not file.exists():
        return {}
    ids: dict[str, list[tuple[float, float, str]]] = {}
    try:
        for segment in _read_json(file)["segments"]:
            times = float(segment["start"]), float(segment["end"])
            ids.setdefault(segment["video_id"], []).append((*times, str(segment["id"])))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: needs segments with id, video_id, start and end ({error!r})") from None
    return ids


# Rows


def _rows(folder: _Folder, videos: list[str]) -> Iterator[Row | Skipped | Replaced]:
    labels = _read_videos(folder.labels, videos)
    ids = {
        video: _segment_ids(video, times, folder.segment_ids.get(video, [])) for video, (_, times) in labels.items()
    }
    for video in sorted(folder.unassigned_videos.intersection(videos)):
        yield from (Skipped(name, "its video is not in any split of the folds", fault=False) for name in ids[video])
    videos = [video for video in videos if video not in folder.unassigned_videos]
    words = _read_videos(folder.words, videos)
    features = {}
    for name, sequence in folder.modalities.items():
        features[name] = _read_videos(sequence, videos)
        for video, (values, times) in features[name].items():
            values, replaced = zero_non_finite(values)
            features[name][video] = values, times
            yield Replaced(name, replaced)
    for video in videos:
        values, segments = labels[video]
        frames = {name: found.get(video) for name, found in features.items()}
        yield from _video_rows(video, ids[video], segments, values, words.get(video), frames)


def _segment_ids(video: str, segments: np.ndarray, known: list[tuple[float, float, str]]) -> list[str]:
    """Each segment's released id, found by its times, or else its number among the label rows, counted from 1."""
    ids = []
    for number, segment in enumerate(segments, 1):
        same = [name for *times, name in known if np.allclose(times, segment, rtol=0, atol=0.01)]
        ids.append(same[0] if len(same) == 1 else f"{video}_{number}")
    return ids


def _video_rows(
    video: str,
    ids: list[str],
    segments: np.ndarray,
    labels: np.ndarray,
    words: tuple[np.ndarray, np.ndarray] | None,
    frames: dict[str, tuple[np.ndarray, np.ndarray] | None],
) -> Iterator[Row | Skipped]:
    texts, times = _spoken(*words) if words else ([], np.zeros((0, 2)))
    words_of = assign_words(times, segments)
    for index, (name, segment) in enumerate(zip(ids, segments, strict=True)):
        positions = words_of[index]
        if segment[1] <= segment[0]:
            yield Skipped(name, "zero duration", fault=False)
        elif not len(positions):
            yield Skipped(name, "no words", fault=False)
        else:
            row = {
                "id": name,
                "video_id": video,
                "words": [texts[position] for position in positions],
                "label": labels[index],
                "start": segment[0],
                "end": segment[1],
                "word_start": times[positions, 0].tolist(),
                "word_end": times[positions, 1].tolist(),
            }
            for modality, found in frames.items():
                inside = found and frames_of_segment(*found, segments, index)
                row[modality] = align_frames(*inside, times[positions]) if inside else None
            yield row


def _spoken(features: np.ndarray, times: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Words and their times in the order in which they are spoken, without pauses."""
    texts = [as_text(word).strip() for word in features[:, 0]]
    order = [index for index in np.argsort(times[:, 0], kind="stable") if texts[index] not in ("", PAUSE)]
    return [texts[index] for index in order], times[order]


def assign_words(words: np.ndarray, segments: np.ndarray) -> list[np.ndarray]:
    """The words of each segment.

    A word belongs to the segment that holds its midpoint; of several, to the one that it overlaps most, then to the
    one that starts earlier. A segment that lies within another and would be left without words shares those whose
    midpoint it holds.

    Args:
        words: Start and end of n words in seconds, of shape (n, 2).
        segments: Start and end of m segments in seconds, of shape (m, 2); they may overlap.

    Returns:
        m arrays of word indices, in the order of the words.
    """
    middles = words.mean(axis=1)
    by_start = np.argsort(segments[:, 0], kind="stable")
    starts, ends = segments[by_start].T
    # Only segments from `first` to `last` can hold a midpoint: those before end and those after start too early.
    first = np.searchsorted(np.maximum.accumulate(ends), middles, side="left")
    last = np.searchsorted(starts, middles, side="right")
    owner = np.full(len(words), -1)
    for index, (start, end) in enumerate(words):
        near = slice(first[index], last[index])
        shared = np.minimum(ends[near], end) - np.maximum(starts[near], start)
        shared[(ends[near] < middles[index]) | (ends[near] <= starts[near])] = -1
        if (shared >= 0).any():
            owner[index] = by_start[near][shared.argmax()]
    order = np.argsort(owner, kind="stable")
    borders = np.searchsorted(owner[order], np.arange(len(segments) + 1))
    owned = [order[start:end] for start, end in itertools.pairwise(borders)]
    for index, (start, end) in enumerate(segments):
        if not len(owned[index]) and end > start:
            owned[index] = np.flatnonzero((start <= middles) & (middles <= end))
    return owned


def frames_of_segment(
    features: np.ndarray, intervals: np.ndarray, segments: np.ndarray, index: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The frames within one segment, cut at its borders.

    A sequence that has one row a segment is taken row by row, because segments overlap and the row of a neighbour
    does not belong to this segment.

    Args:
        features: The frames of a video, of shape (n, size).
        intervals: Their start and end in seconds, of shape (n, 2).
        segments: Start and end of the video's segments in seconds, of shape (m, 2).
        index: Which segment is wanted.

    Returns:
        Features of shape (k, size) and intervals of shape (k, 2), or `None` where the segment has no frame.
    """
    if intervals.shape == segments.shape and np.allclose(intervals, segments, rtol=0, atol=1e-3):
        return features[[index]], segments[[index]]
    start, end = segments[index]
    inside = (intervals[:, 0] < end) & (intervals[:, 1] > start)
    inside |= (intervals[:, 0] == intervals[:, 1]) & (start <= intervals[:, 0]) & (intervals[:, 0] <= end)
    if not inside.any():
        return None
    return features[inside], np.clip(intervals[inside], start, end)
