"""CMU-MultimodalSDK computational sequences: a folder of `.csd` files with words, labels and feature sequences.

A `.csd` file is HDF5: `{root}/data/{video}/features` and `/intervals` (seconds), one row a word, a frame or an opinion
segment. Segments are the intervals of the labels. Without labels they are those of `segments.json` beside the files,
`{"video": [[start, end], ...]}` in seconds, and other videos are cut at their longest pauses. A sequence that the SDK
has aligned has segments, `{video}[{number}]`, in place of videos.

A word belongs to the segment that holds its midpoint (of several: the one it overlaps most, then the earlier), and its
row of a modality is the mean of that segment's frames weighted by their overlap with the word, or the nearest frame
where none overlaps. `sp` marks a pause and is not a word. Segments overlap in real data; a segment that lies within
another and would be left without words shares the other's.
"""

import functools
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alignment import align_frames, zero_non_finite
from ..files import HDF5_SIGNATURE, DataError, read_head
from ..folds import CMU_MOSI_FOLDS
from ..labels import LABEL_SIZES
from ..rows import SPLITS, Replaced, Row, Skipped, Source, as_text, split_name
from ..segments import assign_words, cut_at_pauses, frames_of_segment
from .contract import Head, ReadOptions, no_labels


FORMAT = "computational_sequence"
FEATURES_ARE_NORMALIZED = False
OPTIONS = ("feature_sequences", "folds")

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
    labels: _Sequence | None
    modalities: dict[str, _Sequence]
    known_segments: dict[str, list[tuple[float, float, str]]]
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
            beside the files are taken, else the standard folds of CMU-MOSI; where neither labels are wanted nor a
            video is in these, all videos are `train`.

    Raises:
        DataError: Words, or labels that are wanted, are not found, a modality is ambiguous, no video is in a fold, or
            a file is broken.
    """
    if not path.is_dir():
        raise DataError(f"{path}: not a folder; {_FOLDER_IS_NEEDED}")
    sequences = _open_files(path, options)
    words, labels, modalities = _assign(path, sequences, options)
    videos_of, unassigned = _split_videos(path, (labels or words).videos, options)
    wanted = {name: modalities[name] for name in options.wanted(modalities)}
    contents = _Folder(words, labels, wanted, _known_segments(path), frozenset(unassigned))
    next(iter(videos_of.values())).extend(unassigned)  # the first split reports the videos that belong to no split
    splits = {
        split: [videos[start : start + VIDEOS_PER_SHARD] for start in range(0, len(videos), VIDEOS_PER_SHARD)]
        for split, videos in videos_of.items()
    }
    sizes = {name: sequence.size for name, sequence in sorted(modalities.items())}
    # The same extractor's features of the other data set have another prefix.
    extractors = {name: re.sub("^CMU_MOSE?I_", "", sequence.root) for name, sequence in modalities.items()}
    count = functools.partial(_count_segments, contents, list(itertools.chain(*videos_of.values())))
    return Source(path, FORMAT, sizes, True, splits, functools.partial(_rows, contents), extractors, count)


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


def _open_files(folder: Path, options: ReadOptions) -> list[_Sequence]:
    """The sequences of a folder, without files that cannot be read and by their name hold what is not wanted."""
    sequences = []
    for file in _sequence_files(folder):
        try:
            sequences += _open_sequences(file)
        except DataError:
            unread = _Sequence(file, root="", is_text=False, size=0, videos=[])
            held = [name for name, extractors in _EXTRACTORS.items() if unread.matches(*extractors)]
            if not held or options.wanted(held) or options.feature_sequences:
                raise
    return sequences


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
    folder: Path, sequences: list[_Sequence], options: ReadOptions
) -> tuple[_Sequence, _Sequence | None, dict[str, _Sequence]]:
    """Words, labels and the modalities among the sequences of a folder."""
    named = options.feature_sequences or {}
    chosen = {name: _named_sequence(folder, sequences, name, wanted) for name, wanted in named.items()}
    candidates = [sequence for sequence in sequences if not sequence.matches(*_NOT_MODALITIES)]
    texts = [sequence for sequence in candidates if sequence.is_text]
    numbers = [sequence for sequence in candidates if not sequence.is_text]
    words = chosen.pop("words", None) or _only(folder, "words", texts)
    ratings = [
        sequence for sequence in numbers if sequence.size in LABEL_SIZES and sequence.matches("label", "opinion")
    ]
    labels = chosen.pop("labels", None) or (_only(folder, "labels", ratings) if ratings else None)
    if options.labels and labels is None:
        raise no_labels(folder, "sequence of labels")
    if named.keys() - {"words", "labels"}:
        return words, labels, chosen
    features = [sequence for sequence in numbers if sequence is not labels]
    for name, extractors in _EXTRACTORS.items():
        matching = [sequence for sequence in features if sequence.matches(*extractors)]
        if matching:
            chosen[name] = _only(folder, name, matching)
    unknown = [sequence.label for sequence in features if sequence not in chosen.values()]
    if unknown and (options.modalities is None or {*options.modalities} - {*chosen, "text", "timing"}):
        raise DataError(
            f"{folder}: cannot tell which modality {', '.join(unknown)} is; name the modalities to read without it "
            f"(--modalities {','.join(['text', *chosen])}), move it out of the folder, or {_naming('acoustic')}"
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
        f"{folder}: one sequence of {what} is needed and these look like it: {found}; keep one in the folder, or "
        f"{_naming(what)}"
    )


def _naming(what: str) -> str:
    return (
        f"name its file or root with --feature_sequences {what}=NAME of cpsl train "
        f'(in Python: feature_sequences={{"{what}": NAME}})'
    )


def _split_videos(folder: Path, videos: list[str], options: ReadOptions) -> tuple[dict[str, list[str]], list[str]]:
    """The videos of each split, and the videos that belong to no split."""
    folds, origin = options.folds, "folds="
    if folds is None:
        file = folder / _FOLDS_FILE
        folds, origin = (_read_json(file), file.name) if file.exists() else (CMU_MOSI_FOLDS, "standard CMU-MOSI folds")
    if not isinstance(folds, dict) or not all(
        isinstance(videos, list | tuple) and all(isinstance(video, str) for video in videos)
        for videos in folds.values()
    ):
        raise DataError(f"{folder}: {origin} must be {_FOLDS_EXAMPLE}")
    split_of = {video: split_name(split, folder) for split, videos in folds.items() for video in videos}
    split_of = {video: split_of.get(video) or split_of.get(_whole_video(video), "") for video in videos}
    unassigned = [video for video in videos if not split_of[video]]
    if unassigned == videos and not options.labels and folds is CMU_MOSI_FOLDS:
        return {SPLITS[0]: videos}, []
    if unassigned == videos:
        raise DataError(
            f"{folder}: none of its {len(videos)} videos (the first is {videos[0]}) is in a split of {origin}; "
            f"put a folds.json {_FOLDS_EXAMPLE} beside the .csd files (in Python: or give folds=)"
        )
    splits = {split: [video for video in videos if split_of[video] == split] for split in SPLITS}
    return {split: found for split, found in splits.items() if found}, unassigned


def _whole_video(video: str) -> str:
    """The video that an aligned segment `{video}[{number}]` was cut from."""
    return re.sub(r"\[\d+\]$", "", video)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable JSON ({error})") from None


def _known_segments(folder: Path) -> dict[str, list[tuple[float, float, str]]]:
    """The (start, end, id) of each video's segments, from `segments.json` where it lies beside the files.

    It is `{"video": [[start, end], ...]}`, or `{"segments": [...]}` with the id, video_id, start and end of each, for
    the rows of a `.csd` file do not carry ids, and their order is not always that of the release.
    """
    file = folder / _SEGMENTS_FILE
    if not file.exists():
        return {}
    content = _read_json(file)
    found: dict[str, list[tuple[float, float, str]]] = {}
    try:
        listed = content["segments"] if "segments" in content else _numbered(content)
        for segment in listed:
            times = float(segment["start"]), float(segment["end"])
            if not all(map(math.isfinite, times)):
                raise ValueError(f"{times} is not finite")
            found.setdefault(segment["video_id"], []).append((*times, str(segment["id"])))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f'{file}: needs {{"video": [[start, end], ...]}}, or segments with id, video_id, start and end ({error!r})'
        ) from None
    return found


def _numbered(segments: dict[str, list[list[float]]]) -> Iterator[dict[str, Any]]:
    for video, times in segments.items():
        for number, (start, end) in enumerate(times, 1):
            yield {"id": f"{video}_{number}", "video_id": video, "start": start, "end": end}


# Rows


def _count_segments(folder: _Folder, videos: list[str]) -> int:
    """How many segments videos have, of which those with words become rows."""
    if folder.labels is None:
        return sum(max(len(folder.known_segments.get(video, ())), 1) for video in videos)
    return sum(len(times) for _, times in _read_videos(folder.labels, videos).values())


def _rows(folder: _Folder, videos: list[str]) -> Iterator[Row | Skipped | Replaced]:
    words = {video: _spoken(*found) for video, found in _read_videos(folder.words, videos).items()}
    if folder.labels:
        labels = _read_videos(folder.labels, videos)
    else:
        segments = {video: _unlabelled_segments(folder, video, times) for video, (_, times) in words.items()}
        labels = {video: (np.full((len(times), 1), np.nan), times) for video, times in segments.items()}
    known = folder.known_segments
    ids = {video: _segment_ids(video, times, known.get(video, [])) for video, (_, times) in labels.items()}
    for video in sorted(folder.unassigned_videos.intersection(videos)):
        yield from (Skipped(name, "its video is not in any split of the folds", fault=False) for name in ids[video])
    videos = [video for video in videos if video not in folder.unassigned_videos]
    features = {}
    for name, sequence in folder.modalities.items():
        features[name] = _read_videos(sequence, videos)
        for video, (values, times) in features[name].items():
            values, replaced = zero_non_finite(values)
            features[name][video] = values, times
            yield Replaced(name, replaced)
    for video in videos:
        values, times = labels[video]
        frames = {name: found.get(video) for name, found in features.items()}
        yield from _video_rows(video, ids[video], times, values, words.get(video, ([], np.zeros((0, 2)))), frames)


def _unlabelled_segments(folder: _Folder, video: str, words: np.ndarray) -> np.ndarray:
    """Start and end of a video's segments, of shape (m, 2), where no labels tell them."""
    if _whole_video(video) != video:
        return np.array([[words[:, 0].min(), words[:, 1].max()]]) if len(words) else np.zeros((0, 2))
    known = folder.known_segments.get(video)
    return np.array([times for *times, _ in known]).reshape(-1, 2) if known else cut_at_pauses(words)


