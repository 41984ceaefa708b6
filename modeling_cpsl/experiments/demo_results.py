"""What the demo page shows of a prediction: HTML in which every colour also stands as a sign or a number."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT
from .clip_prediction import ClipAnalysis, Segment
from .demo_scores import change_text, part_html, score_html, what_words_do
from .label_texts import Change, shown_change
from .plots import sentiment_color
from .subtitles import subrip, web_vtt
from .timeline import draw_timeline


MODALITY_NAMES = {"text": "Words", "acoustic": "Voice", "visual": "Face", "timing": "Timing"}
STRONGEST = 0.5  # opacity of a background, on which both dark and light text can be read
# The least change, as a share of the width of a scale, that has a strong colour: a quarter of a point of sentiment. A
# sentence without strong words has no strong colours.
SMALLEST_STRONG = 1 / 24


def result_html(result: Mapping[str, Any], words: Sequence[str], task: Task = SENTIMENT) -> str:
    """A prediction of the pipeline as a block of the page.

    Args:
        result: What the pipeline says with `explain="words"`.
        words: The words of the utterance; none where they are missing.
        task: What labels are.
    """
    parts = [score_html(result, task)]
    if result.get("word_shares"):
        parts.append(words_html(words, result, task))
    parts.append(modalities_html(result, task))
    if result["num_cut"]:
        parts.append(f'<p class="cpsl-note">The last {result["num_cut"]} tokens were not read: it is too long.</p>')
    return "\n".join(parts)


def analysis_html(analysis: ClipAnalysis, video_address: str | None = None) -> str:
    """What is known of a clip: the clip with subtitles, the picture of its time, and each segment by itself.

    Args:
        analysis: From [`analyse`].
        video_address: Where the browser finds the clip; None for one without pictures.
    """
    notes = "".join(f'<p class="cpsl-note">{escape(note)}</p>' for note in analysis.notes)
    player = "" if video_address is None else _player_html(analysis, video_address)
    subtitles = _data_address("application/x-subrip", subrip(analysis.segments, analysis.task).encode())
    download = f'<p><a download="subtitles.srt" href="{subtitles}">Subtitles with the predictions (.srt)</a></p>'
    segments = "".join(_segment_html(segment, analysis.task) for segment in analysis.segments)
    return f"{notes}{player}{timeline_html(analysis)}{download}{segments}"


def timeline_html(analysis: ClipAnalysis) -> str:
    """The picture of the clip's time; who does not see it has the same in the blocks of the segments."""
    picture = io.BytesIO()
    draw_timeline(analysis).savefig(picture, format="png")
    address = _data_address("image/png", picture.getvalue())
    said = "Over the time of the clip: its words, what is predicted, and what was measured of voice and face"
    return f'<div class="cpsl-timeline"><img src="{address}" alt="{said}"></div>'


def words_html(words: Sequence[str], result: Mapping[str, Any], task: Task) -> str:
    """The words, each with what it changes as a colour and as a signed number, where there is that."""
    changes = [shown_change(share, task) for share in result["word_shares"]]
    scale = max([SMALLEST_STRONG, *(abs(change.share) for change in changes if change is not None)])
    marked = "".join(_word_html(word, change, scale) for word, change in zip(words, changes, strict=True))
    meaning, what = what_words_do(task, result.get("label"))
    legend = _legend_html(f"raises {what}", "lowers it")
    return (
        f'<h3>What each word adds</h3><p class="cpsl-words">{marked}</p>'
        f'<p class="cpsl-note">{escape(meaning)} {legend}</p>'
    )


def modalities_html(result: Mapping[str, Any], task: Task) -> str:
    """What is predicted from each modality alone, and by how much the prediction changes through it."""
    named = result["modalities"].items()
    rows = "".join(_modality_html(name, part, task, result.get("label")) for name, part in named)
    return f'<h3>What each modality says by itself</h3><dl class="cpsl-rows">{rows}</dl>'


def message_html(message: str) -> str:
    """What went wrong, as one line that screen readers say at once."""
    return f'<p class="cpsl-error" role="alert">{escape(message)}</p>'


def clock(seconds: float) -> str:
    """A time as a player shows it.

    >>> clock(75.25)
    '1:15.2'
    """
    tenths = int(10 * seconds)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


def _player_html(analysis: ClipAnalysis, address: str) -> str:
    """The clip with its subtitles; before it is played it shows a picture from near its beginning."""
    captions = _data_address("text/vtt", web_vtt(analysis.segments, analysis.task).encode())
    return (
        f'<video class="cpsl-player" controls playsinline src="{escape(address)}#t=0.1">'
        f'<track kind="captions" label="Words and predictions" src="{captions}" default></video>'
    )


def _data_address(kind: str, content: bytes) -> str:
    """An address that holds the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _segment_html(segment: Segment, task: Task) -> str:
    words = [word.text for word in segment.words]
    when = f"{clock(segment.start)} to {clock(segment.end)}"
    return f'<section class="cpsl-segment"><h2>{when}</h2>{result_html(segment.result, words, task)}</section>'


def _word_html(word: str, change: Change | None, scale: float) -> str:
    share, text = (0.0, "–") if change is None else (change.share, change.text)
    return (
        f'<span class="cpsl-word" style="background: {_colour(share, scale)}">{escape(word)}'
        f"<small>{escape(text)}</small></span>"
    )


def _modality_html(name: str, part: Mapping[str, Any] | None, task: Task, label: Any) -> str:
    shown = f"<dt>{escape(MODALITY_NAMES.get(name, name))}</dt>"
    if part is None:
        return f'{shown}<dd class="cpsl-missing cpsl-note">not given</dd>'
    changes = escape(change_text(part.get("delta"), task, label))
    return f'{shown}{part_html(part, task)}<dd class="cpsl-note cpsl-last">{changes}</dd>'


def _colour(share: float, scale: float) -> str:
    """The colour of a share in CSS's form #rrggbbaa, as strong as it is large."""
    opacity = STRONGEST * min(abs(share) / scale, 1)
    return f"{sentiment_color(share).lower()}{round(255 * opacity):02x}"


def _legend_html(positive: str, negative: str) -> str:
    samples = ((1, "+", positive), (-1, "−", negative))
    return " ".join(
        f'<span class="cpsl-word cpsl-legend" style="background: {_colour(share, 1)}">{sign}</span> {escape(meaning)}'
        for share, sign, meaning in samples
    )
