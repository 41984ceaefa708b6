"""Which words matter: by how much what is predicted of an utterance changes through each."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

from .processing_cpsl import EncodedUtterance


def word_shares(
    utterances: Sequence[EncodedUtterance],
    num_words: Sequence[int | None],
    score: Callable[[Sequence[EncodedUtterance]], Sequence[Any]],
    batch_size: int,
    change: Callable[[Any, Any], Any] = operator.sub,
) -> list[list[Any] | None]:
    """By how much the scores of each utterance change through each word, whose features are left out with it.

    Args:
        utterances: B utterances, encoded. Of one that was cut, only what is read counts.
        num_words: How many words each of them has; None where the text is missing.
        score: Gives the scores of a batch.
        batch_size: The largest number of utterances in a batch.
        change: By how much scores change, from those with a word and those without it.

    Returns:
        For each utterance a list of `num_words` changes, with None for a word that is the only one, and for one that
        is not read: it was cut off, or it has no subword. None where the text is missing.
    """
    left_out: list[tuple[int, int]] = []  # utterance and word
    for index, (utterance, count) in enumerate(zip(utterances, num_words, strict=True)):
        words = sorted({*utterance.word_index} - {-1})
        if count is not None and len(words) > 1:
            left_out += [(index, word) for word in words]
    variants = [*utterances, *(_without(utterances[index], word) for index, word in left_out)]
    scores = [
        value for start in range(0, len(variants), batch_size) for value in score(variants[start : start + batch_size])
    ]
    shares: list[list[Any] | None] = [None if count is None else [None] * count for count in num_words]
    for (index, word), without in zip(left_out, scores[len(utterances) :], strict=True):
        of_utterance = shares[index]
        assert of_utterance is not None
        of_utterance[word] = change(scores[index], without)
    return shares


def _without(utterance: EncodedUtterance, word: int) -> EncodedUtterance:
    """The utterance without the tokens of a word, with which its features are not read either."""
    assert utterance.input_ids is not None
    tokens = zip(utterance.word_index, utterance.input_ids, strict=True)
    word_index, input_ids = zip(*((index, token) for index, token in tokens if index != word), strict=True)
    return utterance._replace(word_index=word_index, input_ids=input_ids)


__all__ = ["word_shares"]
