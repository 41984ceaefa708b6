"""Sentiment over the time of a clip: a video or audio file, a segment at a time."""

from pathlib import Path
from typing import Any, NamedTuple

from data_builders.media.contract import ExtractionSettings, Track, Word

from ..pipeline_cpsl import MultimodalSentimentPipeline


class Segment(NamedTuple):
    """An utterance of a clip and what the model says of it.

    Attributes:
        start: Its beginning, in seconds of the clip.
        end: Its end.
        words: Its words with their times; none where the text is missing.
        result: As the pipeline gives it with `explain="words"`: `score`, `label`, `modalities`, `uncertainty`,
            `word_shares` (a share for each of the words, None where there is none) ...
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
    """

    segments: list[Segment]
    tracks: dict[str, Track]
    notes: list[str]


def analyse(
    sentiment: MultimodalSentimentPipeline,
    clip: Path,
    settings: ExtractionSettings,
    *,
    transcript: Path | None = None,
    batch_size: int = 32,
) -> ClipAnalysis:
    """Predicts the sentiment of each segment of a clip, with each word's share in it.

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
    raise NotImplementedError
