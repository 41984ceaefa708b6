"""Search for better options with Optuna: each trial is a row of an experiment, judged on the validation split."""

import csv
import importlib
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_builders.files import DataError, broken_files_are_data_errors, replacing_file

from ..experiments.assembly import load_data
from ..experiments.label_formats import task_fields, task_of_fields
from ..experiments.plots import STYLE
from ..experiments.recipe import Recipe, parse_arguments, read_recipe, read_yaml
from ..experiments.records import is_experiment
from ..tasks_cpsl import SENTIMENT
from ..training.metrics import is_better_if_greater
from ..training.task_metrics import best_metric, judging_metric
from .records import read_record, record_path
from .running import check_no_run, run_experiment
from .search_space import read_space
from .specification import Specification, check_options


SEARCH_FILE, STORAGE_FILE = "search.yaml", "trials.journal"
TRIALS_FILE, BEST_FILE, IMPORTANCE_PLOT = "trials.csv", "best.yaml", "importance.png"
# Importance is told from this number of trials on.
_FEWEST_FOR_IMPORTANCE = 4
# Why a trial has no value.
_ERROR = "error"


def search(
    base: str,
    space_file: str | os.PathLike,
    output_dir: str | os.PathLike,
    num_trials: int,
    *,
    options: Sequence[str] = (),
    seed: int = 0,
    num_folds: int | None = None,
    workers: int = 1,
) -> str:
    """Searches over options of a recipe, and leaves `best.yaml`, `trials.csv` and `importance.png`.

    A trial's value is the recipe's `metric_for_best_model` on the validation split, or where it names none that of the
    kind of labels, with folds the mean over all validation folds; no test split is looked at. What each trial tries
    follows from the seed and the trials before it, so that a search that was interrupted, and is called again, goes on
    as if it had not been.

    Args:
        base: The recipe, a YAML file or the name of a packaged one.
        space_file: The options to search over, see [`read_space`].
        output_dir: Where everything is kept; records of the trials are those of an experiment.
        num_trials: Number of trials, those of earlier calls included.
        options: Options as on the command line of `cpsl train`, for all trials.
        seed: Seed of the search, and of every training.
        num_folds: For cross-validation, its number of folds.
        workers: Number of trainings at a time, of the folds of a trial.

    Returns:
        What was found, in words.

    Raises:
        ValueError: Something given is wrong, `output_dir` holds another search, or no trial has finished.
    """
    try:
        importlib.import_module("optuna")
    except ModuleNotFoundError as error:
        raise DataError(f"{error.name} is not installed; a search needs it: pip install 'cpsl[search]'") from None
    decided = {
        "resume_from_checkpoint": "leave it out, since the same command continues a search",
        "test_split": "leave it out, since a search leaves the test split alone",
    }
    if num_folds is not None:
        decided["fold"] = "leave it out, or --folds to judge by one fold"
    check_options(options, "command line", decided)
    folder = Path(output_dir)
    check_no_run(folder)
    if is_experiment(folder) and not (folder / SEARCH_FILE).is_file():
        raise DataError(f"output_dir {folder} holds an experiment; name another one")
    space = read_space(Path(space_file), base, options)
    recipe = read_recipe(base, arguments=options)
    data = load_data(recipe.data)
    if num_folds is None and "validation" not in data:
        raise DataError("a search is judged on the validation split, and the data has none; cut one with --folds 5")
    metric = _metric(recipe, data["train"])
    folds = None if num_folds is None else {"k": num_folds, "group": "video_id"}
    experiment = Specification(base, {}, [seed], "trial-0", folds, [*options])
    study = _study(experiment, space, folder, metric)
    while (number := len(_judged(study))) < num_trials:
        trial = _next_trial(study, space, seed, number)
        name = f"trial-{number}"
        rows = {name: trial.params}
        failed = run_experiment(_with_rows(experiment, rows), folder, workers=workers, quiet=True)
        if failed:
            reason = read_record(record_path(folder, failed[0]))["error"]
            _tell(study, trial, None, reason)
            continue
        value = _value(_with_rows(experiment, rows), folder, metric)
        _tell(study, trial, value, None)
        best = f", best {study.best_value:.4f}" if any(other.value is not None for other in _judged(study)) else ""
        print(f"{name}: validation {metric} {value:.4f}{best}, {trial.params}")
    return _conclude(study, experiment, folder, metric)


def _metric(recipe: Recipe, train: Any) -> str:
    """The metric that judges a trial, which is the one that picks the best epoch of a training."""
    default = best_metric(SENTIMENT)
    metric = recipe.training.metric_for_best_model or default
    if metric != default:
        return metric.removeprefix("eval_")
    return judging_metric(task_of_fields(task_fields(train.features)), default)


