"""Weights of samples that were made of others, by how much a model that never saw them trusts them (DaQ-style).

DaQ-MSA (arXiv:2601.06870), of which only the abstract is known, weighs augmented samples by a score of their quality.
This score is ours.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from scipy.spatial.distance import pdist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data_builders import load_aligned_dataset
from data_builders.columns import read_columns
from data_builders.conversion import write_parquet
from data_builders.files import DataError, check_at_least_1

from ..experiments.console import quiet_libraries
from ..experiments.loading import check_sentiment, load_config, load_pipeline
from ..training.collation import CPSLDataCollator
from ..training.encoding import encode_dataset
from ..training.labels import label_statistics
from .augmentation import AUGMENTATIONS, MADE_OF, SAME_LABEL, augmented, original_places
from .decision_table import on_device
from .tables import table_lines


# Of more originals than these, distances are judged by a random part.
_MOST_COMPARED = 2000


def quality(errors: np.ndarray, distances: np.ndarray, error_scale: float, distance_scale: float) -> np.ndarray:
    r"""How good samples are that were made of others, in (0, 1]: \\(\exp(-error / tau) \exp(-distance / s)\\).

    Args:
        errors: (N,), absolute errors of a model that was trained on the originals alone.
        distances: (N,), how far that model's states are from those for the originals.
        error_scale: tau, the mean absolute deviation of the labels from their median.
        distance_scale: s, the median distance of two originals with the same label.
    """
    return np.exp(-errors / error_scale - distances / distance_scale)


@quiet_libraries()
def write_quality_weights(
    model: str,
    data: str,
    out: Path,
    *,
    augment: Sequence[str] = (),
    data_dir: str | None = None,
    format: str | None = None,
    seed: int = 0,
    batch_size: int = 32,
    device: str | None = None,
) -> str:
    """Writes a data set whose training samples have weights, and returns a table of them.

    Samples that were made of others, be it here or before, weigh as much as their quality over its mean; all others
    weigh what they did, by default 1. Other splits are left as they are.

    Args:
        model: Folder or Hub id of a CPSL model that was trained on the originals of the training split.
        data: Labelled data with the model's modalities.
        out: A new folder, of Parquet files.
        augment: Names of `AUGMENTATIONS`, by which samples are made of the originals.
        data_dir: As for [`load_aligned_dataset`].
        format: As for [`load_aligned_dataset`].
        seed: Seed of what is drawn.
        batch_size: Samples in a forward pass.
        device: As for `pipeline`.

    Raises:
        ValueError: The model or the data cannot be read, do not fit each other, or there is nothing to score.
        WriteError: A file could not be written.
    """
    check_at_least_1(batch_size=batch_size)
    config = load_config(model)
    check_sentiment(model, config, "the score of quality")
    if out.exists():
        raise DataError(f"{out}: exists already; give a new folder")
    modalities = [*(["text"] if config.use_text else []), *config.modality_sizes]
    dataset = load_aligned_dataset(data, data_dir=data_dir, format=format, modalities=modalities)
    assert isinstance(dataset, DatasetDict)
    if "train" not in dataset or not len(dataset["train"]):
        raise DataError(f"{data}: there is no training sample to make others of; name data with a split train")
    train = _with_made(dataset["train"], augment, seed)
    ids = [str(name) for table in read_columns(train, ["id"]) for name in table["id"].to_pylist()]
    places = original_places(ids)
    made = np.flatnonzero(places >= 0)
    if not len(made):
        raise DataError(
            f"{data}: no training sample was made of another one; give --augment {','.join(AUGMENTATIONS)}, or name "
            f"those that were after their originals, as clip_3{MADE_OF}noise is after clip_3"
        )
    labels = np.concatenate([table["label"].to_numpy() for table in read_columns(train, ["label"])]).astype(float)
    predictions, states = _predict(load_pipeline(model, device), train, batch_size)
    originals = np.flatnonzero(places < 0)
    scores = quality(
        np.abs(predictions[made] - labels[made]),
        np.linalg.norm(states[made] - states[places[made]], axis=1),
        label_statistics(train.select(originals)).deviation,
        _distance_of_same_label(states[originals], labels[originals], seed),
    )
    weights = _weights_of(train)
    weights[made] = scores / scores.mean()
    splits = {name: _weighed(split, _weights_of(split)) for name, split in dataset.items()}
    write_parquet(DatasetDict(splits | {"train": _weighed(train, weights)}), out)
    kinds = np.array([ids[place].rpartition(MADE_OF)[2] for place in made])
    return _table(kinds, weights[made], len(originals))


def _with_made(train: Dataset, augment: Sequence[str], seed: int) -> Dataset:
    """A split with the samples that are made of its originals."""
    if unknown := [name for name in augment if name not in AUGMENTATIONS]:
        raise DataError(f"--augment {unknown[0]} is not one of {', '.join(AUGMENTATIONS)}")
    ids = [str(name) for table in read_columns(train, ["id"]) for name in table["id"].to_pylist()]
    originals = train.select(np.flatnonzero(original_places(ids) < 0))
    made = concatenate_datasets([train, *(augmented(originals, name, seed=seed) for name in augment)])
    made.info.config_name = train.info.config_name  # concatenation forgets it
    return made


def _predict(sentiment: Any, split: Dataset, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The predictions (N,), and the states (N, d) that the last layer reads."""
    model, processor = sentiment.model.eval(), sentiment.processor
    model.config.decision_weights = None  # the last layer's own prediction
    encoded: Any = encode_dataset({"split": split}, processor)["split"]
    predictions, states = [], []
    with torch.no_grad(), _inputs_of_last_layers(model.multimodal) as inputs:
        for batch in DataLoader(encoded, batch_size, collate_fn=CPSLDataCollator(processor)):
            inputs.clear()
            logits = model(**on_device({name: batch[name] for name in batch.keys() - {"ids"}}, model.device)).logits
            predictions.append(logits.float().cpu())
            states.append(next(read for made, read in inputs if torch.equal(made, logits)).float().cpu())
    return torch.cat(predictions).double().numpy(), torch.cat(states).double().numpy()


