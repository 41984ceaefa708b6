"""Samples made of others by changing their rows, without new recordings; `AUGMENTATIONS` is the list of ways.

What is made of the sample `clip_3` by `frame_jitter` has the id `clip_3~frame_jitter`, by which it is told from
others; samples made elsewhere are named so too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset

from data_builders.arrow_rows import row_batches, rows_to_table
from data_builders.columns import modality_rows, modality_sizes, read_columns, row_counts, rows_of
from data_builders.rows import Row

from ..training.encoding import compute_feature_statistics


MADE_OF = "~"
# Labels so near to each other count as the same.
SAME_LABEL = 0.2
_SHARE_OF_WORDS = 0.1
_SHARE_OF_DEVIATION = 0.1
# Columns of a row with one value a word, besides modalities.
_BY_WORD = ("words", "word_start", "word_end")


@dataclass(frozen=True)
class Material:
    """What samples are made of beside their own row.

    Attributes:
        labels: (N,), those of the split.
        deviations: (d_m,) by modality that any sample has, the standard deviations of its features over all words.
        voices: N arrays (n, d_a), the features of the modality `acoustic`; empty without it.
    """

    labels: np.ndarray
    deviations: dict[str, np.ndarray]
    voices: list[np.ndarray]


Augmentation = Callable[[Row, int, Material, np.random.Generator], Row | None]


def drop_words(row: Row, place: int, material: Material, generator: np.random.Generator) -> Row | None:
    """Leaves out each tenth word with what was measured while it was spoken; at least one, and not all."""
    number = len(row["words"])
    if number < 2:
        return None
    kept = generator.random(number) >= _SHARE_OF_WORDS
    if kept.all():
        kept[generator.integers(number)] = False
    if not kept.any():
        kept[generator.integers(number)] = True
    columns = [name for name in (*_BY_WORD, *material.deviations) if name in row and len(row[name]) == number]
    return row | {name: _at(row[name], np.flatnonzero(kept)) for name in columns}


def jitter_frames(row: Row, place: int, material: Material, generator: np.random.Generator) -> Row | None:
    """Adds normal noise of a tenth of each feature's standard deviation to all modalities but text."""
    noisy = {
        name: row[name] + _SHARE_OF_DEVIATION * deviation * generator.standard_normal(row[name].shape)
        for name, deviation in material.deviations.items()
        if len(row[name])
    }
    return row | noisy if noisy else None


def exchange_voice(row: Row, place: int, material: Material, generator: np.random.Generator) -> Row | None:
    """Gives a sample the voice of another one of the same label, stretched to its words."""
    if not material.voices or not len(row["acoustic"]):
        return None
    near = np.abs(material.labels - material.labels[place]) <= SAME_LABEL
    near &= np.array([len(voice) > 0 for voice in material.voices])
    near[place] = False
    if not near.any():
        return None
    voice, number = material.voices[generator.choice(np.flatnonzero(near))], len(row["acoustic"])
    moments = (np.arange(number) + 0.5) * len(voice) / number
    return row | {"acoustic": voice[moments.astype(int)]}


# By the name that `--augment` gives it.
AUGMENTATIONS: dict[str, Augmentation] = {
    "word_drop": drop_words,
    "frame_jitter": jitter_frames,
    "voice_exchange": exchange_voice,
}


def augmented(split: Dataset, name: str, *, seed: int = 0) -> Dataset:
    """One sample more for each sample of a split from which the augmentation can make one.

    Args:
        split: N labelled samples in the row format.
        name: A name of `AUGMENTATIONS`.
        seed: Seed of what is drawn for each sample.

    Returns:
        At most N samples with the columns of the split; labels and videos are those of the originals.
    """
    tables = [rows_to_table(batch, split.features)[0] for batch in row_batches(_rows(split, name, seed))]
    schema = split.features.arrow_schema
    made = Dataset(pa.concat_tables(tables) if tables else schema.empty_table(), info=split.info.copy())
    return made.cast(split.features)


def original_places(ids: list[str]) -> np.ndarray:
    """The place (N,) of the sample that each sample was made of; -1 for one that was not made of another one."""
    places = {name: place for place, name in enumerate(ids)}
    return np.array([places.get(name.rpartition(MADE_OF)[0], -1) for name in ids])


def _rows(split: Dataset, name: str, seed: int) -> Iterator[Row]:
    modalities = [modality for modality in modality_sizes(split) if row_counts(split, modality).any()]
    statistics = {modality: compute_feature_statistics(modality_rows(split, modality)) for modality in modalities}
    material = Material(
        labels=np.concatenate([table["label"].to_numpy() for table in read_columns(split, ["label"])]),
        deviations={modality: np.array(each["std"]) for modality, each in statistics.items()},
        voices=list(modality_rows(split, "acoustic")) if "acoustic" in modalities else [],
    )
    place = 0
    for table in read_columns(split, split.column_names):
        for row in rows_of(table):
            generator = np.random.default_rng((seed, place))
            if (made := AUGMENTATIONS[name](row, place, material, generator)) is not None:
                yield made | {"id": f"{row['id']}{MADE_OF}{name}"}
            place += 1


def _at(values: list | np.ndarray, places: np.ndarray) -> list | np.ndarray:
    return values[places] if isinstance(values, np.ndarray) else [values[place] for place in places]


__all__ = ["AUGMENTATIONS", "MADE_OF", "SAME_LABEL", "augmented", "original_places"]
