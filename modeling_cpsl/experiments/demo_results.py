"""What the demo page shows of a prediction: HTML in which every colour also stands as a sign or a number."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..task_cpsl import SENTIMENT_CLASSES, SENTIMENT_RANGE
from .clip_prediction import ClipAnalysis, Segment
from .plots import sentiment_color, signed
from .subtitles import subrip, web_vtt
from .timeline import draw_timeline


MODALITY_NAMES = {"text": "Words", "acoustic": "Voice", "visual": "Face", "timing": "Timing"}
STRONGEST = 0.5  # opacity of a background, on which both dark and light text can be read
SMALLEST_SCALE = 0.25  # of a share, so that a sentence without strong words has no strong colours


def result_html(result: Mapping[str, Any], words: Sequence[str]) -> str:
    """A prediction of the pipeline as a block of the page.

    Args:
        result: What the pipeline says with `explain="words"`.
        words: The words of the utterance; none where they are missing.
    """
    parts = [score_html(result)]
    if shares := result.get("word_shares"):
        parts.append(words_html(words, shares))
    parts.append(modalities_html(result["modalities"]))
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
    player = "" if video_address is None else _player_html(analysis.segments, video_address)
    subtitles = _data_address("application/x-subrip", subrip(analysis.segments).encode())
    download = f'<p><a download="subtitles.srt" href="{subtitles}">Subtitles with the scores (.srt)</a></p>'
    segments = "".join(_segment_html(segment) for segment in analysis.segments)
    return f"{notes}{player}{timeline_html(analysis)}{download}{segments}"


def timeline_html(analysis: ClipAnalysis) -> str:
    """The picture of the clip's time; who does not see it has the same in the blocks of the segments."""
    picture = io.BytesIO()
    draw_timeline(analysis).savefig(picture, format="png")
    address = _data_address("image/png", picture.getvalue())
    said = "Over the time of the clip: its words, its score and what was measured of voice and face"
    return f'<div class="cpsl-timeline"><img src="{address}" alt="{said}"></div>'


def score_html(result: Mapping[str, Any]) -> str:
    """The score as a number and a name, and its place and interval on the scale of sentiment."""
    score, uncertainty = result["score"], result["uncertainty"] or {}
    interval = uncertainty.get("interval")
    if interval is None:
        said = "No interval: the model was not calibrated on utterances with these modalities."
    else:
        low, high = interval
        share = 100 * uncertainty["coverage"]
        said = f"{share:.0f} % interval: {signed(low)} to {signed(high)}"
    return (
        f'<div class="cpsl-score"><span class="cpsl-number">{signed(score)}</span> '
        f'<span class="cpsl-label">{escape(result["label"])}</span></div>'
        f'{_scale_html(score, interval)}{_ends_html()}<p class="cpsl-note">{said}</p>'
    )


def words_html(words: Sequence[str], shares: Sequence[float | None]) -> str:
    """The words, each with its share of the score as a colour and as a signed number, where it has one."""
    scale = max([SMALLEST_SCALE, *(abs(share) for share in shares if share is not None)])
    marked = "".join(
        f'<span class="cpsl-word" style="background: {_colour(share or 0, scale)}">{escape(word)}'
        f"<small>{'–' if share is None else signed(share)}</small></span>"
        for word, share in zip(words, shares, strict=True)
    )
    return (
        f'<h3>What each word adds</h3><p class="cpsl-words">{marked}</p>'
        '<p class="cpsl-note">The score with all words, less the score without this one. '
        f"{_legend_html('raises the score', 'lowers it')}</p>"
    )


def modalities_html(modalities: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The score from each modality alone, and by how much the score changes through it."""
    rows = "".join(_modality_html(name, part) for name, part in modalities.items())
    return f'<h3>What each modality says by itself</h3><dl class="cpsl-modalities">{rows}</dl>'


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


def _player_html(segments: Sequence[Segment], address: str) -> str:
    """The clip with its subtitles; before it is played it shows a picture from near its beginning."""
    captions = _data_address("text/vtt", web_vtt(segments).encode())
    return (
        f'<video class="cpsl-player" controls playsinline src="{escape(address)}#t=0.1">'
        f'<track kind="captions" label="Words and scores" src="{captions}" default></video>'
    )


def _data_address(kind: str, content: bytes) -> str:
    """An address that holds the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _segment_html(segment: Segment) -> str:
    words = [word.text for word in segment.words]
    when = f"{clock(segment.start)} to {clock(segment.end)}"
    return f'<section class="cpsl-segment"><h2>{when}</h2>{result_html(segment.result, words)}</section>'


def _modality_html(name: str, part: Mapping[str, Any] | None) -> str:
    shown = f"<dt>{escape(MODALITY_NAMES.get(name, name))}</dt>"
    if part is None:
        return f'{shown}<dd class="cpsl-missing cpsl-note">not given</dd>'
    delta = part.get("delta")
    changes = "" if delta is None else f"changes the score by {signed(delta)}"
    return (
        f"{shown}<dd>{_scale_html(part['score'])}</dd><dd>{signed(part['score'])}</dd>"
        f'<dd class="cpsl-note cpsl-changes">{changes}</dd>'
    )


def _scale_html(score: float, interval: Iterable[float] | None = None) -> str:
    low, high = SENTIMENT_RANGE
    said = f"{signed(score)} on a scale from {low:g} to {high:g}"
    band = ""
    if interval is not None:
        start, end = map(_percent, interval)
        band = f'<i class="cpsl-band" style="left: {start:.1f}%; width: {end - start:.1f}%"></i>'
    dot = f'<b style="left: {_percent(score):.1f}%; background: {sentiment_color(score)}"></b>'
    return f'<div class="cpsl-scale" role="img" aria-label="{said}"><i class="cpsl-zero"></i>{band}{dot}</div>'


def _ends_html() -> str:
    """What the ends of the scale and its middle mean."""
    low, high = SENTIMENT_RANGE
    places = ((f"−{-low:g}", 0), ("0", len(SENTIMENT_CLASSES) // 2), (f"+{high:g}", -1))
    ends = "".join(f"<span>{value} {SENTIMENT_CLASSES[index]}</span>" for value, index in places)
    return f'<div class="cpsl-ends" aria-hidden="true">{ends}</div>'


def _percent(score: float) -> float:
    low, high = SENTIMENT_RANGE
    return 100 * (score - low) / (high - low)


def _colour(share: float, scale: float) -> str:
    """The colour of a share in CSS's form #rrggbbaa, as strong as it is large."""
    opacity = STRONGEST * min(abs(share) / scale, 1)
    return f"{sentiment_color(share).lower()}{round(255 * opacity):02x}"


def _legend_html(positive: str, negative: str) -> str:
    samples = ((1, "+", positive), (-1, "−", negative))
    return " ".join(
        f'<span class="cpsl-word cpsl-legend" style="background: {_colour(share, 1)}">{sign}</span> {meaning}'
        for share, sign, meaning in samples
    )