def _study(experiment: Specification, space: dict[str, Any], folder: Path, metric: str) -> Any:
    """The study of this folder, which goes on if it is of the same search."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    now = {
        "base": experiment.base,
        "seeds": experiment.seeds,
        "folds": experiment.folds,
        "options": experiment.options,
        "metric": metric,
        "space": {name: str(distribution) for name, distribution in space.items()},
    }
    path = folder / SEARCH_FILE
    if path.is_file():
        before = read_yaml(path)
        if changed := [name for name in now if before.get(name) != now[name]]:
            raise DataError(
                f"{path}: that search had another {changed[0]} ({before.get(changed[0])}, now {now[changed[0]]}); "
                "name another output_dir"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as unfinished:
        unfinished.write_text(yaml.safe_dump(now, sort_keys=False), encoding="utf-8")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = folder / STORAGE_FILE
    with broken_files_are_data_errors(storage, "journal of trials", "name another output_dir"):
        return optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(storage))),
            direction="maximize" if is_better_if_greater(metric) else "minimize",
            load_if_exists=True,
        )


def _next_trial(study: Any, space: dict[str, Any], seed: int, number: int) -> Any:
    """The next trial; one that was interrupted is tried again with the same values."""
    import optuna

    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if _ERROR not in trial.user_attrs:
            study.enqueue_trial(trial.params)
    # A sampler of its own for each trial: one that goes on from a seed would draw the same again in every call.
    study.sampler = optuna.samplers.TPESampler(seed=seed * 1_000_003 + number)
    return study.ask(space)


def _tell(study: Any, trial: Any, value: float | None, error: str | None) -> None:
    import optuna

    if value is not None and math.isfinite(value):
        study.tell(trial, value)
        return
    trial.set_user_attr(_ERROR, error or f"its value is {value}")
    study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _judged(study: Any) -> list[Any]:
    """The trials that have ended by themselves, in their order: with a value, or with an error."""
    ended = [trial for trial in study.get_trials() if trial.state.is_finished()]
    return [trial for trial in ended if trial.value is not None or _ERROR in trial.user_attrs]


def _best(study: Any, folder: Path) -> Any:
    finished = [trial for trial in _judged(study) if trial.value is not None]
    if not finished:
        raise DataError(f"{folder}: no trial has finished; the records in it say why")
    return study.best_trial


def _with_rows(experiment: Specification, rows: dict[str, dict[str, Any]]) -> Specification:
    """The experiment of these trials, none of which is judged on a test split."""
    rows = {name: params | {"test_split": False} for name, params in rows.items()}
    return replace(experiment, rows=rows, reference=next(iter(rows)))


def _value(trial: Specification, folder: Path, metric: str) -> float:
    """The mean of the metric over the validation splits of a trial's runs."""
    records = [read_record(record_path(folder, run)) for run in trial.planned_runs()]
    values = [record["metrics"][f"validation_{metric}"] for record in records]
    return float(np.mean([math.nan if value is None else value for value in values]))


def _conclude(study: Any, experiment: Specification, folder: Path, metric: str) -> str:
    """Writes what was found."""
    judged = _judged(study)
    best = _best(study, folder)
    _with_rows(experiment, {f"trial-{number}": trial.params for number, trial in enumerate(judged)}).save(folder)
    with replacing_file(folder / TRIALS_FILE) as path, path.open("w", newline="", encoding="utf-8") as file:
        names = list(best.params)
        writer = csv.writer(file)
        writer.writerow(["trial", f"validation_{metric}", *names, "error"])
        for number, trial in enumerate(judged):
            values = [trial.params[name] for name in names]
            writer.writerow([f"trial-{number}", trial.value, *values, trial.user_attrs.get(_ERROR, "")])
    with replacing_file(folder / BEST_FILE) as path:
        path.write_text(_recipe_text(experiment, best.params, f"{metric} {best.value:.4f}"), encoding="utf-8")
    _plot_importance(study, folder / IMPORTANCE_PLOT)
    found = ", ".join(f"{name} {value}" for name, value in best.params.items())
    return f"best of {len(judged)} trials: validation {metric} {best.value:.4f} with {found}; {folder / BEST_FILE}"


def _recipe_text(experiment: Specification, params: dict[str, Any], value: str) -> str:
    """The recipe with the best options: all that differ from the defaults."""
    defaults = parse_arguments(["--output_dir", "outputs/best"]).resolved()
    recipe = read_recipe(experiment.base, arguments=experiment.options, **params).resolved()
    # The switches that an ablation has set stand in the recipe themselves.
    left_out = {"ablation", "output_dir", "seed"}
    different = {name: value for name, value in recipe.items() if name not in left_out and value != defaults.get(name)}
    different |= {"output_dir": "outputs/best", "seed": experiment.seeds[0]}
    return f"# Found by `cpsl search`: validation {value}.\n" + yaml.safe_dump(different, sort_keys=False)


def _plot_importance(study: Any, path: Path) -> None:
    """Draws how much of the variation of the trials' values each option explains (fANOVA), where that can be told."""
    import optuna

    values = [trial.value for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))]
    if len(values) < _FEWEST_FOR_IMPORTANCE or len(set(values)) == 1:
        return
    importances = optuna.importance.get_param_importances(study)
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.5, 0.35 * len(importances) + 1.1))
        names = list(importances)[::-1]
        axes.barh(names, [importances[name] for name in names], color="#0072B2", height=0.6)
        axes.set_xlabel(f"importance over {len(values)} trials (share of the variation)")
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1)
        figure.tight_layout()
        with replacing_file(path) as unfinished:
            figure.savefig(unfinished, dpi=150, format="png")
        plt.close(figure)


__all__ = ["search"]
