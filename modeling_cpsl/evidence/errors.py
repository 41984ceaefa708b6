"""Where the models of an experiment err: by length, by label, by which modality alone is right or best, and the worst.

It needs what stays on the machine: the tables of predictions beside the records, and the data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import DatasetDict

from data_builders.columns import read_columns
from data_builders.files import DataError, broken_files_are_data_errors, replacing_file
from data_builders.labels import label_text

from ..class_task_cpsl import ClassTask, LabelSetTask
from ..experiments.assembly import load_data
from ..experiments.prediction_tables import predictions_and_labels
from ..task_cpsl import SIMS_CLASSES, Task, sentiment_class, sims_class
from .preferred_subsets import preferred_by_sample, subset_report
from .records import FINISHED, predictions_path, read_records, split_to_report, task_of_record
from .specification import PlannedRun, Specification, saved_specification
from .tables import table_lines


ERRORS_FILE = "errors.md"
NUM_WORST, NUM_CONFUSIONS = 20, 10
_NUM_LENGTHS = 4
_LONGEST_TEXT = 200
_NO_CLASS = "none"  # as a label that has none of several classes is shown


def write_error_analysis(folder: Path, *, split: str | None = None) -> Path:
    """Writes `errors.md`, in which each row of the experiment is a column. It has ids and words of the data.

    Args:
        folder: The `output_dir` of an experiment.
        split: The split to look at. Default: test, or validation without one.

    Returns:
        The file.

    Raises:
        ValueError: A table of predictions or the data is not there, or of other samples.
    """
    specification = saved_specification(folder)
    records = [record for record in read_records(folder) if record["status"] == FINISHED]
    if not records:
        raise DataError(f"{folder}: no run has finished yet")
    split = split or split_to_report(records)
    task, predictions = task_of_record(records[0]), {}
    for row in specification.rows:
        if tables := [_predictions(folder, record, split, task) for record in records if record["row"] == row]:
            predictions[row] = pd.concat(tables, ignore_index=True)
    data = _data(specification, folder)
    words = _words_by_id(data)
    if unknown := {name for table in predictions.values() for name in table["id"]} - words.keys():
        raise DataError(
            f"{folder}: the data has no sample {min(unknown)!r}, which was predicted; it is not that of the trainings"
        )
    subsets = _preferred_subsets(data, predictions, specification, task)
    with replacing_file(folder / ERRORS_FILE) as path:
        path.write_text(_text(predictions, words, subsets, split, task), encoding="utf-8")
    return folder / ERRORS_FILE


def _text(
    predictions: Mapping[str, pd.DataFrame],
    words: Mapping[str, list[str]],
    subsets: list[str],
    split: str,
    task: Task,
) -> str:
    lengths = pd.Series({name: len(words[name]) for table in predictions.values() for name in table["id"]})
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _NUM_LENGTHS + 1)).round().astype(int))
    parts = [
        f"{_errors_are(task)} on the {split} split, over all runs of a row. Ids and words of the data stand here: "
        "this file is not to be published.",
        "By number of words:",
        _by("words", predictions, lambda table: _ranges(lengths[table["id"]].to_numpy(), edges)),
        *_by_label(predictions, task),
        *_by_what_is_right_alone(predictions, task),
        *subsets,
        f"The {NUM_WORST} samples with the largest error, a mean over all rows and runs; the columns of rows have the "
        f"{'most frequent' if _is_of_classes(task) else 'mean'} prediction:",
        _worst(predictions, words, task),
    ]
    return "\n\n".join(parts) + "\n"


def _is_of_classes(task: Task) -> bool:
    return isinstance(task, ClassTask | LabelSetTask)


def _errors_are(task: Task) -> str:
    if isinstance(task, ClassTask):
        return "Mean errors (1 - the probability of the label)"
    if isinstance(task, LabelSetTask):
        return "Mean errors (1 - the probability of what the label says of a class, the mean over classes)"
    return "Mean absolute errors" + ("" if task.is_one_number else f" (means over {', '.join(task.names)})")


def _by_label(predictions: Mapping[str, pd.DataFrame], task: Task) -> list[str]:
    if task.is_sentiment:
        return ["By class of the label:", _by("label", predictions, _classes)]
    if isinstance(task, ClassTask):
        return [
            "By label:",
            _by("label", predictions, lambda table: table["label"], order=task.names),
            f"The {NUM_CONFUSIONS} most frequent mistakes, as shares of all samples:",
            _confusions(predictions),
        ]
    if isinstance(task, LabelSetTask):
        each = {row: _a_row_a_class(table) for row, table in predictions.items()}
        return [
            "By class that the label has, of which there may be several:",
            _by("label", each, lambda table: table["label"], order=[*task.names, _NO_CLASS]),
        ]
    if task.is_sims:
        names = np.array(SIMS_CLASSES)
        return [
            "By the part of the scale that the label lies in:",
            _by("label", predictions, lambda table: names[sims_class(table["label"])], order=SIMS_CLASSES),
        ]
    return ["By label: left out, since the points of its scale have no names."]


def _a_row_a_class(table: pd.DataFrame) -> pd.DataFrame:
    """A table in which a sample stands once for each class that it has."""
    return table.assign(label=table["label"].replace("", _NO_CLASS).str.split("; ")).explode("label")


def _confusions(predictions: Mapping[str, pd.DataFrame]) -> str:
    shares = {}
    for row, table in predictions.items():
        wrong = table[table["prediction"] != table["label"]]
        shares[row] = wrong.groupby(["label", "prediction"]).size() / len(table)
    together = pd.DataFrame(shares).fillna(0.0)
    most = together.loc[together.mean(axis=1).nlargest(NUM_CONFUSIONS).index]
    lines = [
        [_cell(label), _cell(taken), *(f"{share:.1%}" for share in found)]
        for (label, taken), found in zip(most.index, most.to_numpy(), strict=True)
    ]
    return table_lines(["label", "taken for", *shares], lines)


def _by_what_is_right_alone(predictions: Mapping[str, pd.DataFrame], task: Task) -> list[str]:
    if task.is_sentiment:
        right = "has the label's sign (0 counts as positive)"
    elif _is_of_classes(task):
        right = "is the label"
    else:
        return ["By the modalities whose own prediction is right: left out, since numbers are not right or wrong."]
    with_heads = {row: table for row, table in predictions.items() if _heads(table)}
    return [
        f"By the modalities whose own prediction {right}, with their share of the samples:",
        _by("right alone", with_heads, lambda table: _right_alone(table, task), shares=True),
    ]


def _by(
    title: str,
    predictions: Mapping[str, pd.DataFrame],
    group: Callable[[pd.DataFrame], Any],
    *,
    shares: bool = False,
    order: Sequence[str] | None = None,
) -> str:
    """A table of mean errors with a line a group of samples, in this order, and a column a row of the experiment."""
    columns, counts = {}, {}
    for row, table in predictions.items():
        errors = table["error"].groupby(np.asarray(group(table)))
        # A sample of several classes stands in several rows with one index.
        columns[row], counts[row] = errors.mean(), errors.size() / table.index.nunique()
    if not columns:
        return "No row has predictions from one modality alone."
    means, parts = pd.DataFrame(columns), pd.DataFrame(counts)
    lines = []
    for name in sorted(means.index, key=_number_first if order is None else order.index):
        cells = [
            ""
            if np.isnan(means.loc[name, row])
            else f"{means.loc[name, row]:.3f}" + (f" ({parts.loc[name, row]:.0%})" if shares else "")
            for row in columns
        ]
        lines.append([_cell(str(name)), *([] if shares else [f"{parts.loc[name].max():.0%}"]), *cells])
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


def _classes(table: pd.DataFrame) -> list[str]:
    classes = sentiment_class(table["label"].to_numpy()).astype(int).tolist()
    return [f"{value:+d}" if value else "0" for value in classes]


def _heads(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if name.startswith("prediction_")]


def _right_alone(table: pd.DataFrame, task: Task) -> list[str]:
    heads = _heads(table)
    said = table if _is_of_classes(task) else table[["label", *heads]] >= 0
    # A sample that lacks a modality has no prediction from it, which then is not right.
    right = np.stack([said[head] == said["label"] for head in heads], axis=1)
    right &= table[heads].notna().to_numpy()
    names = [head.removeprefix("prediction_") for head in heads]
    return ["+".join(np.array(names)[flags]) or "none" for flags in right]


def _worst(predictions: Mapping[str, pd.DataFrame], words: Mapping[str, list[str]], task: Task) -> str:
    together = pd.concat([table.assign(row=row) for row, table in predictions.items()])
    lines = []
    for name, error in together.groupby("id")["error"].mean().nlargest(NUM_WORST).items():
        own = together[together["id"] == name]
        text = " ".join(words[str(name)])
        text = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."
        predicted = [_shown(own[own["row"] == row], "prediction", task) for row in predictions]
        cells = [_shown(own, "label", task), *predicted, text]
        lines.append([_cell(str(name)), f"{error:.2f}", *map(_cell, cells)])
    return table_lines(["id", "error", "label", *predictions, "words"], lines)


def _shown(own: pd.DataFrame, column: str, task: Task) -> str:
    """The label of a sample, or what is predicted of it: the mean of numbers, or the most frequent classes."""
    if own.empty:
        return ""
    if _is_of_classes(task):
        return str(own[column].mode().iloc[0]) or _NO_CLASS
    if not task.is_one_number:
        return label_text({name: float(own[f"{column}_{name}"].mean()) for name in task.names})
    return f"{own[column].mean():{'+.1f' if task.is_sentiment and column == 'label' else '+.2f'}}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _predictions(folder: Path, record: Mapping[str, Any], split: str, task: Task) -> pd.DataFrame:
    """A table of predictions, with the `error` of each."""
    path = predictions_path(folder, PlannedRun(record["row"], record["seed"], record["fold"]), split)
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such table of predictions; an error analysis needs these tables and the data, which "
            "stay on the machine of the runs: ask for it there, or leave --errors out"
        )
    with broken_files_are_data_errors(path, "table of predictions", "remove its record and run the experiment again"):
        table = pd.read_parquet(path)
        values = map(torch.from_numpy, predictions_and_labels(table, task))
        return table.assign(error=task.distance(*values).numpy())


def _data(specification: Specification, folder: Path) -> Any:
    """All of the data, with the modalities that any row reads: with folds, each sample of it is tested."""
    runs = [run for run in specification.planned_runs() if run.seed == specification.seeds[0] and not run.fold]
    recipes = [specification.recipe(run, folder / "unused").data for run in runs]
    names = [recipe.modality_names for recipe in recipes]
    wanted = None if None in names else ",".join(dict.fromkeys(name for own in names for name in own or ()))
    return load_data(replace(recipes[0], modalities=wanted, train_share=1.0, test_split=True))


def _words_by_id(data: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for split in data.values():
        for table in read_columns(split, ["id", "words"]):
            found |= dict(zip(table["id"].to_pylist(), table["words"].to_pylist(), strict=True))
    return found


def _preferred_subsets(
    data: Any, predictions: Mapping[str, pd.DataFrame], specification: Specification, task: Task
) -> list[str]:
    if not task.is_one_number:
        return ["By preferred modality: left out, since labels are not one number."]
    if not isinstance(data, DatasetDict):
        return ["By preferred modality: left out, since the data is streamed."]
    try:
        samples = preferred_by_sample(data.values(), specification.group)
    except ValueError as error:
        return [f"By preferred modality: left out. {error}"]
    return subset_report(samples, predictions, specification.reference)


__all__ = ["ERRORS_FILE", "write_error_analysis"]
