"""The embedded sample corpus: a synthetic stand-in for CMU-MOSI, so that everything runs without any data.

Nobody was recorded for it. `sample_splits` invents speakers who talk about films and products. An utterance has:

1. **Carriers**: what tells the sentiment, drawn with the shares in `_CARRIERS`. Words, voice and face may agree, or
   some of them may be neutral. In sarcasm the words are praise that voice and face contradict, and voice and face are
   right.
2. **Words** from a small grammar. An opinion has a polarity, which comes from adjectives and verbs, intensifiers
   ("absolutely"), diminishers ("slightly"), negation ("not very good") and at times a second clause after "but". A
   remark ("we bought the phone on friday with a friend") has none. Some of the words are stressed.
3. **Voice**: stressed words are louder, and mostly on them positive valence raises pitch and spectral slope, negative
   valence creak and breathiness. Arousal disturbs this: it raises pitch and loudness whatever the sentiment is.
4. **Face**: from some word on an expression builds up and stays, smile and cheeks against lowered brows and lip
   corners. Politeness and talking disturb this: they move the mouth whatever the sentiment is.
5. **Noise** that is correlated over columns and words, and an offset of the speaker, in every column.
6. **A label**: the mean of five imagined annotators who round their impressions to integers in the range of labels, so
   a multiple of 0.2, as in MOSI.

The figures of a model on this corpus say that the code works. They say nothing about people.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ..labels import LABEL_RANGE
from ..rows import Row, Source
from .contract import Head, ReadOptions


FORMAT = "sample"
FEATURES_ARE_NORMALIZED = True  # they are made with about zero mean and unit variance

_Option = TypeVar("_Option")
_Graded = dict[float, tuple[str, ...]]  # words by their polarity, or by the factor that they put on one

_NUM_SPEAKERS = 40
_SPLIT_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
# Carriers of the sentiment: share of the utterances.
_CARRIERS = {
    "words voice face": 0.21,
    "words voice": 0.13,
    "words face": 0.13,
    "words": 0.25,
    "voice": 0.09,
    "face": 0.09,
    "sarcasm voice face": 0.06,
    "": 0.04,
}
_MAX_WORDS = 14
_NUM_ANNOTATORS = 5

# In the phrases a star marks a stressed word and a comma a pause.
_WHOLES = {"film": ("the film", "this movie", "the sequel"), "product": ("the phone", "this camera", "the laptop")}
_PARTS = {
    "film": ("the plot", "the acting", "the ending", "the soundtrack", "the dialogue"),
    "product": ("the battery", "the screen", "the keyboard", "the sound", "the design"),
}
_THINGS = {"film": ("film", "movie", "story", "comedy"), "product": ("phone", "product", "device", "gadget")}
_ACTIONS = {"film": ("watched", "saw", "rented"), "product": ("bought", "tried", "ordered")}
_FACTS = {
    "film": (
        "is *about *paris",
        "is *two *hours long",
        "came *out in *june",
        "starts in the *far *future",
        "has *subtitles",
    ),
    "product": (
        "*came with a *charger",
        "was *made in *japan",
        "*fits in a *pocket",
        "is for *travel",
        "has *bluetooth",
    ),
}
_WHEN = ("on *monday", "on *friday", "last *weekend", "*yesterday", "two weeks *ago", "this *morning", "in *april")
_WITH = ("with my *brother", "with my *sister", "with a *friend", "at *home", "at the *office", "with the *kids")
_OPENERS = ("", "", "", "", "", "", "well,", "honestly,", "i mean,", "you know,", "okay so,", "um,")
_TAILS = ("", "", "", "", "", "", "", "", ", actually", ", i guess", ", anyway", ", by the way")

# Polarity: words.
_GRADABLE_ADJECTIVES: _Graded = {
    1.6: ("good", "impressive", "enjoyable", "satisfying"),
    1.1: ("nice", "pleasant", "solid", "decent"),
    -1.1: ("weak", "slow", "clumsy", "cheap"),
    -1.6: ("bad", "poor", "annoying", "disappointing"),
}
_EXTREME_ADJECTIVES: _Graded = {
    2.4: ("brilliant", "wonderful", "fantastic", "amazing", "superb", "perfect"),
    -2.4: ("terrible", "awful", "horrible", "dreadful", "pathetic", "unbearable"),
}
_VERBS: _Graded = {
    2.4: ("loved", "adored"),
    1.6: ("liked", "enjoyed"),
    -1.6: ("disliked", "regretted"),
    -2.4: ("hated", "despised"),
}
_NEGATED_VERBS: _Graded = {-1.5: ("love", "like", "enjoy", "recommend"), 1.0: ("mind", "regret", "hate", "dislike")}
# Factor on the polarity of the adjective that follows: words.
_GRADABLE_DEGREES: _Graded = {
    0.5: ("slightly", "somewhat"),
    1.3: ("really", "particularly"),
    1.5: ("very", "extremely"),
}
_EXTREME_DEGREES: _Graded = {1.2: ("absolutely", "truly", "simply")}
_NEGATIONS: _Graded = {-0.8: ("not",), -0.6: ("not *very", "not *really")}

# Column: shift in standard deviations at valence 1. Pitch and energy stand where COVAREP has f0 and the first MCEP.
_PITCH, _ENERGY, _ACOUSTIC_SIZE = 0, 11, 74
_VOICE_PATTERN = {_PITCH: 3.5, 2: -2.0, 4: -2.5, 7: 2.5, 10: -3.0, 12: 2.0, 13: -2.0, 15: 2.0}
_SMILE, _LIPS_PART, _VISUAL_SIZE = 14, 22, 47
_FACE_PATTERN = {_SMILE: 3.2, 9: 2.8, 5: -2.8, 3: 1.8, 17: -2.8, 30: -1.8, 31: 1.8}
_NUM_FACTORS = 8


def files(path: Path) -> list[Path]:
    """The file that generates the corpus."""
    return [Path(__file__)]


def recognizes(path: Path, head: Head) -> bool:
    """Never: the corpus is in no file, and only its name asks for it."""
    return False


def read(path: Path, options: ReadOptions) -> Source:
    """The corpus of `sample_splits` with its default size and seed, whatever the path is."""
    sizes = {"acoustic": _ACOUSTIC_SIZE, "visual": _VISUAL_SIZE}
    # It is in no file that a message could name.
    return Source(Path("the sample corpus"), FORMAT, sizes, True, sample_splits(), _rows)


def _rows(row: Row) -> Iterator[Row]:
    yield row


class _Phrase(NamedTuple):
    text: str
    polarity: float = 0.0


class _Speaker(NamedTuple):
    name: str
    acoustic_offset: np.ndarray
    visual_offset: np.ndarray
    seconds_per_letter: float


def sample_splits(num_utterances: int = 1200, seed: int = 0) -> dict[str, list[Row]]:
    """Generates the sample corpus.

    Args:
        num_utterances: Utterances over all splits, at least 10. They are spread over 40 speakers, or over as many
            speakers as there are utterances; 70 % of the speakers are in train, 10 % in validation, 20 % in test, and
            none is in two splits.
        seed: The same seed gives the same corpus.

    Returns:
        The rows of train / validation / test: `id` (as `speaker07_012`), `video_id` (the speaker), `words` (4 to 14),
        `acoustic` (n, 74) and `visual` (n, 47) float32 with one row a word, `label`, and, in seconds from
        the beginning of the speaker's video, `start`, `end` and the float32 arrays `word_start` and `word_end` (n,).

    Raises:
        ValueError: There are too few utterances for a speaker in every split.
    """
    if num_utterances < 10:
        raise ValueError(f"num_utterances is {num_utterances}, but a speaker in every split takes at least 10")
    num_speakers = min(_NUM_SPEAKERS, num_utterances)
    rng = np.random.default_rng(seed)
    loadings = {"acoustic": _loadings(rng, _ACOUSTIC_SIZE), "visual": _loadings(rng, _VISUAL_SIZE)}
    rows_by_speaker = []
    for number in range(num_speakers):
        speaker = _Speaker(
            name=f"speaker{number:02d}",
            acoustic_offset=rng.normal(scale=0.5, size=_ACOUSTIC_SIZE),
            visual_offset=rng.normal(scale=0.5, size=_VISUAL_SIZE),
            seconds_per_letter=rng.uniform(0.05, 0.075),
        )
        count = len(range(number, num_utterances, num_speakers))
        rows_by_speaker.append(_speaker_rows(rng, speaker, count, loadings))
    borders = np.rint(np.cumsum([0.0, *_SPLIT_SHARES.values()]) * num_speakers).astype(int)
    return {
        split: [row for rows in rows_by_speaker[first:last] for row in rows]
        for split, first, last in zip(_SPLIT_SHARES, borders[:-1], borders[1:], strict=True)
    }


def _speaker_rows(
    rng: np.random.Generator, speaker: _Speaker, count: int, loadings: dict[str, np.ndarray]
) -> list[Row]:
    rows, clock = [], 0.0
    for number in range(count):
        text, sentiment, voice, face = _utterance(rng)
        tokens = text.split()
        stressed = np.array([token.startswith("*") for token in tokens])
        acoustic = _acoustic_rows(rng, stressed, voice, loadings["acoustic"]) + speaker.acoustic_offset
        visual = _visual_rows(rng, len(tokens), face, loadings["visual"]) + speaker.visual_offset
        word_start, word_end = _word_times(rng, tokens, clock + rng.uniform(0.5, 2.0), speaker.seconds_per_letter)
        clock = word_end[-1] + 0.1
        rows.append(
            {
                "id": f"{speaker.name}_{number:03d}",
                "video_id": speaker.name,
                "words": [token.strip("*,") for token in tokens],
                "acoustic": acoustic.astype(np.float32),
                "visual": visual.astype(np.float32),
                "label": _annotate(rng, sentiment),
                "start": word_start[0] - 0.1,
                "end": clock,
                "word_start": np.array(word_start, np.float32),
                "word_end": np.array(word_end, np.float32),
            }
        )
    return rows


def _utterance(rng: np.random.Generator) -> tuple[str, float, float, float]:
    """Draws the text, the sentiment, and the valences of voice and face, about in [-1, 1]."""
    carriers = rng.choice(list(_CARRIERS), p=list(_CARRIERS.values())).split()
    domain = _pick(rng, list(_WHOLES))
    if "words" in carriers:
        phrase = _opinion(rng, domain)
        sentiment = phrase.polarity
    elif "sarcasm" in carriers:
        phrase = _opinion(rng, domain)
        while phrase.polarity < 1.0:
            phrase = _opinion(rng, domain)
        sentiment = -rng.uniform(1.0, 3.0)
    else:
        phrase = _remark(rng, domain)
        sentiment = rng.uniform(0.8, 3.0) * _pick(rng, (-1, 1)) if carriers else 0.0
    voice, face = rng.normal(scale=0.1, size=2)
    if "voice" in carriers:
        voice += sentiment / LABEL_RANGE[1] * rng.uniform(0.7, 1.3)
    if "face" in carriers:
        face += sentiment / LABEL_RANGE[1] * rng.uniform(0.7, 1.3)
    return _embellish(rng, phrase.text), sentiment, voice, face


def _embellish(rng: np.random.Generator, text: str) -> str:
    while True:
        embellished = f"{_pick(rng, _OPENERS)} {text}{_pick(rng, _TAILS)}"
        if len(embellished.split()) <= _MAX_WORDS:
            return embellished


def _opinion(rng: np.random.Generator, domain: str) -> _Phrase:
    first = _clause(rng, domain)
    if rng.random() < 0.85:
        return first
    second = _clause(rng, domain)
    return _Phrase(f"{first.text}, but {second.text}", 0.35 * first.polarity + 0.65 * second.polarity)


def _clause(rng: np.random.Generator, domain: str) -> _Phrase:
    subject = _pick(rng, _WHOLES[domain] + _PARTS[domain])
    form, negated = _pick(rng, ("predicate", "attribute", "verb")), rng.random() < 0.25
    if form == "verb":
        polarity, verb = _pick_graded(rng, _NEGATED_VERBS if negated else _VERBS)
        return _Phrase(f"i did *not *{verb} {subject}" if negated else f"i *{verb} {subject}", polarity)
    if form == "predicate" and negated:
        polarity, adjective = _pick_graded(rng, _GRADABLE_ADJECTIVES)
        factor, negation = _pick_graded(rng, _NEGATIONS)
        return _Phrase(f"{subject} was *{negation} *{adjective}", factor * polarity)
    adjectives, degrees = _pick(
        rng, ((_GRADABLE_ADJECTIVES, _GRADABLE_DEGREES), (_EXTREME_ADJECTIVES, _EXTREME_DEGREES))
    )
    polarity, adjective = _pick_graded(rng, adjectives)
    text = f"*{adjective}"
    if rng.random() < 0.5:
        factor, degree = _pick_graded(rng, degrees)
        polarity, text = factor * polarity, f"*{degree} {text}"
    if form == "predicate":
        return _Phrase(f"{subject} was {text}", polarity)
    article = "an" if text[1] in "aeiou" else "a"
    return _Phrase(f"this is {article} {text} {_pick(rng, _THINGS[domain])}", polarity)


def _remark(rng: np.random.Generator, domain: str) -> _Phrase:
    subject = _pick(rng, _WHOLES[domain])
    if rng.random() < 0.4:
        return _Phrase(f"{subject} {_pick(rng, _FACTS[domain])}")
    who, action = _pick(rng, ("i", "we")), _pick(rng, _ACTIONS[domain])
    return _Phrase(f"{who} *{action} {subject} {_pick(rng, _WHEN)} {_pick(rng, _WITH)}")


def _acoustic_rows(rng: np.random.Generator, stressed: np.ndarray, valence: float, loadings: np.ndarray) -> np.ndarray:
    rows = _correlated_noise(rng, len(stressed), loadings)
    rows[:, [_PITCH, _ENERGY]] += rng.normal(scale=0.7)
    rows[stressed, _ENERGY] += 1.5
    expression = valence * np.where(stressed, 1.0, 0.3)
    rows[:, list(_VOICE_PATTERN)] += np.outer(expression, list(_VOICE_PATTERN.values()))
    return rows


def _visual_rows(rng: np.random.Generator, num_words: int, valence: float, loadings: np.ndarray) -> np.ndarray:
    rows = _correlated_noise(rng, num_words, loadings)
    rows[:, [_SMILE, _LIPS_PART]] += rng.normal(scale=0.7)
    onset = rng.integers(num_words // 3 + 1)
    expression = valence * np.clip((np.arange(num_words) - onset + 1) / 2, 0, 1)
    rows[:, list(_FACE_PATTERN)] += np.outer(expression, list(_FACE_PATTERN.values()))
    return rows


def _loadings(rng: np.random.Generator, size: int) -> np.ndarray:
    loadings = rng.normal(size=(_NUM_FACTORS, size))
    return loadings / np.linalg.norm(loadings, axis=0)


def _correlated_noise(rng: np.random.Generator, num_words: int, loadings: np.ndarray) -> np.ndarray:
    factors = rng.normal(size=(num_words, _NUM_FACTORS))
    for word in range(1, num_words):
        factors[word] = 0.6 * factors[word - 1] + 0.8 * factors[word]
    return 0.6 * factors @ loadings + rng.normal(scale=0.6, size=(num_words, loadings.shape[1]))


def _word_times(
    rng: np.random.Generator, tokens: Sequence[str], clock: float, seconds_per_letter: float
) -> tuple[list[float], list[float]]:
    word_start, word_end = [], []
    for token in tokens:
        word_start.append(clock)
        seconds = (0.06 + seconds_per_letter * len(token.strip("*,"))) * rng.lognormal(sigma=0.15)
        clock += 1.2 * seconds if token.startswith("*") else seconds
        word_end.append(clock)
        clock += rng.uniform(0.15, 0.6) if token.endswith(",") else rng.exponential(0.02)
    return word_start, word_end


def _annotate(rng: np.random.Generator, sentiment: float) -> float:
    impressions = sentiment + rng.normal(scale=0.4, size=_NUM_ANNOTATORS)
    return round(float(np.clip(np.rint(impressions), *LABEL_RANGE).mean()), 1)


def _pick(rng: np.random.Generator, options: Sequence[_Option]) -> _Option:
    return options[int(rng.integers(len(options)))]


def _pick_graded(rng: np.random.Generator, table: _Graded) -> tuple[float, str]:
    grade = _pick(rng, list(table))
    return grade, _pick(rng, table[grade])
