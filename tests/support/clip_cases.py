"""Predictions for the segments of a clip, made of random logits, for labels of each kind."""

import numpy as np
import torch

from data_builders.media.contract import Track, Word
from modeling_cpsl.class_task_cpsl import ClassTask, LabelSetTask
from modeling_cpsl.experiments.clip_prediction import ClipAnalysis, Segment
from modeling_cpsl.number_task_cpsl import UNBOUNDED, NumberTask


TASKS = {
    "rating": NumberTask(("valence",), ranges=((1.0, 5.0),)),
    "sims": NumberTask(("sentiment",), ranges=((-1.0, 1.0),)),
    "numbers": NumberTask(
        ("sentiment", "joy", "fear", "load"), ranges=((-3.0, 3.0), (0.0, 3.0), (0.0, 3.0), UNBOUNDED)
    ),
    "class": ClassTask(("calm", "happy", "pays $5 or $6", "<sad>")),
    "many": ClassTask(tuple(f"class {place}" for place in range(28))),
    "classes": LabelSetTask(("happy", "<sad>", "pays $5 or $6")),
}
QUANTILES = {ClassTask: lambda count: np.array(0.8), LabelSetTask: lambda count: np.full(count, 0.6)}
SPANS = ((0.0, 4.0), (5.0, 9.0))


def result_of(task, seed=0, *, words=2, calibrated=True):
    """A result of the pipeline, with shares of so many words; nothing is said from the pictures alone."""
    rng = np.random.default_rng(seed)
    shape = () if task.is_one_number else (len(task.names),)
    logits = {name: torch.from_numpy(rng.normal(scale=2, size=(1, *shape))) for name in ("all", "text", "acoustic")}
    ((result,), (scores,)) = task.results(logits["all"]), task.scores(logits["all"]).double().numpy()
    changed = [np.array(scores + rng.normal(scale=0.1, size=shape)) for _ in range(words + 2)]
    result["word_shares"] = [task.change(np.array(scores), other) for other in changed[2:]]
    result["modalities"] = {"visual": None} | {
        name: task.results(logits[name], in_words=False)[0] | {"delta": task.change(np.array(scores), other)}
        for name, other in zip(("text", "acoustic"), changed, strict=False)
    }
    count = len(task.names)
    quantiles = QUANTILES.get(type(task), lambda count: np.array(0.8) if count == 1 else np.full(count, 0.8))(count)
    region = task.region(scores, quantiles) | {"coverage": 0.9} if calibrated else None
    return result | {"uncertainty": region, "num_cut": 0}


def analysis_of(task, **options):
    """A clip of two segments with two words each, and a track."""
    segments = []
    for seed, (start, end) in enumerate(SPANS):
        spoken = (Word("good", start, start + 0.5), Word("grief", start + 1.5, start + 2.0))
        segments.append(Segment(start, end, spoken, result_of(task, seed, **options)))
    times = np.arange(0.05, 9, 0.1)
    return ClipAnalysis(segments, {"pitch (Hz)": Track(times, 100 + times)}, [], task)
