"""Runs one job a clip in several processes, which may be killed by what they read."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from ..files import DataError, one_line
from ..interrupts import interrupting_once


_KILLED = "the process that read it was killed, by a fault in a decoder or for want of memory"


def run_jobs(
    function: Callable[[Any], Any], jobs: Sequence[Any], num_proc: int, *, total: int, finished: int
) -> Iterator[tuple[Any, Any, str]]:
    """Runs a function on each job, and shows the progress on a terminal.

    Args:
        function: What is run; it and its result can be pickled.
        jobs: Its arguments; each has a `clip` with a `path`.
        num_proc: The number of processes.
        total: The number of jobs with those that are done already.
        finished: The number of these.

    Yields:
        A job, its result, and the reason if it failed, in the order in which they finish.
    """
    with interrupting_once(), tqdm(total=total, initial=finished, unit="clip", disable=None) as progress:
        for job, value, reason in _all_results(function, jobs, num_proc):
            progress.update()
            yield job, value, f"{job.clip.path}: {reason}" if reason is _KILLED else reason


def _all_results(function: Callable, jobs: Sequence[Any], num_proc: int) -> Iterator[tuple[Any, Any, str]]:
    waiting = list(jobs)
    while waiting:
        lost = []
        for job, result, reason in _results(function, waiting, num_proc):
            if reason is _KILLED:
                lost.append(job)
            else:
                yield job, result, reason
        # A process that dies takes the others' jobs with it. One of those that ran then is to blame, so each of them
        # runs once more, alone.
        suspects = len(waiting) if len(waiting) == 1 else num_proc + 1
        for job in lost[:suspects]:
            yield from _results(function, [job], 1)
        waiting = lost[suspects:]


def _results(function: Callable, jobs: Sequence[Any], num_proc: int) -> Iterator[tuple[Any, Any, str]]:
    """Results in the order in which they finish; of jobs that were lost, at the end, in the order of the jobs."""
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    lost = []
    with ProcessPoolExecutor(min(num_proc, len(jobs)), mp_context=context, initializer=_end_with_parent) as pool:
        try:
            futures = {pool.submit(function, job): number for number, job in enumerate(jobs)}
            for future in as_completed(futures):
                job = jobs[futures[future]]
                try:
                    yield job, future.result(), ""
                except BrokenProcessPool:
                    lost.append(futures[future])
                except DataError as error:
                    yield job, None, one_line(error)
                except MemoryError:
                    lost.append(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.kill()
            raise
    yield from zip((jobs[number] for number in sorted(lost)), itertools.repeat(None), itertools.repeat(_KILLED))


def _end_with_parent() -> None:
    """Makes a worker end at once with its parent, however that ends, and on an interrupt without a word."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
