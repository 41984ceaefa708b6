"""Where the models of an experiment err: by length, by label, by which modality alone is right or best, and the worst.

It needs what stays on the machine: the tables of predictions beside the records, and the data.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import DatasetDict

from data_builders.columns import read_columns
from data_builders.files import DataError, broken_files_are_data_errors, replacing_file

from ..experiments.assembly import load_data
from ..task_cpsl import sentiment_class
from .preferred_subsets import preferred_by_sample, subset_report
from .records import FINISHED, predictions_path, read_records
from .specification import PlannedRun, Specification, saved_specification
from .tables import table_lines


ERRORS_FILE = "errors.md"
NUM_WORST = 20
_NUM_LENGTHS = 4
_LONGEST_TEXT = 200


def write_error_analysis(folder: Path, *, split: str = "test") -> Path:
    """Writes `errors.md`, in which each row of the experiment is a column. It has ids and words of the data.

    Args:
        folder: The `output_dir` of an experiment.
        split: The split to look at.

    Returns:
        The file.

    Raises:
        ValueError: A table of predictions or the data is not there, or of other samples.
    """
    specification = saved_specification(folder)
    data = _data(specification, folder)
    words = _words_by_id(data)
    predictions = {}
    records = [record for record in read_records(folder) if record["status"] == FINISHED]
    for row in specification.rows:
        if tables := [_predictions(folder, record, split) for record in records if record["row"] == row]:
            predictions[row] = pd.concat(tables, ignore_index=True)
    if not predictions:
        raise DataError(f"{folder}: no run has finished yet")
    if unknown := {name for table in predictions.values() for name in table["id"]} - words.keys():
        raise DataError(
            f"{folder}: the data has no sample {min(unknown)!r}, which was predicted; it is not that of the trainings"
        )
    subsets = _preferred_subsets(data, predictions, specification)
    with replacing_file(folder / ERRORS_FILE) as path:
        path.write_text(_text(predictions, words, subsets, split), encoding="utf-8")
    return folder / ERRORS_FILE


def _text(
    predictions: Mapping[str, pd.DataFrame], words: Mapping[str, list[str]], subsets: list[str], split: str
) -> str:
    lengths = pd.Series({name: len(words[name]) for table in predictions.values() for name in table["id"]})
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _NUM_LENGTHS + 1)).round().astype(int))
    parts = [
        f"Mean absolute errors on the {split} split, over all runs of a row. Ids and words of the data stand here: "
        "this file is not to be published.",
        "By number of words:",
        _by("words", predictions, lambda table: _ranges(lengths[table["id"]].to_numpy(), edges)),
        "By class of the label:",
        _by("label", predictions, lambda table: [f"{value:+d}" if value else "0" for value in _classes(table)]),
        "By the modalities whose own prediction has the label's sign (0 counts as positive), with their share of the "
        "samples:",
        _by("right alone", _with_unimodal(predictions), _right_alone, shares=True),
        *subsets,
        f"The {NUM_WORST} samples with the largest error, a mean over all rows and runs; the columns of rows have the "
        "mean prediction:",
        _worst(predictions, words),
    ]
    return "\n\n".join(parts) + "\n"


def _by(
    title: str,
    predictions: Mapping[str, pd.DataFrame],
    group: Callable[[pd.DataFrame], Any],
    *,
    shares: bool = False,
) -> str:
    """A table of MAE with a line a group of samples, and a column a row of the experiment."""
    columns, counts = {}, {}
    for row, table in predictions.items():
        errors = (table["prediction"] - table["label"]).abs().groupby(np.asarray(group(table)))
        columns[row], counts[row] = errors.mean(), errors.size() / len(table)
    if not columns:
        return "No row has predictions from one modality alone."
    means, parts = pd.DataFrame(columns), pd.DataFrame(counts)
    lines = []
    for name in sorted(means.index, key=_number_first):
        cells = [
            ""
            if np.isnan(means.loc[name, row])
            else f"{means.loc[name, row]:.3f}" + (f" ({parts.loc[name, row]:.0%})" if shares else "")
            for row in columns
        ]
        lines.append([str(name), *([] if shares else [f"{parts.loc[name].max():.0%}"]), *cells])
    return table_lines([title, *([] if shares else ["share"]), *columns], lines)


def _number_first(name: str) -> tuple[float, str]:
    """Ranges and classes in the order of their numbers, other names by length and alphabet."""
    first = name.split(" ")[0]
    is_number = first.lstrip("+-").isdecimal()
    return (float(first) if is_number else name.count("+"), name)


def _ranges(lengths: np.ndarray, edges: np.ndarray) -> list[str]:
    """The range of each length: from one edge to just below the next, the last edge included."""
    lows = edges[:-1] if len(edges) > 1 else edges
    highs = [*(edges[1:-1] - 1), edges[-1]]
    names = [f"{low}" if low == high else f"{low} to {high}" for low, high in zip(lows, highs, strict=True)]
    positions = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, len(names) - 1)
    return [names[position] for position in positions]


def _classes(table: pd.DataFrame) -> list[int]:
    return sentiment_class(table["label"].to_numpy()).astype(int).tolist()


def _with_unimodal(predictions: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {row: table for row, table in predictions.items() if _heads(table)}


def _heads(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if name.startswith("prediction_")]


def _right_alone(table: pd.DataFrame) -> list[str]:
    heads = _heads(table)
    # A sample that lacks a modality has no prediction from it, which then is not right.
    right = np.stack([(table[head] >= 0) == (table["label"] >= 0) for head in heads], axis=1)
    right &= table[heads].notna().to_numpy()
    names = [head.removeprefix("prediction_") for head in heads]
    return ["+".join(np.array(names)[flags]) or "none" for flags in right]


def _worst(predictions: Mapping[str, pd.DataFrame], words: Mapping[str, list[str]]) -> str:
    together = pd.concat([table.assign(row=row) for row, table in predictions.items()])
    together["error"] = (together["prediction"] - together["label"]).abs()
    samples = together.groupby("id").agg(error=("error", "mean"), label=("label", "first"))
    means = together.pivot_table(index="id", columns="row", values="prediction")
    lines = []
    for name, sample in samples.nlargest(NUM_WORST, "error").iterrows():
        text = " ".join(words[str(name)])
        text = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."
        predicted = [f"{means.loc[name, row]:+.2f}" for row in predictions]
        lines.append([_cell(str(name)), f"{sample['error']:.2f}", f"{sample['label']:+.1f}", *predicted, _cell(text)])
    return table_lines(["id", "error", "label", *predictions, "words"], lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _predictions(folder: Path, record: Mapping[str, Any], split: str) -> pd.DataFrame:
    path = predictions_path(folder, PlannedRun(record["row"], record["seed"], record["fold"]), split)
    if not path.is_file():
        raise DataError(f"{path}: there is no such table of predictions, and the error analysis needs it")
    with broken_files_are_data_errors(path, "table of predictions", "remove its record and run the experiment again"):
        table = pd.read_parquet(path)
        return table[["id", "label", "prediction", *_heads(table)]]


def _data(specification: Specification, folder: Path) -> Any:
    """The data as it is, with the modalities that any row reads: with folds, each sample of it is tested."""
    runs = [run for run in specification.planned_runs() if run.seed == specification.seeds[0] and not run.fold]
    recipes = [specification.recipe(run, folder / "unused").data for run in runs]
    names = [recipe.modality_names for recipe in recipes]
    wanted = None if None in names else ",".join(dict.fromkeys(name for own in names for name in own or ()))
    return load_data(replace(recipes[0], fold=None, modalities=wanted, train_share=1.0))


def _words_by_id(data: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for split in data.values():
        for table in read_columns(split, ["id", "words"]):
            found |= dict(zip(table["id"].to_pylist(), table["words"].to_pylist(), strict=True))
    return found


def _preferred_subsets(data: Any, predictions: Mapping[str, pd.DataFrame], specification: Specification) -> list[str]:
    if not isinstance(data, DatasetDict):
        return ["By preferred modality: left out, since the data is streamed."]
    try:
        samples = preferred_by_sample(data.values(), specification.group)
    except ValueError as error:
        return [f"By preferred modality: left out. {error}"]
    return subset_report(samples, predictions, specification.reference)


__all__ = ["ERRORS_FILE", "write_error_analysis"]
