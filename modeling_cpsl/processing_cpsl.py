"""Utterances -> model inputs: words become subword tokens, and features are aligned to them."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from .batch_cpsl import CPSLBatch, as_lists
from .configuration_cpsl import check_modality_names, check_tokenizer
from .features_cpsl import collect_features, feature_arguments
from .task_cpsl import decode_sentiment
from .utterances_cpsl import (
    Utterance,
    check_modalities,
    check_row_counts,
    make_utterance,
    name_in_errors,
    split_batch,
)


logger = logging.get_logger(__name__)

STANDARDIZED_LIMIT = 5.0

# What a call may ask for by the names that transformers' tokenizers use; everything else is fixed.
CALL_OPTIONS: dict[str, tuple[Any, ...]] = {
    "return_tensors": ("pt", None),
    "padding": (True, "longest", "max_length"),
    "truncation": (True, "longest_first"),
}


class EncodedUtterance(NamedTuple):
    """An utterance as tokens, not padded yet.

    Attributes:
        word_index: For each token the position of its word, which is the row of its features; -1 at special tokens.
        input_ids: The tokens' ids; None where the text is missing or not read, and each feature row is one token.
        features: (n, d_m) float32 arrays by modality; a modality that is missing is left out.
        num_cut: How many tokens were cut off to keep `max_length`.
    """

    word_index: Sequence[int]
    input_ids: Sequence[int] | None
    features: Mapping[str, np.ndarray]
    num_cut: int = 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens before any was cut off."""
        return len(self.word_index) + self.num_cut