def _segment_ids(video: str, segments: np.ndarray, known: list[tuple[float, float, str]]) -> list[str]:
    """The id of each segment: its released one, found by its times, or else its number, counted from 1.

    A segment that the SDK has aligned is its own video, whose name is the id.
    """
    if _whole_video(video) != video and len(segments) == 1:
        return [video]
    times = np.array([times for *times, _ in known]).reshape(-1, 2)
    ids = []
    for number, segment in enumerate(segments, 1):
        same = np.flatnonzero((np.abs(times - segment) <= 0.01).all(axis=1))
        ids.append(known[same[0]][2] if len(same) == 1 else f"{video}_{number}")
    return ids


def _video_rows(
    video: str,
    ids: list[str],
    segments: np.ndarray,
    labels: np.ndarray,
    words: tuple[list[str], np.ndarray],
    frames: dict[str, tuple[np.ndarray, np.ndarray] | None],
) -> Iterator[Row | Skipped]:
    texts, times = words
    words_of = assign_words(times, segments)
    for index, (name, segment, positions) in enumerate(zip(ids, segments, words_of, strict=True)):
        if segment[1] <= segment[0]:
            yield Skipped(name, "zero duration", fault=False)
        elif not len(positions):
            yield Skipped(name, "no words", fault=False)
        else:
            row = {
                "id": name,
                "video_id": _whole_video(video),
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
