"""`cpsl diagnose`: the decision of a trained model as JSON, as tables and as a picture."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from data_builders import load_aligned_dataset
from data_builders.columns import read_columns
from data_builders.files import DataError, check_at_least_1, replacing_files

from ..experiments.console import quiet_libraries
from ..experiments.loading import check_sentiment, load_config, load_pipeline
from .decision_table import DecisionTable, decision_table
from .diagnosis import NUM_DRAWS, diagnose
from .diagnosis_figure import plot_decision_layer
from .statistics import CONFIDENCE
from .tables import table_lines


JSON_FILE, TABLE_FILE, PLOT_FILE = "decision_layer.json", "decision_layer.md", "decision_layer.png"


@quiet_libraries()
def write_diagnosis(
    model: str,
    data: str,
    output_dir: Path,
    *,
    data_dir: str | None = None,
    format: str | None = None,
    group: str = "video_id",
    batch_size: int = 32,
    device: str | None = None,
) -> str:
    """Diagnoses the decision of a model on every split that it was not trained on, and returns the tables.

    Args:
        model: Folder or Hub id of a CPSL model.
        data: Labelled data with the model's modalities. MSE_0 is that of the mean label of its training split.
        output_dir: The folder for `decision_layer.json`, `.md` and `.png`; the picture is of the first split.
        data_dir: As for [`load_aligned_dataset`].
        format: As for [`load_aligned_dataset`].
        group: The column of what a sample is from; samples of a group are not independent.
        batch_size: Samples in a forward pass.
        device: As for `pipeline`.

    Raises:
        ValueError: The model or the data cannot be read, or do not fit each other.
        WriteError: A file could not be written.
    """
    check_at_least_1(batch_size=batch_size)
    config = load_config(model)
    check_sentiment(model, config, "the diagnosis")
    modalities = [*(["text"] if config.use_text else []), *config.modality_sizes]
    dataset = load_aligned_dataset(data, data_dir=data_dir, format=format, modalities=modalities, group=group)
    known = next(iter(dataset.values())).column_names
    if group not in ("video_id", *known):
        raise DataError(
            f"{data}: there is no column {group!r} to group by; name one of {', '.join(known)} with --group"
        )
    names = [name for name in dataset if name != "train"] or ["train"]
    sentiment = load_pipeline(model, device)
    found: dict[str, Any] = {}
    tables: dict[str, DecisionTable] = {}
    for name in names:
        if not len(dataset[name]):
            raise DataError(f"{data}: the {name} split is empty; give it samples or leave it out")
        mean = _mean_label(dataset["train"] if "train" in dataset else dataset[name])
        table = decision_table(sentiment, dataset[name], mean, group=group, batch_size=batch_size)
        found[name], tables[name] = diagnose(table, config.decision_weights) | {"mean_label": mean}, table
        found[name]["notes"] += _notes(name, "train" in dataset)
    text = markdown(found)
    with replacing_files(output_dir) as folder:
        (folder / JSON_FILE).write_text(json.dumps(_finite(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (folder / TABLE_FILE).write_text(text + "\n", encoding="utf-8")
        plot_decision_layer(tables[names[0]], found[names[0]], folder / PLOT_FILE, title=f"{names[0]} split")
    return text


def markdown(found: dict[str, Any]) -> str:
    """The tables of every split.

    Args:
        found: What [`diagnose`] returned, by split.
    """
    return "\n\n".join(part for name, diagnosis in found.items() for part in _of_split(name, diagnosis))


def _of_split(name: str, diagnosis: dict[str, Any]) -> list[str]:
    figures = diagnosis["figures"]
    design = (
        f"{diagnosis['num_samples']} samples of {diagnosis['num_groups']} groups; in brackets the "
        f"{CONFIDENCE:.0%} interval of {NUM_DRAWS} bootstrap draws of groups. A figure whose interval holds 0 is not "
        f"different from 0. MAE {_cell(figures['error']['mae'])}."
    )
    parts = [f"## {name}", design, *diagnosis["notes"]]
    use = dict(figures["use"])
    together = use.pop("all")
    parts += ["### What each modality is worth (skill)", _table(use, ("solo", "shapley", "last"))]
    parts.append("; ".join(f"{key} {_cell(value)}" for key, value in together.items()))
    parts += ["### Skill of each coalition", _table(figures["coalitions"])]
    if "where" in figures:
        where = {f"{key} of {name}": figure for key, of in figures["where"].items() for name, figure in _named(of)}
        parts += ["### Where the weight lies", _table(where)]
    parts += ["### Calibration", _table(figures["calibration"], ("slope", "skill", "spread", "corr"))]
    if "unused" in figures:
        parts += ["### What the decision leaves unused", _table(figures["unused"])]
    columns = list(dict.fromkeys(key for row in figures["classes"].values() for key in row))
    parts += ["### By class", _table(figures["classes"], columns, diagnosis["num_in_class"])]
    if "subsets" in figures:
        title = "### MAE by the modality whose head is nearest to the label"
        parts += [title, _table(figures["subsets"], ("fused", *figures["unused"])[:-1], diagnosis["num_in_subset"])]
    return [*parts, *_weights(diagnosis["decision_weights"])]


def _weights(weights: dict[str, Any]) -> list[str]:
    before, after = weights["before"], weights["after"]
    if after is None and not before:
        return []
    title = "### Decision weights" + (
        " that the model applies" if before else " that `--decision_weights` would fit here"
    )
    rows = [
        [name, candidate, *(f"{number:.2f}" for number in numbers)]
        for name, candidates in (before or after).items()
        for candidate, numbers in candidates.items()
    ]
    if not rows:
        return [title, "None: weights do not help on videos that they were not fitted on."]
    return [title, table_lines(["modalities", "prediction", "weight", "offset", "slope"], rows)]


def _named(figures: dict[str, Any]) -> list[tuple[str, Any]]:
    return [("the whole", figures)] if "value" in figures else list(figures.items())


def _table(rows: dict[str, Any], columns: Any = None, counts: dict[str, int] | None = None) -> str:
    """Rows of one figure each, or of the figures that columns name."""
    if columns is None:
        return table_lines(["", "value"], [[name, _cell(figure)] for name, figure in rows.items()])
    numbers = {name: [str(counts.get(name, 0))] if counts else [] for name in rows}
    lines = [
        [name, *numbers[name], *(_cell(row[key]) if key in row else "" for key in columns)]
        for name, row in rows.items()
    ]
    return table_lines(["", *(["samples"] if counts else []), *columns], lines)


def _cell(figure: dict[str, float]) -> str:
    if not math.isfinite(figure["value"]):
        return ""
    value, low, high = (f"{figure[key]:.3f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" if math.isfinite(figure["low"]) else value


def _mean_label(split: Any) -> float:
    return float(np.concatenate([table["label"].to_numpy() for table in read_columns(split, ["label"])]).mean())


def _notes(split: str, has_train: bool) -> list[str]:
    if split == "train":
        return ["There is no split but train: of samples that the model was trained on all this is too good."]
    return [] if has_train else ["There is no train split: skill is relative to the mean label of this split."]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["JSON_FILE", "PLOT_FILE", "TABLE_FILE", "markdown", "write_diagnosis"]