@contextlib.contextmanager
def _inputs_of_last_layers(regressor: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Within this context, what each layer of one output has made, (B,), and what it has read, (B, d)."""
    found: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((output.squeeze(-1), inputs[0]))

    layers = [module for module in regressor.modules() if isinstance(module, nn.Linear) and module.out_features == 1]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _distance_of_same_label(states: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """The median distance of two samples of the same label, above 0."""
    if len(labels) > _MOST_COMPARED:
        drawn = np.random.default_rng(seed).choice(len(labels), _MOST_COMPARED, replace=False)
        states, labels = states[drawn], labels[drawn]
    distances = pdist(states)[pdist(labels[:, None]) <= SAME_LABEL]
    if not len(distances) or not np.median(distances) > 0:
        raise DataError(
            f"train split: no two originals have labels within {SAME_LABEL} of each other and states that differ, by "
            "which distances are judged; give more of them, or another model"
        )
    return float(np.median(distances))


def _weights_of(split: Dataset) -> np.ndarray:
    """The weights (N,) that samples have, by default 1."""
    if "weight" not in split.column_names:
        return np.ones(len(split))
    return np.concatenate([table["weight"].to_numpy() for table in read_columns(split, ["weight"])]).astype(float)


def _weighed(split: Dataset, weights: np.ndarray) -> Dataset:
    """A split with a column of these weights."""
    rest = split.remove_columns("weight") if "weight" in split.column_names else split
    weighed = rest.add_column("weight", weights.astype(np.float32))
    weighed.info.config_name = split.info.config_name
    return weighed


def _table(kinds: np.ndarray, weights: np.ndarray, num_originals: int) -> str:
    """The weights of samples by what they were made by."""
    rows = []
    for kind in np.unique(kinds):
        own = weights[kinds == kind]
        low, middle, high = np.quantile(own, [0.1, 0.5, 0.9])
        rows.append([str(kind), str(len(own)), f"{own.mean():.2f}", f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}"])
    header = ["made by", "samples", "mean weight", "10%", "50%", "90%"]
    return f"{num_originals} originals, and of them:\n\n" + table_lines(header, rows)


__all__ = ["quality", "write_quality_weights"]
