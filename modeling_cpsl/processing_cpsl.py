"""Words and word-level features -> model inputs aligned to subword tokens (METHOD 1)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from .configuration_cpsl import check_modality_names
from .utterances_cpsl import Features, as_arrays, as_batch, is_list, is_missing, row_counts, split_text


logger = logging.getLogger(__name__)

STANDARDIZED_LIMIT = 5.0
SENTIMENT_CLASSES = (
    "highly negative",
    "negative",
    "weakly negative",
    "neutral",
    "weakly positive",
    "positive",
    "highly positive",
)


class CPSLBatch(BatchFeature):
    """Model inputs whose `to` reaches the tensors in `modality_mask` and `extra_features` too."""

    def to(self, *args: Any, **kwargs: Any) -> "CPSLBatch":
        """As [`~transformers.BatchFeature.to`]."""
        for name, value in self.items():
            if isinstance(value, dict):
                self[name] = dict(BatchFeature(value).to(*args, **kwargs))
        return super().to(*args, **kwargs)


class CPSLProcessor(ProcessorMixin):
    """Turns words and their voice and face features into the inputs of a CPSL model.

    Each word has one feature row a modality; every subword of the word repeats that row, special tokens and padding
    get zeros (the alignment of MAG-BERT and ITHP).

    Args:
        tokenizer: The text encoder's fast tokenizer.
        modality_sizes: Feature size by non-text modality.
        feature_statistics: `{"mean": [...], "std": [...]}` by modality; features of those modalities are standardised
            per column and clipped to +-5.
        max_length: Longest sequence in subwords, special tokens included; what is longer is cut at the end.
        use_text: Without text, each feature row is one token and there are no special tokens.
        feature_extractors: What made the features, by modality, such as `{"acoustic": "COVAREP"}`; a modality that is
            not in it is of unknown origin. Features declared to be another extractor's are refused.

    Raises:
        ValueError: The tokenizer is not a fast one, `max_length` leaves no word, a modality has a name that it cannot
            have, an extractor is named for a modality that there is not, or statistics are of another size or have a
            deviation that is not above 0.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        modality_sizes: dict[str, int] | None = None,
        feature_statistics: dict[str, dict[str, list[float]]] | None = None,
        max_length: int = 50,
        use_text: bool = True,
        feature_extractors: dict[str, str] | None = None,
    ):
        self.modality_sizes = dict(sorted((modality_sizes or {}).items()))
        self.feature_statistics = dict(sorted((feature_statistics or {}).items()))
        self.max_length = max_length
        self.use_text = use_text
        self.feature_extractors = dict(sorted((feature_extractors or {}).items()))
        super().__init__(tokenizer)
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} has no word_ids(); load the fast tokenizer")
        check_modality_names(self.modality_sizes)
        self._check_modalities(self.feature_extractors)
        self._check_statistics()
        shortest = 3 if use_text else 1
        if max_length < shortest:
            raise ValueError(f"max_length={max_length} leaves no word; it must be at least {shortest}")

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Arguments that are saved in files of their own; `feature_extractors` would be taken for one by its name."""
        return ["tokenizer"]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call returns."""
        text = ["input_ids"] if self.use_text else []
        return [*text, "attention_mask", "feature_mask", *self.modality_sizes, "modality_mask"]

    def __call__(
        self,
        words: Sequence[str] | Sequence[Sequence[str] | None] | None = None,
        acoustic: Any = None,
        visual: Any = None,
        extra_features: Mapping[str, Any] | None = None,
        *,
        text: str | Sequence[str | None] | None = None,
        feature_extractors: Mapping[str, str] | None = None,
        return_tensors: str | None = "pt",
    ) -> CPSLBatch:
        """Prepares one utterance or a batch of them; a warning says how many were longer than `max_length`.

        Where an utterance has no words, each of its feature rows is one token.

        Args:
            words: The words of an utterance, or a list of such lists; None, or None in the list, where the text is
                missing.
            acoustic: (n, d_a) array, lists or tensor for the utterance's n words, or a list of them; None, or None in
                the list, where the voice is missing.
            visual: (n, d_v), likewise.
            extra_features: (n, d_m) by name, likewise.
            text: A string or a list of them instead of `words`. Its words are what stands between white space, so
                punctuation belongs to the word before it; features need one row for each of these.
            feature_extractors: What made these features, by modality, to be checked against the processor's.
            return_tensors: `pt`; nothing else is made.

        Returns:
            `input_ids` unless no utterance has text, `attention_mask`, `feature_mask` (B, L), each modality
            (B, L, d_m) float32, those other than `acoustic` and `visual` in `extra_features`, and `modality_mask`,
            (B,) bool by modality, with `text` where an utterance lacks it.

        Raises:
            ValueError: Nothing is given, or nothing for an utterance; there are no words, or none with a subword; a
                word is not a string; a modality is unknown, of another extractor, no array of numbers, of a wrong
                size, of another number of rows than there are words, or not finite. Names the utterance, counted
                from 0.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r}: CPSL's inputs are PyTorch tensors, use 'pt'")
        given = {"acoustic": acoustic, "visual": visual, **(extra_features or {})}
        batch, lengths = self.prepare(words, text, given, feature_extractors)
        warn_truncated(lengths, self.max_length)
        return batch

    def prepare(
        self, words: Any, text: Any, features: Mapping[str, Any], feature_extractors: Mapping[str, str] | None = None
    ) -> tuple[CPSLBatch, list[int]]:
        """As a call with all features by name, but it is the caller who warns of what was cut.

        Returns:
            The batch, and each utterance's number of tokens before it was cut.
        """
        given = {name: values for name, values in features.items() if values is not None}
        self._check_modalities(given)
        self.check_extractors(feature_extractors or {})
        words = split_text(words, text)
        if words is None and not given:
            raise ValueError(f"nothing is given; the processor takes {self._inputs()}")
        words, given = as_batch(words, given)
        names = [f"utterance {index}" for index in range(len(words))]
        features = {name: as_arrays(name, values) for name, values in given.items()}
        self.check_words(words, names)
        self.check_features(words, features, names)
        self._check_presence(words, features, names)
        encoded, lengths = self._encode(words, features, names)
        batch = self.make_batch(features, **encoded)
        has_text = [utterance is not None for utterance in words]
        if self.use_text and any(has_text) and not all(has_text):
            batch["modality_mask"]["text"] = torch.tensor(has_text)
        return CPSLBatch(batch), lengths

    def encode_words(self, words: Sequence[Sequence[str]]) -> dict[str, list[list[int]]]:
        """Tokenises words, each alone, and keeps which word each subword comes from.

        Args:
            words: A list of words for each of B utterances.

        Returns:
            `input_ids` and `word_index`, B lists each of at most `max_length`; `word_index` is -1 at special tokens.
        """
        return {name: [self._cut(row) for row in rows] for name, rows in self._tokenize(words).items()}

    def count_tokens(self, words: Sequence[Sequence[str]]) -> list[int]:
        """How many subwords each of B utterances has before it is cut, special tokens included."""
        return [len(ids) for ids in self._tokenize(words)["input_ids"]]

    def _tokenize(self, words: Sequence[Sequence[str]]) -> dict[str, list[list[int]]]:
        # The tokenizer would keep a truncation asked of it in its own saved files, and cut on the side that they say.
        encoding = self.tokenizer(
            [list(utterance) for utterance in words],
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
        return {"input_ids": encoding["input_ids"], "word_index": word_index}

    def _cut(self, row: list[int]) -> list[int]:
        """At most `max_length`; the last token is a special one and stays."""
        return row if len(row) <= self.max_length else [*row[: self.max_length - 1], row[-1]]

    def _encode(
        self, words: Sequence[Sequence[str] | None], features: Features, names: Sequence[str]
    ) -> tuple[dict[str, list[list[int]]], list[int]]:
        """What `make_batch` takes beside the features, and each utterance's number of tokens before it was cut."""
        lengths = row_counts(features, len(words))
        word_index = [list(range(min(length, self.max_length))) for length in lengths]
        spoken = [index for index, utterance in enumerate(words) if utterance is not None] if self.use_text else []
        if not spoken:
            return {"word_index": word_index}, lengths
        input_ids = [[self.tokenizer.pad_token_id] * len(row) for row in word_index]
        encoded = self._tokenize([words[index] for index in spoken])
        for index, ids, positions in zip(spoken, encoded["input_ids"], encoded["word_index"], strict=True):
            if max(positions) < 0:
                raise ValueError(
                    f"{names[index]}: no word in {list(words[index])} has a subword; leave out empty text"
                )
            lengths[index] = len(ids)
            input_ids[index], word_index[index] = self._cut(ids), self._cut(positions)
        return {"input_ids": input_ids, "word_index": word_index}, lengths

    def make_batch(
        self,
        features: Features,
        word_index: Sequence[Sequence[int]],
        input_ids: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, Any]:
        """Pads to the longest of B utterances and repeats each word's feature row on the word's subwords.

        Args:
            features: For each modality a list of B arrays (n, d_m), None or (0, d_m) where it is missing. A modality
                that is not given is missing everywhere.
            word_index: B lists of word positions, -1 at special tokens.
            input_ids: B lists of subword ids.

        Returns:
            The model's inputs, see `__call__`.
        """
        index = _pad(word_index, -1)
        lengths = torch.tensor([len(row) for row in word_index])
        batch: dict[str, Any] = {}
        if input_ids is not None:
            batch["input_ids"] = torch.from_numpy(_pad(input_ids, self.tokenizer.pad_token_id))
        batch["attention_mask"] = (torch.arange(index.shape[1]) < lengths[:, None]).long()
        batch["feature_mask"] = torch.from_numpy(index >= 0)
        modality_mask, extra_features = {}, {}
        for name, size in self.modality_sizes.items():
            rows = features.get(name, [None] * len(word_index))
            present = np.array([not is_missing(row) for row in rows], dtype=bool)
            aligned = torch.from_numpy(self._align(name, rows, present, index, size))
            modality_mask[name] = torch.from_numpy(present)
            target = batch if name in ("acoustic", "visual") else extra_features
            target[name] = aligned
        if extra_features:
            batch["extra_features"] = extra_features
        if modality_mask:
            batch["modality_mask"] = modality_mask
        return batch

    def check_extractors(self, feature_extractors: Mapping[str, str]) -> None:
        """Refuses features of another extractor than the model learnt from; where one is not known, nothing is known.

        Args:
            feature_extractors: What made the features, by modality.

        Raises:
            ValueError: A modality is unknown or its extractor another one; names both.
        """
        if not isinstance(feature_extractors, Mapping):
            raise ValueError(f"feature_extractors={feature_extractors!r} must be a dict of names by modality")
        self._check_modalities(feature_extractors)
        for name, extractor in feature_extractors.items():
            expected = self.feature_extractors.get(name, extractor)
            if extractor != expected:
                raise ValueError(
                    f"{name} features are from {extractor!r}, but the model learnt from those of {expected!r}; "
                    "extract them with that or leave the modality out"
                )

    def check_words(self, words: Sequence[Sequence[str] | None], names: Sequence[str]) -> None:
        """Refuses what is not a list of words.

        Args:
            words: B lists of words, None where the text is missing.
            names: What to call each sample in an error.

        Raises:
            ValueError: There is no word, something that is not a string, or half of a character.
        """
        for name, utterance in zip(names, words, strict=True):
            if utterance is None:
                continue
            if not is_list(utterance):
                raise ValueError(
                    f"{name}: words are {utterance!r}, expected a list of strings; a string goes in text="
                )
            if not len(utterance):
                raise ValueError(f"{name}: there are no words; give None where the text is missing")
            for position, word in enumerate(utterance):
                if not isinstance(word, str):
                    raise ValueError(f"{name}: word {position} is {word!r} ({type(word).__name__}), not a string")
                if any("\ud800" <= character <= "\udfff" for character in word):
                    raise ValueError(f"{name}: word {position} is {word!r}, half of a character; cut it out")

    def check_features(
        self, words: Sequence[Sequence[str] | None] | None, features: Features, names: Sequence[str]
    ) -> None:
        """Refuses features that do not fit, naming sample, modality and sizes.

        Args:
            words: B lists of words, or None where they are not known.
            features: B arrays (n, d_m) or None by modality.
            names: What to call each sample in an error.

        Raises:
            ValueError: A wrong shape, another number of rows than words or than another modality has, or a
                non-finite value.
        """
        first: dict[int, tuple[int, str]] = {}
        for index, utterance in enumerate(words or ()):
            if utterance is not None:
                first[index] = (len(utterance), "words")
        for name, rows in features.items():
            size = self.modality_sizes[name]
            if len(rows) != len(names):
                raise ValueError(f"{name}: {len(rows)} feature arrays for {len(names)} utterances")
            for index, row in enumerate(rows):
                if is_missing(row):
                    continue
                if row.ndim != 2 or row.shape[1] != size:
                    raise ValueError(
                        f"{names[index]}: {name} features have shape {row.shape}, expected (words, {size})"
                    )
                count, counted = first.setdefault(index, (len(row), f"{name} rows"))
                if len(row) != count:
                    raise ValueError(f"{names[index]}: {len(row)} {name} rows for {count} {counted}; a word has one")
                if not np.isfinite(row).all():
                    raise ValueError(f"{names[index]}: {name} features hold NaN or inf; replace them by 0")

    def _check_modalities(self, given: Mapping[str, Any]) -> None:
        unknown = given.keys() - self.modality_sizes.keys()
        if unknown:
            raise ValueError(
                f"modality {', '.join(sorted(map(str, unknown)))} is unknown; the processor has "
                f"{', '.join(self.modality_sizes) or 'text alone'}"
            )

    def _check_statistics(self) -> None:
        self._check_modalities(self.feature_statistics)
        for name, statistics in self.feature_statistics.items():
            sizes = {key: len(statistics[key]) for key in ("mean", "std")}
            if set(sizes.values()) != {self.modality_sizes[name]} or not min(statistics["std"]) > 0:
                raise ValueError(
                    f"feature_statistics of {name}: {sizes} values, smallest std {min(statistics['std'])}; they need "
                    f"{self.modality_sizes[name]} each and std above 0"
                )

    def _check_presence(self, words: Sequence[Sequence[str] | None], features: Features, names: Sequence[str]) -> None:
        counts = row_counts(features, len(words))
        for name, utterance, count in zip(names, words, counts, strict=True):
            if not count and (utterance is None or not self.use_text):
                raise ValueError(f"{name}: nothing is given; the processor takes {self._inputs()}")

    def _inputs(self) -> str:
        return ", ".join([*(["words or text"] if self.use_text else []), *self.modality_sizes])

    def decode_sentiment(self, logits: torch.Tensor | Sequence[float]) -> list[dict[str, Any]]:
        """Puts predictions into words.

        Args:
            logits: (B,), predicted sentiment.

        Returns:
            For each, `value` (float, clipped to [-3, 3]), `acc7_class` (-3 ... 3), `label` (its name) and `polarity`
            (`negative` below 0, else `positive`: the rule of Acc-2, METHOD 10).
        """
        values = np.clip(np.atleast_1d(np.asarray(torch.as_tensor(logits).detach().float().cpu())), -3.0, 3.0)
        return [
            {
                "value": float(value),
                "acc7_class": int(np.round(value)),
                "label": SENTIMENT_CLASSES[int(np.round(value)) + 3],
                "polarity": "negative" if value < 0 else "positive",
            }
            for value in values
        ]

    def _align(
        self, name: str, rows: Sequence[np.ndarray | None], present: np.ndarray, index: np.ndarray, size: int
    ) -> np.ndarray:
        """(B, L, d_m): one gather from all samples' rows stacked; the zero row at the end serves all other tokens."""
        stacked = [row for row, there in zip(rows, present, strict=True) if there]
        table = np.zeros((sum(map(len, stacked)) + 1, size), dtype=np.float32)
        if stacked:
            table[:-1] = self._standardize(name, np.concatenate(stacked))
        lengths = np.array([len(row) if there else 0 for row, there in zip(rows, present, strict=True)], dtype=int)
        offsets = np.cumsum(lengths) - lengths
        return table[np.where((index >= 0) & present[:, None], index + offsets[:, None], -1)]

    def _standardize(self, name: str, rows: np.ndarray) -> np.ndarray:
        statistics = self.feature_statistics.get(name)
        if statistics is None:
            return rows
        mean, std = (np.asarray(statistics[key], dtype=np.float32) for key in ("mean", "std"))
        return np.clip((rows - mean) / std, -STANDARDIZED_LIMIT, STANDARDIZED_LIMIT)


def _pad(rows: Sequence[Sequence[int]], value: int) -> np.ndarray:
    padded = np.full((len(rows), max(map(len, rows), default=0)), value, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def warn_truncated(lengths: Sequence[int], max_length: int, where: str = "") -> None:
    """Logs, in one line, how many utterances are cut and how long the longest is; nothing where none is.

    Args:
        lengths: Number of tokens of each utterance, special ones included.
        max_length: How many are kept.
        where: What the utterances belong to, for the beginning of the line.
    """
    cut = [length for length in lengths if length > max_length]
    if cut:
        logger.warning(
            "%s%d of %d utterances were cut to max_length=%d tokens, the longest has %d",
            f"{where}: " if where else "", len(cut), len(lengths), max_length, max(cut),
        )  # fmt: skip


__all__ = ["CPSLProcessor"]
