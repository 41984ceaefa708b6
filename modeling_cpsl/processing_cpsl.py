"""Words and word-level features -> model inputs aligned to subword tokens (METHOD 1)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin


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


Features = Mapping[str, Sequence[np.ndarray | None]]


class CPSLProcessor(ProcessorMixin):
    """Turns words and their voice and face features into the inputs of a CPSL model.

    Each word has one feature row a modality; every subword of the word repeats that row, special tokens and padding
    get zeros (the alignment of MAG-BERT and ITHP).

    Args:
        tokenizer: The text encoder's fast tokenizer.
        modality_sizes: Feature size by non-text modality.
        feature_statistics: `{"mean": [...], "std": [...]}` by modality; features of those modalities are standardised
            per column and clipped to +-5.
        max_length: Longest sequence in subwords, special tokens included.
        use_text: Without text, each feature row is one token and there are no special tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        modality_sizes: dict[str, int] | None = None,
        feature_statistics: dict[str, dict[str, list[float]]] | None = None,
        max_length: int = 50,
        use_text: bool = True,
    ):
        self.modality_sizes = dict(sorted((modality_sizes or {}).items()))
        self.feature_statistics = dict(sorted((feature_statistics or {}).items()))
        self.max_length = max_length
        self.use_text = use_text
        super().__init__(tokenizer)
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} has no word_ids(); load the fast tokenizer")

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call returns."""
        text = ["input_ids"] if self.use_text else []
        return [*text, "attention_mask", "feature_mask", *self.modality_sizes, "modality_mask"]

    def __call__(
        self,
        words: Sequence[str] | Sequence[Sequence[str]] | None = None,
        acoustic: Any = None,
        visual: Any = None,
        extra_features: Mapping[str, Any] | None = None,
        return_tensors: str | None = "pt",
    ) -> CPSLBatch:
        """Prepares one utterance or a batch of them.

        Args:
            words: The words of an utterance, or a list of such lists. Needed with `use_text`.
            acoustic: (n, d_a) array for the utterance's n words, or a list of them; None, or None in the list,
                where the voice is missing.
            visual: (n, d_v), likewise.
            extra_features: (n, d_m) by name, likewise.
            return_tensors: `pt`; nothing else is made.

        Returns:
            `input_ids`, `attention_mask`, `feature_mask` (B, L), each modality (B, L, d_m) float32, those other than
            `acoustic` and `visual` in `extra_features`, and `modality_mask`, (B,) bool by modality.

        Raises:
            ValueError: Words are missing, a modality is unknown, has a wrong size, another number of rows than there
                are words, or a non-finite value.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r}: CPSL's inputs are PyTorch tensors, use 'pt'")
        given = {"acoustic": acoustic, "visual": visual, **(extra_features or {})}
        given = {name: values for name, values in given.items() if values is not None}
        unknown = given.keys() - self.modality_sizes.keys()
        if unknown:
            raise ValueError(
                f"modality {', '.join(sorted(unknown))} is unknown; the processor has {', '.join(self.modality_sizes)}"
            )
        if self.use_text and words is None:
            raise ValueError("words are needed: the model reads text")
        if words is None and not given:
            raise ValueError(f"nothing is given; the processor takes {', '.join(['words', *self.modality_sizes])}")
        single = _is_single_utterance(words, given)
        if single:
            words = None if words is None else [words]
            given = {name: [values] for name, values in given.items()}
        size = len(words) if words is not None else len(next(iter(given.values())))
        features = {name: [_as_rows(value) for value in values] for name, values in given.items()}
        names = [f"utterance {index}" for index in range(size)]
        self.check_features(words, features, names)
        encoded = self.encode_words(words) if self.use_text else {"word_index": self.index_rows(features, size)}
        return CPSLBatch(self.make_batch(features, **encoded))

    def encode_words(self, words: Sequence[Sequence[str]]) -> dict[str, list[list[int]]]:
        """Tokenises words, each alone, and keeps which word each subword comes from.

        Args:
            words: A list of words for each of B utterances.

        Returns:
            `input_ids` and `word_index`, B lists each of at most `max_length`; `word_index` is -1 at special tokens.
        """
        encoding = self.tokenizer(
            [list(utterance) for utterance in words],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        word_index = [
            [-1 if word is None else word for word in encoding.word_ids(index)] for index in range(len(words))
        ]
        return {"input_ids": encoding["input_ids"], "word_index": word_index}

    def index_rows(self, features: Features, size: int) -> list[list[int]]:
        """The `word_index` of `size` utterances without text: one token a feature row, at most `max_length`."""
        lengths = [
            max((len(values[index]) for values in features.values() if values[index] is not None), default=0)
            for index in range(size)
        ]
        return [list(range(min(length, self.max_length))) for length in lengths]

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
            present = np.array([row is not None and len(row) > 0 for row in rows], dtype=bool)
            aligned = torch.from_numpy(self._align(name, rows, present, index, size))
            modality_mask[name] = torch.from_numpy(present)
            target = batch if name in ("acoustic", "visual") else extra_features
            target[name] = aligned
        if extra_features:
            batch["extra_features"] = extra_features
        if modality_mask:
            batch["modality_mask"] = modality_mask
        return batch

    def check_features(self, words: Sequence[Sequence[str]] | None, features: Features, names: Sequence[str]) -> None:
        """Refuses features that do not fit, naming sample, modality and sizes.

        Args:
            words: B lists of words, or None.
            features: B arrays (n, d_m) or None by modality.
            names: What to call each sample in an error.

        Raises:
            ValueError: A wrong shape, another number of rows than words, or a non-finite value.
        """
        for name, rows in features.items():
            size = self.modality_sizes[name]
            if len(rows) != len(names):
                raise ValueError(f"{name}: {len(rows)} feature arrays for {len(names)} utterances")
            for index, row in enumerate(rows):
                if row is None or len(row) == 0:
                    continue
                if row.ndim != 2 or row.shape[1] != size:
                    raise ValueError(
                        f"{names[index]}: {name} features have shape {row.shape}, expected (words, {size})"
                    )
                if words is not None and len(row) != len(words[index]):
                    raise ValueError(f"{names[index]}: {len(row)} {name} rows for {len(words[index])} words")
                if not np.isfinite(row).all():
                    raise ValueError(f"{names[index]}: {name} features hold NaN or inf; replace them by 0")

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


def compute_feature_statistics(rows: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Mean and deviation of each feature column over real word rows, for `CPSLProcessor` (METHOD 1).

    Args:
        rows: Arrays (n, d_m) of the training split; empty ones are skipped.

    Returns:
        `mean` and `std`, d_m numbers each; the deviation of a constant column is given as 1.

    Raises:
        ValueError: There is no row at all.
    """
    rows = [row for row in rows if len(row)]
    if not rows:
        raise ValueError("no feature row in the training split to take statistics from")
    stacked = np.concatenate(rows).astype(np.float64)
    std = stacked.std(axis=0)
    return {"mean": stacked.mean(axis=0).tolist(), "std": np.where(std > 0, std, 1.0).tolist()}


def _pad(rows: Sequence[Sequence[int]], value: int) -> np.ndarray:
    padded = np.full((len(rows), max(map(len, rows), default=0)), value, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def _as_rows(values: Any) -> np.ndarray | None:
    if values is None:
        return None
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float32)


def _is_single_utterance(words: Any, features: Mapping[str, Any]) -> bool:
    if words is not None:
        return not words or isinstance(words[0], str)
    values = next(iter(features.values()))
    return getattr(values, "ndim", None) == 2 or (isinstance(values, list) and np.ndim(values[0]) == 1)


__all__ = ["CPSLProcessor", "compute_feature_statistics"]