class CPSLProcessor(ProcessorMixin):
    """Turns words with their voice and face features into the inputs of a CPSL model.

    Each word has one feature row in each modality. Every subword of the word repeats that row; special tokens and
    padding get zeros (the alignment of MAG-BERT and ITHP).

    Args:
        tokenizer: The text encoder's fast tokenizer.
        modality_sizes: Feature size by non-text modality.
        feature_statistics: `{"mean": [...], "std": [...]}` by modality; features of these modalities are standardised
            per column and clipped to +-5.
        max_length: Length of the longest sequence in subwords, special tokens included; longer ones are cut at the
            end.
        use_text: Whether words are read. Without text each feature row is one token, and there are no special tokens.
        feature_extractors: Name of the program that extracted the features, by modality, such as
            `{"acoustic": "COVAREP"}`; the extractor of any other modality is unknown. Features that are declared to
            come from another extractor are refused.
        word_starts: Whether batches say where words start, for a model whose architecture reads one feature row a
            word.

    Raises:
        ValueError: The tokenizer is not a fast one, `max_length` leaves no room for a word, a modality has a reserved
            name, an extractor or statistics are given for an unknown modality, or statistics have another size or a
            deviation that is not above 0.

    Example:
        >>> tokenizer = AutoTokenizer.from_pretrained("microsoft/deberta-v3-base")
        >>> processor = CPSLProcessor(tokenizer, {"acoustic": 74, "visual": 47})
        >>> inputs = processor(["great", "movie"], acoustic=np.zeros((2, 74)), visual=np.zeros((2, 47)))
        >>> inputs["acoustic"].shape  # [CLS] great movie [SEP]
        torch.Size([1, 4, 74])
    """

    # Dicts of tensors.
    skip_tensor_conversion = ["modality_mask", "extra_features"]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        modality_sizes: dict[str, int] | None = None,
        feature_statistics: dict[str, dict[str, list[float]]] | None = None,
        max_length: int = 50,
        use_text: bool = True,
        feature_extractors: dict[str, str] | None = None,
        word_starts: bool = False,
    ):
        self.modality_sizes = dict(sorted((modality_sizes or {}).items()))
        self.feature_statistics = dict(sorted((feature_statistics or {}).items()))
        self.max_length = max_length
        self.use_text = use_text
        self.word_starts = word_starts
        self.feature_extractors = dict(sorted((feature_extractors or {}).items()))
        super().__init__(tokenizer)
        if not self.tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} has no word_ids(); load the fast tokenizer")
        check_modality_names(self.modality_sizes)
        check_modalities(self.feature_extractors, self.modality_sizes)
        self._check_statistics()
        shortest = 3 if use_text else 1
        if max_length < shortest:
            raise ValueError(f"max_length={max_length} leaves no room for a word; it must be at least {shortest}")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As [`~transformers.ProcessorMixin.from_pretrained`], with [`check_tokenizer`] where a model is beside it."""
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        with contextlib.suppress(OSError):  # there is no model
            config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **kwargs)
            if "vocab_size" in config:
                check_tokenizer(processor.tokenizer, config["vocab_size"], str(pretrained_model_name_or_path))
        return processor

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The sub-processors; ProcessorMixin itself would take `feature_extractors` for another one."""
        return ["tokenizer"]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the inputs that a call returns."""
        text = ["input_ids"] if self.use_text else []
        masks = ["attention_mask", "feature_mask", *(["word_starts"] if self.word_starts else [])]
        return [*text, *masks, *feature_arguments(self.modality_sizes), "modality_mask"]

    def __call__(
        self,
        words: Sequence[str] | Sequence[Sequence[str] | None] | Mapping[str, Any] | None = None,
        acoustic: Any = None,
        visual: Any = None,
        extra_features: Mapping[str, Any] | None = None,
        *,
        text: str | Sequence[str | None] | None = None,
        feature_extractors: Mapping[str, str] | None = None,
        **options: Any,
    ) -> CPSLBatch:
        """Prepares one utterance or a batch of them; a warning says how many were longer than `max_length`.

        Where an utterance has no words, each of its feature rows is one token.

        Args:
            words: The words of an utterance, or a list of such lists; None, or None in the list, where the text is
                missing. Not looked at with `use_text=False`. Or a batch of rows as [`~datasets.Dataset.map`] gives it:
                columns `words` or `text` and one for each modality, which is answered by lists.
            acoustic: (n, d_a) array, lists or tensor for the utterance's n words, or a list of them; None, or None in
                the list, where the voice is missing.
            visual: (n, d_v), likewise.
            extra_features: (n, d_m) by name, likewise.
            text: A string or a list of them instead of `words`. It is split at white space (Chinese and other scripts
                without it: into characters), so punctuation belongs to the word before it; features need one row for
                each of these.
            feature_extractors: Name of the program that extracted these features, by modality, to be checked against
                the processor's.
            **options: `return_tensors`: `pt` or None, for lists as [`as_lists`] makes them; `padding`: True or
                `max_length`; `truncation`: True, as always.

        Returns:
            `input_ids` unless no utterance has text, `attention_mask` and `feature_mask` (B, L), `word_starts` (B, L)
            bool if this processor gives them, features (B, L, d_m) float32 as `acoustic`, `visual` and by name in
            `extra_features`, and `modality_mask`, (B,) bool by modality, with `text` where some utterances have text
            and others lack it.

        Raises:
            ValueError: Nothing is given, or nothing for an utterance; there are no words, or none with a subword; a
                word is not a string; or features are of an unknown modality or another extractor, not an array of
                numbers, of a wrong size, of another number of rows than there are words, or not finite. The message
                names the utterance, counted from 0.
        """
        options = _checked_options(**options)
        if isinstance(words, Mapping):
            return self(**self._arguments(words), **{"return_tensors": None, **options})
        features = collect_features(acoustic, visual, extra_features)
        self.check_extractors(feature_extractors or {})
        utterances = [
            self.make_utterance(f"utterance {index}", **arguments)
            for index, arguments in enumerate(split_batch(words, text, features))
        ]
        encoded = self.encode(utterances)
        warn_truncated([utterance.num_tokens for utterance in encoded], self.max_length)
        batch = self.make_batch(encoded, self.max_length if options.get("padding") == "max_length" else None)
        if options.get("return_tensors", "pt") is None:
            modalities = [*(["text"] if self.use_text else []), *self.modality_sizes]
            batch = as_lists(batch, modalities, self.tokenizer.pad_token_id)
        return CPSLBatch(batch)

    def _arguments(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call among the columns of a batch of rows; a warning names what they lack, once."""
        features = {name: rows[name] for name in self.modality_sizes if name in rows}
        text: dict[str, Any] = {name: rows[name] for name in ("words", "text") if name in rows}
        lacking = [*(["words"] if self.use_text and not text else []), *(self.modality_sizes.keys() - features.keys())]
        if lacking:
            logger.warning_once(f"rows have no column for {', '.join(sorted(lacking))}, which then count as missing")
        return text | feature_arguments(features)

    def make_utterance(
        self, name: str, *, words: Any = None, text: Any = None, features: Mapping[str, Any]
    ) -> Utterance:
        """As [`make_utterance`], for an utterance of this processor's modalities."""
        return make_utterance(
            name,
            words=words,
            text=text,
            features=features,
            modality_sizes=self.modality_sizes,
            use_text=self.use_text,
        )

    def encode(self, utterances: Sequence[Utterance]) -> list[EncodedUtterance]:
        """Tokenises utterances and checks that each word has one feature row.

        Raises:
            ValueError: As [`tokenize`].
        """
        tokens = self.tokenize(
            [utterance.name for utterance in utterances],
            [utterance.words for utterance in utterances],
            [{name: len(rows) for name, rows in utterance.features.items()} for utterance in utterances],
        )
        return [
            encoded._replace(features=utterance.features)
            for encoded, utterance in zip(tokens, utterances, strict=True)
        ]

    def tokenize(
        self,
        names: Sequence[str],
        words: Sequence[Sequence[str] | None],
        num_rows: Sequence[Mapping[str, int]],
    ) -> list[EncodedUtterance]:
        """Tokenises utterances of which only the number of feature rows is known; each word is tokenised alone.

        Args:
            names: What to call each of B utterances in errors.
            words: Their words, None where the text is missing. Not looked at with `use_text=False`.
            num_rows: Their numbers of feature rows by modality.

        Returns:
            The utterances without features, of at most `max_length` tokens each.

        Raises:
            ValueError: An utterance has another number of rows than of words, or no word with a subword; the message
                names it.
        """
        if not self.use_text:
            words = [None] * len(names)
        for name, utterance_words, counts in zip(names, words, num_rows, strict=True):
            with name_in_errors(name):
                check_row_counts(None if utterance_words is None else len(utterance_words), counts)
        spoken = [list(utterance_words) for utterance_words in words if utterance_words is not None]
        pieces = zip(*self._subwords(spoken), strict=True)
        encoded = []
        for name, utterance_words, counts in zip(names, words, num_rows, strict=True):
            if utterance_words is None:
                input_ids, word_index = None, list(range(max(counts.values(), default=0)))
            else:
                input_ids, word_index = next(pieces)
                if max(word_index) < 0:
                    raise ValueError(f"{name}: no word in {list(utterance_words)} has a subword; leave out empty text")
            encoded.append(self._cut(word_index, input_ids))
        return encoded

    def _subwords(self, words: list[list[str]]) -> tuple[list[list[int]], list[list[int]]]:
        """The ids of each utterance's subwords and special tokens, and the position of each one's word, else -1."""
        if not words:
            return [], []
        # Not truncated by the tokenizer, which would save that setting in its files and cut on the side set in them.
        encoding = self.tokenizer(
            words,
            is_split_into_words=True,
            add_special_tokens=True,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        word_index = [
            [-1 if word is None else word for word in encoding.word_ids(index)] for index in range(len(words))
        ]
        return encoding["input_ids"], word_index

    def _cut(self, word_index: list[int], input_ids: list[int] | None) -> EncodedUtterance:
        """Keeps `max_length` tokens; with text the last one is a special token, which stays the last one."""
        num_cut = max(len(word_index) - self.max_length, 0)
        if input_ids is None:
            return EncodedUtterance(word_index[: self.max_length], None, {}, num_cut)
        if num_cut:
            word_index, input_ids = ([*row[: self.max_length - 1], row[-1]] for row in (word_index, input_ids))
        return EncodedUtterance(word_index, input_ids, {}, num_cut)

    def make_batch(self, utterances: Sequence[EncodedUtterance], length: int | None = None) -> dict[str, Any]:
        """Pads B utterances to the same length and repeats each word's feature row on the word's subwords.

        Args:
            utterances: From [`encode`].
            length: In tokens. Default: that of the longest.

        Returns:
            The model's inputs, see [`CPSLProcessor.__call__`].
        """
        lengths = np.array([len(utterance.word_index) for utterance in utterances])
        attended = np.arange(length or lengths.max()) < lengths[:, None]
        index = _pad([utterance.word_index for utterance in utterances], attended, -1)
        has_text = np.array([utterance.input_ids is not None for utterance in utterances], dtype=bool)
        batch: dict[str, Any] = {}
        if has_text.any():
            padding = self.tokenizer.pad_token_id
            ids = [
                [padding] * len(utterance.word_index) if utterance.input_ids is None else utterance.input_ids
                for utterance in utterances
            ]
            batch["input_ids"] = torch.from_numpy(_pad(ids, attended, padding))
        batch["attention_mask"] = torch.from_numpy(attended.astype(np.int64))
        batch["feature_mask"] = torch.from_numpy(index >= 0)
        if self.word_starts:
            batch["word_starts"] = torch.from_numpy((index >= 0) & (np.diff(index, axis=1, prepend=-1) != 0))
        features, presence = {}, {}
        for name in self.modality_sizes:
            presence[name] = np.array([name in utterance.features for utterance in utterances], dtype=bool)
            rows = [utterance.features[name] for utterance in utterances if name in utterance.features]
            features[name] = torch.from_numpy(self._align(name, rows, presence[name], index))
        if has_text.any() and not has_text.all():
            presence["text"] = has_text
        batch |= feature_arguments(features)
        if presence:
            batch["modality_mask"] = {name: torch.from_numpy(mask) for name, mask in presence.items()}
        return batch

    def _align(self, name: str, rows: Sequence[np.ndarray], present: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(B, L, d_m): one gather from all samples' rows stacked; the zero row at the end serves all other tokens."""
        table = np.zeros((sum(map(len, rows)) + 1, self.modality_sizes[name]), dtype=np.float32)
        if rows:
            table[:-1] = self._standardize(name, np.concatenate(rows))
        lengths = np.zeros(len(present), dtype=int)
        lengths[present] = list(map(len, rows))
        offsets = np.cumsum(lengths) - lengths
        return table[np.where((index >= 0) & present[:, None], index + offsets[:, None], -1)]

    def _standardize(self, name: str, rows: np.ndarray) -> np.ndarray:
        statistics = self.feature_statistics.get(name)
        if statistics is None:
            return rows
        mean, std = (np.asarray(statistics[key], dtype=np.float32) for key in ("mean", "std"))
        return np.clip((rows - mean) / std, -STANDARDIZED_LIMIT, STANDARDIZED_LIMIT)

    def check_extractors(self, feature_extractors: Mapping[str, str]) -> None:
        """Refuses features of another extractor than the model was trained on.

        Args:
            feature_extractors: Name of the program that extracted the features, by modality. A modality whose
                extractor is not known, here or by the processor, is accepted.

        Raises:
            ValueError: A modality is unknown, or its extractor another one; names both.
        """
        if not isinstance(feature_extractors, Mapping):
            raise ValueError(f"feature_extractors={feature_extractors!r} must be a dict of names by modality")
        check_modalities(feature_extractors, self.modality_sizes)
        for name, extractor in feature_extractors.items():
            expected = self.feature_extractors.get(name, extractor)
            if extractor != expected:
                raise ValueError(
                    f"{name} features are from {extractor!r}, but the model was trained on features from "
                    f"{expected!r}; extract them with that or leave the modality out"
                )

    def _check_statistics(self) -> None:
        check_modalities(self.feature_statistics, self.modality_sizes)
        for name, statistics in self.feature_statistics.items():
            sizes = {key: len(statistics[key]) for key in ("mean", "std")}
            if set(sizes.values()) != {self.modality_sizes[name]} or not min(statistics["std"]) > 0:
                raise ValueError(
                    f"feature_statistics of {name}: {sizes} values, smallest std {min(statistics['std'])}; they need "
                    f"{self.modality_sizes[name]} each and std above 0"
                )

    def decode_sentiment(self, logits: torch.Tensor | Sequence[float]) -> list[dict[str, Any]]:
        """Same as [`decode_sentiment`], offered as a method of the processor.

        Args:
            logits: (B,), predicted sentiments.

        Returns:
            For each prediction a dict of `value` (float, clipped to [-3, 3]), `acc7_class` (-3 ... 3), `label` (its
            name) and `polarity` (`negative` below 0, else `positive`).
        """
        return decode_sentiment(logits)


def _pad(rows: Sequence[Sequence[int]], attended: np.ndarray, value: int) -> np.ndarray:
    padded = np.full(attended.shape, value, dtype=np.int64)
    padded[attended] = np.concatenate(rows)
    return padded


def _checked_options(text_kwargs: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """A call's options, those in `text_kwargs` too; ValueError for one that is not in `CALL_OPTIONS`."""
    options |= text_kwargs or {}
    for name, value in options.items():
        if value not in CALL_OPTIONS.get(name, ()):
            known = ", ".join(f"{option} {' or '.join(map(repr, values))}" for option, values in CALL_OPTIONS.items())
            raise ValueError(f"{name}={value!r}: a call takes {known}; the processor itself has max_length")
    return options


def warn_truncated(lengths: Sequence[int], max_length: int, where: str = "") -> None:
    """Logs in one line how many utterances are cut and how long the longest is; nothing where none is cut.

    Args:
        lengths: Number of tokens of each utterance before it is cut, special ones included.
        max_length: How many are kept.
        where: What the utterances belong to, for the beginning of the line.
    """
    cut = [length for length in lengths if length > max_length]
    if cut:
        logger.warning(
            "%s%d of %d utterances were cut to max_length=%d tokens, the longest has %d",
            f"{where}: " if where else "", len(cut), len(lengths), max_length, max(cut),
        )  # fmt: skip


__all__ = ["CPSLProcessor", "EncodedUtterance", "warn_truncated"]
