"""Trains the runs of an experiment, several at a time, each in a process of its own; what is finished is kept."""

import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from data_builders.files import DataError, one_line

from ..experiments.recipe import Recipe
from ..experiments.records import without_paths
from ..experiments.run import holds_run
from ..training.task_metrics import overall_metrics
from .records import (
    FINISHED,
    failed_record,
    finished_record,
    read_record,
    record_path,
    task_of_record,
    write_record,
)
from .specification import PlannedRun, Specification, saved_specification


RUNS = "runs"
# What a launcher (torchrun, accelerate) tells each of its processes.
_LAUNCHED = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "ROLE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
# Each run forks from a process that has imported what a training, its metrics and its plots need, which takes seconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("modeling_cpsl.experiments.run", "modeling_cpsl.evidence.records", "evaluate", "scipy.stats"),
        *("sklearn.metrics", "matplotlib.figure", "matplotlib.backends.backend_agg", "transformers.trainer"),
    ]
)


class Place(NamedTuple):
    """Which part of an experiment a process does, and which of a machine's processes it is.

    Attributes:
        shard: (i, n): of all runs, every n-th, beginning with the i-th.
        process: Its number among those that a launcher has started on this machine, 0 without one.
        num_processes: How many these are.
    """

    shard: tuple[int, int] = (0, 1)
    process: int = 0
    num_processes: int = 1


WHOLE = Place()


def launched_place(shard: tuple[int, int]) -> Place:
    """The place of a process that may have been launched as one of several: each does a part of the shard's runs.

    A run is one process, so that what the launcher has said of its processes is removed from the environment.
    """
    told = {name: os.environ.pop(name, None) for name in _LAUNCHED}
    rank, number = int(told["RANK"] or 0), int(told["WORLD_SIZE"] or 1)
    local_rank, local_number = int(told["LOCAL_RANK"] or 0), int(told["LOCAL_WORLD_SIZE"] or 1)
    return Place((shard[0] * number + rank, shard[1] * number), local_rank, local_number)


