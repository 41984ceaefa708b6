"""A record of a run: one JSON file from which every table and figure is made, without anybody's data in it."""

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pandas as pd

from data_builders.columns import read_columns
from data_builders.files import DataError, broken_files_are_data_errors, replacing_file

from ..experiments.assembly import load_data
from ..experiments.label_formats import task_fields, task_of_fields
from ..experiments.prediction_tables import predictions_and_labels
from ..experiments.recipe import Recipe
from ..experiments.records import RECORDS, read_log, read_predictions, read_resolved_config, without_paths
from ..task_cpsl import Task
from .group_sums import without_small_groups
from .specification import PlannedRun
from .task_sums import sum_names, task_sums


TABLE_OF_RECORDS = "records.parquet"
FINISHED, FAILED = "finished", "failed"
_SALT_FILE = ".salt"


def record_path(folder: str | os.PathLike, run: PlannedRun) -> Path:
    """Where an experiment's folder has the record of a run."""
    return Path(folder, RECORDS, f"{run.name}.json")


def predictions_path(folder: str | os.PathLike, run: PlannedRun, split: str) -> Path:
    """Where an experiment's folder has the predictions of a run on a split."""
    return Path(folder, RECORDS, f"{run.name}.{split}.parquet")


def finished_record(
    run: PlannedRun, options: dict[str, Any], recipe: Recipe, results: dict[str, float], folder: Path, seconds: float
) -> dict[str, Any]:
    """The record of a run that has finished; its predictions are copied beside where the record will be.

    Args:
        run: The run.
        options: The options of its row.
        recipe: Its recipe.
        results: What [`run_recipe`] returned.
        folder: The experiment's folder.
        seconds: How long it took.
    """
    run_folder = Path(recipe.training.output_dir)
    resolved = read_resolved_config(run_folder)
    versions = resolved.pop("versions", {})
    test_splits = load_data(recipe.data)
    labels = task_fields(test_splits["train"].features)
    task, groups, tables = task_of_fields(labels), {}, {}
    for split in (name for name in test_splits if name != "train"):
        path = predictions_path(folder, run, split)
        with replacing_file(path) as unfinished:
            shutil.copyfile(run_folder / f"predictions_{split}.parquet", unfinished)
        tables[split] = path.name
        predictions = read_predictions(run_folder, split)
        names = _hashed_groups(predictions["id"], test_splits[split], recipe.data.fold_group, _salt(folder))
        groups[split] = task_sums(*predictions_and_labels(predictions, task), without_small_groups(names), task)
    return {
        "row": run.row,
        "seed": run.seed,
        "fold": run.fold,
        "status": FINISHED,
        "options": without_paths(options),
        "recipe": without_paths(resolved),
        "versions": versions,
        "metrics": {name: value for name, value in results.items() if name.split("_", 1)[0] in tables},
        "predictions": tables.get("test", next(iter(tables.values()))),
        "seconds": round(seconds, 1),
        "parameters": _number_of_parameters(run_folder),
        "curves": read_log(run_folder),
        "labels": labels,
        "sum_names": sum_names(task),
        "group_sums": groups,
    }


def failed_record(run: PlannedRun, options: dict[str, Any], error: str, log: str) -> dict[str, Any]:
    """The record of a run that has failed.

    Args:
        run: The run.
        options: The options of its row.
        error: What went wrong, on one line.
        log: The file, relative to the experiment's folder, with what it printed.
    """
    return {
        "row": run.row,
        "seed": run.seed,
        "fold": run.fold,
        "status": FAILED,
        "options": without_paths(options),
        "error": error,
        "log": log,
    }


def write_record(record: dict[str, Any], path: Path) -> None:
    """Writes a record; a number that is not finite becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as unfinished:
        unfinished.write_text(json.dumps(_finite(record), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """What [`write_record`] wrote; DataError where the file holds something else."""
    with broken_files_are_data_errors(path, "record of a run", "remove it and run the experiment again"):
        record = json.loads(path.read_text(encoding="utf-8"))
        PlannedRun(str(record["row"]), int(record["seed"]), record["fold"])
        if record["status"] == FINISHED and record["sum_names"] != sum_names(task_of_record(record)):
            raise DataError(f"{path}: its sums are those of another version; remove it and run the experiment again")
    return record


def task_of_record(record: Mapping[str, Any]) -> Task:
    """What the labels of a finished run are; a record that does not say so is one of sentiments."""
    return task_of_fields(record.get("labels", {}))


def read_records(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """All records of an experiment's folder, in the order of their names.

    Raises:
        DataError: There is none, or one is damaged.
    """
    paths = sorted(_record_paths(folder))
    if not paths:
        raise DataError(f"{folder}: no record in {Path(folder, RECORDS)}; name the output_dir of `cpsl experiment`")
    return [read_record(path) for path in paths]


def has_finished_run(folder: str | os.PathLike) -> bool:
    """Whether a run of an experiment has finished."""
    return any(read_record(path)["status"] == FINISHED for path in _record_paths(folder))


def split_to_report(records: Iterable[Mapping[str, Any]]) -> str:
    """The test split; where no run has one, the validation split."""
    splits = {split for record in records if record["status"] == FINISHED for split in record["group_sums"]}
    return "validation" if splits == {"validation"} else "test"


def _record_paths(folder: str | os.PathLike) -> list[Path]:
    # What begins with a dot is being written by another process.
    return [path for path in Path(folder, RECORDS).glob("*.json") if not path.name.startswith(".")]


def write_table_of_records(records: Sequence[dict[str, Any]], folder: str | os.PathLike) -> None:
    """Writes `records.parquet`: a row a run, with every metric in a column of its own."""
    rows = [
        {name: record.get(name) for name in ("row", "seed", "fold", "status", "error", "seconds", "parameters")}
        | {name: math.nan if value is None else value for name, value in record.get("metrics", {}).items()}
        for record in records
    ]
    with replacing_file(Path(folder, TABLE_OF_RECORDS)) as path:
        pd.DataFrame(rows).astype({"fold": "Int64"}).to_parquet(path, index=False)


def _hashed_groups(ids: Iterable[str], samples: Any, group: str, salt: bytes) -> list[str]:
    """The salted hash of the group of each of these samples."""
    group_of: dict[str, str] = {}
    for table in read_columns(samples, ["id", group]):
        group_of |= dict(zip(table["id"].to_pylist(), table[group].to_pylist(), strict=True))
    return [blake2b(str(group_of[name]).encode(), key=salt, digest_size=8).hexdigest() for name in ids]


def _salt(folder: Path) -> bytes:
    """The experiment's own random salt, which stays on the machine: groups have the same hashes in all its records."""
    path = folder / _SALT_FILE
    try:
        with path.open("xb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    return path.read_bytes()


def _number_of_parameters(run_folder: Path) -> int:
    from safetensors import safe_open

    total = 0
    for path in run_folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as weights:
            names = weights.keys()
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    return total


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = [
    "FAILED",
    "FINISHED",
    "failed_record",
    "finished_record",
    "has_finished_run",
    "predictions_path",
    "read_record",
    "read_records",
    "record_path",
    "split_to_report",
    "task_of_record",
    "write_record",
    "write_table_of_records",
]
