"""The options of a recipe that say where the data comes from and how it is prepared."""

import argparse
from dataclasses import dataclass, field

from data_builders.command_line import comma_separated, numbered_part
from data_builders.label_options import KINDS


@dataclass
class DataArguments:
    """Where the data comes from and how it is prepared."""

    _argument_group_name = "data"

    dataset: str = field(
        default="sample",
        metadata={"help": "`sample` (generated), `mosi`, `mosei`, or a file or folder of any known format."},
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Where the files of `mosi` or `mosei` are ('' for none)."}
    )
    format: str | None = field(
        default=None, metadata={"help": "The data's format, where its content does not tell it."}
    )
    modalities: str | None = field(
        default=None,
        metadata={
            "help": "Comma-separated: text, acoustic, visual, timing (computed from word times) or any other that the "
            "data has. Default: text and all that the data has."
        },
    )
    labels: str | None = field(
        default=None,
        metadata={
            "help": "Comma-separated: the columns of the label, if it is not `label`; several are several numbers. "
            "CMU-MOSEI's files have sentiment, happy, sad, anger, surprise, disgust and fear."
        },
    )
    label_kind: str | None = field(
        default=None,
        metadata={
            "help": "What a label is: a number, a class (numbers are names too), or classes, of which a text names "
            "several between semicolons. Default: told by the training split.",
            "choices": [*KINDS],
        },
    )
    label_range: list[float] | None = field(
        default=None,
        metadata={
            "help": "The least and the greatest label, if they are not -3 3; for several numbers one after the other."
        },
    )
    feature_sequences: list[str] | None = field(
        default=None,
        metadata={"help": "modality=NAME pairs that say which computational sequence is which modality."},
    )
    standardize_features: str = field(
        default="auto",
        metadata={
            "help": "Standardise the feature columns with the training split's statistics; auto: unless the source "
            "has normalised them.",
            "choices": ["auto", "true", "false"],
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read samples while they are used, without a cache and, from Parquet, in constant memory; they "
            "are shuffled in a buffer. The data is read once before training, to count it."
        },
    )
    fold: str | None = field(
        default=None,
        metadata={
            "help": "Cross-validation: `i/k` merges the splits and cuts them into k folds; fold i is the test split, "
            "the next one the validation split, and the rest trains. Default: the data's own splits."
        },
    )
    fold_group: str = field(
        default="video_id", metadata={"help": "Column whose values are never divided: any of a table."}
    )
    fold_seed: int | None = field(
        default=None,
        metadata={"help": "Share the groups out over the folds in another way, one for each seed, from 0."},
    )
    train_share: float = field(
        default=1.0,
        metadata={"help": "Share of the training split that is trained on, in whole groups of fold_group."},
    )
    test_split: bool = field(
        default=True,
        metadata={"help": "Judge the model on the test split too; without, that split is left alone, as in a search."},
    )
    max_length: int = field(default=50, metadata={"help": "Longest input in subwords, special tokens included."})

    @property
    def modality_names(self) -> list[str] | None:
        """The modalities asked for, text among them; None for all."""
        return None if self.modalities is None else comma_separated(self.modalities)

    @property
    def label_columns(self) -> list[str] | bool:
        """The columns of the label; True for the one that is called so."""
        return True if self.labels is None else comma_separated(self.labels)

    @property
    def use_text(self) -> bool:
        """Whether the model is to read words."""
        return self.modality_names is None or "text" in self.modality_names

    @property
    def fold_and_number(self) -> tuple[int, int] | None:
        """`fold` as two numbers; ValueError for what is not a part such as `0/5`."""
        if self.fold is None:
            return None
        try:
            return numbered_part(self.fold)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"fold: {error}") from error

    @property
    def sequences_by_modality(self) -> dict[str, str] | None:
        """`feature_sequences` as a dict; ValueError for what is not `modality=NAME`."""
        pairs = [pair.partition("=") for pair in self.feature_sequences or []]
        for (name, _, sequence), given in zip(pairs, self.feature_sequences or [], strict=True):
            if not name or not sequence:
                raise ValueError(f"feature_sequences: {given!r} is not of the form modality=NAME; acoustic=COVAREP is")
        return {name: sequence for name, _, sequence in pairs} or None


__all__ = ["DataArguments"]