def run_experiment(
    specification: Specification,
    output_dir: str | os.PathLike,
    *,
    workers: int = 1,
    place: Place = WHOLE,
    quiet: bool = False,
) -> list[PlannedRun]:
    """Trains all runs that have no record yet and writes their records; one that failed is tried again.

    Args:
        specification: What to train.
        output_dir: The experiment's folder; parts of one experiment share it.
        workers: Number of runs at a time. They share out the cores and the GPUs.
        place: The part to do.
        quiet: Whether to print nothing.

    Returns:
        The runs that failed.

    Raises:
        DataError: A record was made with other options.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    planned = specification.planned_runs()[place.shard[0] :: place.shard[1]]
    finished = [run for run in planned if _is_finished(run, specification, folder)]
    for run in finished:  # an earlier call may have been killed between its record and the removal of its folder
        shutil.rmtree(folder / RUNS / run.name, ignore_errors=True)
    pending = [run for run in planned if run not in finished]
    specification.save(folder)
    failed = []
    with tqdm(total=len(planned), initial=len(finished), unit="run", disable=quiet or None) as progress:
        for run in _train(pending, specification, folder, workers, place):
            progress.update()
            record = read_record(record_path(folder, run))
            if record["status"] != FINISHED:
                failed.append(run)
            if not quiet:
                progress.write(_line(run, record), file=sys.stdout)
    return failed


def check_no_run(folder: Path) -> None:
    """DataError if the folder has a run of `cpsl train`, among whose files those of an experiment would stand."""
    if holds_run(folder):
        raise DataError(f"output_dir {folder} holds a run of `cpsl train`; name another one")


def check_same_experiment(specification: Specification, folder: Path) -> None:
    """DataError if the folder has an experiment that shares no row with this one, or a run of `cpsl train`."""
    check_no_run(folder)
    try:
        rows = saved_specification(folder).rows
    except DataError:  # there is none, or a damaged one, which is written anew
        return
    if not rows.keys() & specification.rows.keys():
        raise DataError(
            f"{folder}: it has another experiment, whose rows are {', '.join(rows)}; name another output_dir"
        )


def _is_finished(run: PlannedRun, specification: Specification, folder: Path) -> bool:
    """Whether there is a record of this run; DataError if it is of another specification."""
    path = record_path(folder, run)
    if not path.is_file():
        return False
    record = read_record(path)
    if record["status"] != FINISHED:
        return False
    before, now = record["recipe"], without_paths(_recipe(run, specification, folder).resolved())
    now = json.loads(json.dumps(now))  # as a record has it
    # An option that is younger than the record had its default then.
    if changed := [name for name in before if name in now and before[name] != now[name]]:
        name = changed[0]
        raise DataError(
            f"{path}: that run was made with other options ({name}: {before[name]}, now {now[name]}); name another "
            "output_dir, or remove the record to run it again"
        )
    return True


def _recipe(run: PlannedRun, specification: Specification, folder: Path) -> Recipe:
    return specification.recipe(run, folder / RUNS / run.name)


def _recorded_options(run: PlannedRun, specification: Specification) -> dict[str, Any]:
    return without_paths(specification.rows[run.row] | {"command_line": specification.options})


def _train(
    pending: Sequence[PlannedRun], specification: Specification, folder: Path, workers: int, place: Place
) -> Iterator[PlannedRun]:
    """Trains runs, `workers` at a time, and yields each when its record is written; a slot is where one runs."""
    threads = max(1, (os.cpu_count() or 1) // (workers * place.num_processes))
    waiting = list(pending)
    running: dict[Any, tuple[PlannedRun, Any, int]] = {}
    slots = list(range(place.process * workers, (place.process + 1) * workers))
    try:
        while waiting or running:
            while waiting and slots:
                run, slot = waiting.pop(0), slots.pop(0)
                process = _CONTEXT.Process(
                    target=_train_one, args=(run, specification, folder, threads, slot), name=run.name
                )
                process.start()
                running[process.sentinel] = (run, process, slot)
            for sentinel in connection.wait(list(running)):
                run, process, slot = running.pop(sentinel)
                process.join()
                slots.append(slot)
                if process.exitcode:  # it was killed, or could not even write a record
                    message = f"its process ended with exit code {process.exitcode}"
                    options = _recorded_options(run, specification)
                    write_record(failed_record(run, options, message, _log(run)), record_path(folder, run))
                yield run
    finally:
        for _, process, _ in running.values():
            process.terminate()
            process.join()


def _log(run: PlannedRun) -> str:
    return f"{RUNS}/{run.name}.log"


def _train_one(run: PlannedRun, specification: Specification, folder: Path, threads: int, slot: int) -> None:
    """What a process does: one training and its record. What it prints goes to a file."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = folder / _log(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", buffering=1) as stream:  # a run that goes on keeps what it printed before
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        import torch

        from ..experiments.run import run_recipe

        torch.set_num_threads(min(threads, torch.get_num_threads()))  # OMP_NUM_THREADS may ask for fewer
        if torch.cuda.device_count() > 1:
            os.environ["CUDA_VISIBLE_DEVICES"] = _gpu(slot, torch.cuda.device_count())
        options = _recorded_options(run, specification)
        try:
            start = time.monotonic()
            recipe = _recipe(run, specification, folder)
            results = run_recipe(recipe)
            record = finished_record(run, options, recipe, results, folder, time.monotonic() - start)
        except Exception as error:  # whatever it is, the other runs go on
            traceback.print_exc()
            record = failed_record(run, options, one_line(error), _log(run))
        write_record(record, record_path(folder, run))
        if record["status"] == FINISHED:  # the record has what is needed, and a model may be large
            shutil.rmtree(folder / RUNS / run.name)


def _gpu(slot: int, number: int) -> str:
    """What names the GPU of a slot, of those that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(number)]
    return names[slot % number]


def _end_with_parent() -> None:
    """Ends this process when the one that started it has ended, however that was, so that the next call can go on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _line(run: PlannedRun, record: dict[str, Any]) -> str:
    if record["status"] != FINISHED:
        return f"{run.name}: failed: {record['error']} (see {record['log']})"
    best, second, *_ = overall_metrics(task_of_record(record))
    metrics = ", ".join(
        f"{name} {record['metrics'][name]:.4f}"
        for name in (f"validation_{best}", f"test_{best}", f"test_{second}")
        if name in record["metrics"]
    )
    return f"{run.name}: {metrics} in {record['seconds']:.0f} s"


__all__ = ["Place", "check_no_run", "check_same_experiment", "launched_place", "run_experiment"]
