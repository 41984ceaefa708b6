"""How well voices tell emotions apart: our descriptors against eGeMAPS, on acted voices.

`python benchmarks/bench_voice.py [--emodb DIR] [--quick] [--json OUT]`, with the extra `opensmile`. The folder has the
recordings of EmoDB (Burkhardt et al., 2005) and `labels.csv`: file, speaker, emotion. Without it, the voices are
generated ones that any descriptors tell apart.

Each recording is described by one row: the functionals of eGeMAPSv02, or the mean and deviation of our descriptors,
with and without what eGeMAPS, too, takes of pitch and loudness. The same linear support vector machine learns from all
speakers but one and is tried on that one, again and again. Columns are standardised on the speakers that it learns
from, or within each speaker. Its C is the best one when the speakers that it learns from are left out in turn.
"""

import argparse
import csv
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measuring import report
from sklearn.metrics import recall_score
from sklearn.svm import SVC

from data_builders.media.contract import SAMPLING_RATE
from data_builders.media.decoding import audio_chunks
from data_builders.media.voice import VOICE_FEATURES, VOICES


CHOICES_OF_C = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)


class Recordings(NamedTuple):
    """Voices as arrays of samples, with the speaker and the emotion of each."""

    voices: list[np.ndarray]
    speakers: np.ndarray
    emotions: np.ndarray


def read_emodb(folder: Path) -> Recordings:
    """The recordings that `labels.csv` lists."""
    rows = list(csv.DictReader((folder / "labels.csv").open(encoding="utf-8")))
    voices = [np.concatenate(list(audio_chunks(folder / row["file"]))) for row in rows]
    return Recordings(voices, *(np.array([row[name] for row in rows]) for name in ("speaker", "emotion")))


def generate() -> Recordings:
    """High and loud voices, and low and quiet ones, of three speakers."""
    generator = np.random.default_rng(0)
    clips = [(speaker, emotion) for speaker in ("a", "b", "c") for emotion in ("high", "low") for _ in range(3)]
    times = np.arange(SAMPLING_RATE) / SAMPLING_RATE
    voices = []
    for _, emotion in clips:
        pitch, level = (250, 0.2) if emotion == "high" else (120, 0.05)
        phase = 2 * np.pi * pitch * generator.uniform(0.9, 1.1) * times
        voice = level * sum(np.sin(phase * number) / number for number in range(1, 6))
        voices.append((voice + generator.normal(size=len(times)) * 0.003).astype(np.float32))
    return Recordings(voices, *(np.array(names) for names in zip(*clips, strict=True)))


def egemaps_functionals(voices: list[np.ndarray]) -> np.ndarray:
    """The 88 functionals of eGeMAPSv02, one row a voice."""
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return np.stack([smile.process_signal(voice, SAMPLING_RATE).to_numpy()[0] for voice in voices])


def our_functionals(voices: list[np.ndarray], *, percentiles: bool) -> np.ndarray:
    """Mean and deviation of each descriptor, one row a voice.

    Args:
        voices: The voices.
        percentiles: Whether the 20th, 50th and 80th percentile of pitch and loudness and the share of voiced sound are
            added.
    """
    chosen = [VOICE_FEATURES.index(name) for name in ("f0", "loudness")]
    rows = []
    for voice in voices:
        values = np.concatenate([block.values for block in VOICES["cpsl"].tracks([voice], SAMPLING_RATE)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # without a voice, pitch has no mean
            row = [np.nanmean(values, axis=0), np.nanstd(values, axis=0)]
            if percentiles:
                row += list(np.nanpercentile(values[:, chosen], (20, 50, 80), axis=0))
                row.append(1 - np.isnan(values[:, chosen[:1]]).mean(axis=0))
        rows.append(np.concatenate(row))
    return np.stack(rows)


def standardised(columns: np.ndarray, groups: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Columns of which each part has been standardised by the mean and deviation of another; 0 where undefined."""
    result = np.zeros_like(columns)
    for part, by in groups:
        mean, deviation = np.nanmean(columns[by], axis=0), np.nanstd(columns[by], axis=0)
        result[part] = (columns[part] - mean) / np.where(deviation > 0, deviation, 1)
    return np.nan_to_num(result)


def predict(columns: np.ndarray, data: Recordings, c: float, learnt: np.ndarray, within: bool) -> np.ndarray:
    """The emotions of the recordings that are not learnt from."""
    if within:
        groups = [(data.speakers == speaker,) * 2 for speaker in np.unique(data.speakers)]
    else:
        groups = [(np.full(len(learnt), True), learnt)]
    scaled = standardised(columns, groups)
    machine = SVC(kernel="linear", C=c, class_weight="balanced").fit(scaled[learnt], data.emotions[learnt])
    return machine.predict(scaled[~learnt])


def leave_speakers_out(columns: np.ndarray, data: Recordings, c: float | None, within: bool) -> float:
    """The unweighted average recall over speakers that are left out one by one; with None, C is chosen as well."""
    predictions = np.empty_like(data.emotions)
    for speaker in np.unique(data.speakers):
        learnt = data.speakers != speaker
        rest = Recordings([], data.speakers[learnt], data.emotions[learnt])
        chosen = c or max(CHOICES_OF_C, key=lambda value: leave_speakers_out(columns[learnt], rest, value, within))
        predictions[~learnt] = predict(columns, data, chosen, learnt, within)
    return recall_score(data.emotions, predictions, average="macro")


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--emodb", type=Path, help="the folder of EmoDB; without it, voices are generated")
    parser.add_argument("--quick", action="store_true", help="generated voices, to see whether it runs")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    data = generate() if options.quick or options.emodb is None else read_emodb(options.emodb)
    variants: dict[str, Callable[[list[np.ndarray]], np.ndarray]] = {
        "eGeMAPS": egemaps_functionals,
        "ours, mean and deviation": lambda voices: our_functionals(voices, percentiles=False),
        "ours, with percentiles": lambda voices: our_functionals(voices, percentiles=True),
    }
    seconds = sum(map(len, data.voices)) / SAMPLING_RATE
    rows = {}
    for name, describe in variants.items():
        describe(data.voices[:1])  # warms up
        started = time.process_time()
        columns = describe(data.voices)
        rows[name] = {
            "columns": columns.shape[1],
            "times_real_time": seconds / (time.process_time() - started),
            "uar_training_speakers": leave_speakers_out(columns, data, None, within=False),
            "uar_within_speaker": leave_speakers_out(columns, data, None, within=True),
            "best_c_training_speakers": max(leave_speakers_out(columns, data, c, False) for c in CHOICES_OF_C),
            "best_c_within_speaker": max(leave_speakers_out(columns, data, c, True) for c in CHOICES_OF_C),
        }
    ours, theirs = rows["ours, with percentiles"], rows["eGeMAPS"]
    results = {
        f"{scaling}_over_egemaps": ours[f"uar_{scaling}"] / theirs[f"uar_{scaling}"]
        for scaling in ("training_speakers", "within_speaker")
    }
    report("Emotions of voices", rows, {"recordings": len(data.voices), "seconds": seconds, **results}, options.json)


if __name__ == "__main__":
    main()
