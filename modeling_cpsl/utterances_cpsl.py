"""Makes checked utterances from a caller's words and features. All checks of words and features are in this file."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import regex
import torch


# What an utterance, or a row of a data set, has beside features. The model reads the first three.
UTTERANCE_FIELDS = (
    "words",
    "text",
    "feature_extractors",
    "id",
    "video_id",
    "split",
    "label",
    "start",
    "end",
    "word_start",
    "word_end",
)

# Of the scripts that are written without blanks between words: a character with its marks and punctuation, or others.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_UNITS = regex.compile(rf"\p{{Ps}}*(?=[{_UNSPACED}])\X\p{{P}}*|[^{_UNSPACED}]+")
_UNSPACED_CHARACTER = regex.compile(f"[{_UNSPACED}]")


class Utterance(NamedTuple):
    """An utterance that [`make_utterance`] has checked.

    Attributes:
        name: Its name in error messages.
        words: Its words; None where the text is missing or not read.
        features: (n, d_m) float32 arrays, one row a word, by modality; a modality that is missing is left out.
    """

    name: str
    words: Sequence[str] | None
    features: dict[str, np.ndarray]


class name_in_errors:  # noqa: N801 - read as a statement; contextlib's decorator costs as much as some of the checks
    """`with name_in_errors(name):` puts the name before the message of a ValueError that is raised inside."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, ValueError):
            raise ValueError(f"{self.name}: {error}") from error


