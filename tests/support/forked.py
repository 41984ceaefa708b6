"""Processes that may be killed, interrupted or refused a file, and need not import everything first."""

import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path


class ForkedProcess(multiprocessing.get_context("fork").Process):
    """Calls a function in a copy of this process and ends with what it returns as exit code.

    What the test runner has put in place is undone first: the function sees the signals, warnings, loggers and
    standard streams of a process that a shell has started.
    """

    def __init__(self, function: Callable[..., int | None], *arguments: object):
        super().__init__(target=function, args=arguments, daemon=True)
        self._is_time, self._signal = None, None
        self._streams = {name: tempfile.TemporaryFile("w+") for name in ("stdout", "stderr")}  # noqa: SIM115

    def signal_when(self, is_time: Callable[[], bool], number: signal.Signals) -> None:
        """Lets the process send itself a signal, at whatever it is doing, once `is_time()`.

        A watcher in another process may come too late on a busy machine; a thread of its own cannot.
        """
        self._is_time, self._signal = is_time, number

    def _watch(self) -> None:
        while not self._is_time():
            time.sleep(0.001)
        os.kill(os.getpid(), self._signal)

    def run(self) -> None:
        for number, (name, file) in enumerate(self._streams.items(), start=1):
            os.dup2(file.fileno(), number)
            setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        logging.getLogger().handlers.clear()
        for logger in logging.Logger.manager.loggerDict.values():
            for handler in getattr(logger, "handlers", []):
                if type(handler) is logging.StreamHandler:
                    handler.stream = sys.stderr  # `setStream` flushes the old one, which a test may have closed
        if self._is_time is not None:
            threading.Thread(target=self._watch, daemon=True).start()
        sys.exit(self._target(*self._args))

    def finish(self, timeout: float = 300) -> tuple[str, str]:
        """Waits for the process and returns what it wrote to its standard output and error."""
        self.join(timeout)
        if self.is_alive():
            self.kill()
            raise TimeoutError(f"the process did not end within {timeout} s")
        for file in self._streams.values():
            file.seek(0)
        with self._streams["stdout"] as output, self._streams["stderr"] as errors:
            return output.read(), errors.read()


def is_written(path: Path) -> bool:
    """Whether a JSON file is there to its end: it exists before its content does."""
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True