def split_batch(words: Any, text: Any, features: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Splits one call's arguments into the `words`, `text` and `features` of each utterance for [`make_utterance`].

    Args:
        words: The words of one utterance, a list of such lists, or None.
        text: A string, a list of strings, or None.
        features: By modality, features of one utterance, or a list of them.

    Raises:
        ValueError: Some arguments are for several utterances and others for one, or for another number of them.
    """
    if words is not None:
        is_single = not _is_list(words) or not len(words) or isinstance(words[0], str)
    elif text is not None:
        is_single = not _is_list(text) or not len(text)
    else:
        is_single = max(map(_depth, features.values()), default=0) <= 2
    if is_single:
        return [{"words": words, "text": text, "features": features}]
    arguments = {"words": words, "text": text, **features}
    arguments = {name: values for name, values in arguments.items() if values is not None}
    for name, values in arguments.items():
        if not (_is_list(values) or _depth(values)):
            raise ValueError(f"{name} is {values!r}, expected a list or array with an entry for each utterance")
    num_utterances = len(next(iter(arguments.values())))
    for name, values in arguments.items():
        if len(values) != num_utterances:
            raise ValueError(f"{name} has {len(values)} entries for {num_utterances} utterances")
    return [
        {
            "words": None if words is None else words[index],
            "text": None if text is None else text[index],
            "features": {name: values[index] for name, values in features.items()},
        }
        for index in range(num_utterances)
    ]


def make_utterance(
    name: str,
    *,
    words: Any = None,
    text: Any = None,
    features: Mapping[str, Any],
    modality_sizes: Mapping[str, int],
    use_text: bool = True,
) -> Utterance:
    """Checks the words and features of one utterance.

    The numbers of words and of feature rows are checked by [`check_row_counts`] when the utterance is encoded, as they
    are for an utterance whose features are not available at that point.

    Args:
        name: Its name in error messages.
        words: A list of strings; None where the text is missing.
        text: A string in place of `words`, which [`split_text`] takes from it.
        features: (n, d_m) by modality, in anything that holds numbers; None or no row where the modality is missing.
        modality_sizes: d_m of each modality that is known.
        use_text: Whether words are read at all.

    Raises:
        ValueError: Nothing is given, words are not strings, a modality is unknown, or features are refused by
            [`checked_features`]. The message is one line that begins with the name.
    """
    with name_in_errors(name):
        checked_words = _checked_words(words, text) if use_text else None
        check_modalities(features, modality_sizes)
        arrays = checked_features(features, modality_sizes)
        if checked_words is None and not arrays:
            names = [*(["words or text"] if use_text else []), *modality_sizes]
            raise ValueError(f"nothing is given; the processor takes {', '.join(names)}")
    return Utterance(name, checked_words, arrays)


def split_text(text: str) -> list[str]:
    """The words of a text, as in data: what stands between blanks.

    Chinese, Japanese, Thai and others are written without them, so each of their characters is a word, with the
    punctuation beside it; `iPhone` in such a text is one too.
    """
    words = text.split()
    if text.isascii() or not _UNSPACED_CHARACTER.search(text):
        return words
    return [unit for word in words for unit in _UNITS.findall(word)]


def check_modalities(names: Mapping[str, Any], modality_sizes: Mapping[str, int]) -> None:
    """Raises ValueError for the name of a modality that is not known."""
    unknown = names.keys() - modality_sizes.keys()
    if unknown:
        raise ValueError(
            f"modality {', '.join(sorted(map(str, unknown)))} is unknown; the processor has "
            f"{', '.join(modality_sizes) or 'text alone'}"
        )


def checked_features(features: Mapping[str, Any], modality_sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The features of one utterance as float32 arrays, by modality; those that are missing are left out.

    Args:
        features: (n, d_m) by modality, in anything that holds numbers; None or no row where the modality is missing.
        modality_sizes: d_m of each of these modalities.

    Raises:
        ValueError: Features are not numbers, not of the shape (words, d_m), or NaN or infinite.
    """
    arrays = {}
    for modality, values in features.items():
        if values is None:
            continue
        array = _as_array(modality, values)
        if array.ndim and not len(array):
            continue
        size = modality_sizes[modality]
        if array.ndim != 2 or array.shape[1] != size:
            raise ValueError(f"{modality} features have shape {array.shape}, expected (words, {size})")
        if not np.isfinite(array).all():
            raise ValueError(f"{modality} features contain NaN or inf; replace them by 0")
        arrays[modality] = array
    return arrays


def check_row_counts(num_words: int | None, num_rows: Mapping[str, int]) -> None:
    """Checks that an utterance has one feature row a word, or without words as many rows of each modality.

    Args:
        num_words: None where the text is missing.
        num_rows: By modality; 0 where it is missing.

    Raises:
        ValueError: The numbers differ, or there is text without a word.
    """
    if num_words == 0:
        raise ValueError("there are no words; give None where the text is missing, or use the other modalities alone")
    expected, counted = num_words, "words"
    for modality, count in num_rows.items():
        if expected is None and count:
            expected, counted = count, f"{modality} rows"
        if count and count != expected:
            raise ValueError(f"{count} {modality} rows for {expected} {counted}; each word has one row")


def _checked_words(words: Any, text: Any) -> Sequence[str] | None:
    if text is not None:
        if words is not None:
            raise ValueError("words and text are both given; the words are taken from text, so give one of them")
        if not isinstance(text, str):
            hint = "; give several utterances separately" if _is_list(text) else ""
            raise ValueError(f"text is {text!r} ({type(text).__name__}), expected a string{hint}")
        words = split_text(text)
    if words is None:
        return None
    if not _is_list(words):
        raise ValueError(f"words are {words!r}, expected a list of strings; pass a string as text=")
    for position, word in enumerate(words):
        if not isinstance(word, str):
            hint = "; give several utterances separately" if _is_list(word) else ""
            raise ValueError(f"word {position} is {word!r} ({type(word).__name__}), not a string{hint}")
        if not word.isascii() and any("\ud800" <= character <= "\udfff" for character in word):
            raise ValueError(f"word {position} is {word!r}, which contains an unpaired surrogate; remove it")
    return words


def _as_array(modality: str, values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype == np.float32:
        return values
    if isinstance(values, torch.Tensor):
        values = values.detach().float().cpu()
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, which is refused by name
            return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{modality} features are not numbers of shape (words, size): {error}") from error


def _is_list(value: Any) -> bool:
    """Whether a value is a sequence or array; a string is not."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _depth(values: Any) -> int:
    """The number of dimensions of nested lists or an array, judged by the first entry that is not missing."""
    if isinstance(values, torch.Tensor) or (isinstance(values, np.ndarray) and values.dtype != object):
        return values.ndim
    if not isinstance(values, list | tuple | np.ndarray):
        return 0
    return 1 + next((_depth(value) for value in values if value is not None and not _is_empty_list(value)), 0)


def _is_empty_list(values: Any) -> bool:
    return isinstance(values, list) and not values
