"""Damages the files of one boundary, again and again: each is read or refused on one line, and none runs anything.

`python tests/support/fuzz.py MODULE BOUNDARY COUNT` takes a boundary of `tests/support/MODULE.py`. It ends with one
line of JSON, unless it crashes, hangs, or meets an error that no user should see; then the damage is printed. The
inputs are the same at every call.
"""

import faulthandler
import gc
import importlib
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from boundaries import file_content
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from mutations import ODD_VALUES, changed_bytes, changed_value


CPU_SECONDS_AN_INPUT = 20
MEMORY_HEADROOM = 1 << 30
# What a process does that starts another program, runs code that it was given, or talks to somebody.
FORBIDDEN_EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "exec")


class Damaged(NamedTuple):
    """The bytes of a folder's files by their names, and the name of the damaged one."""

    content: dict[str, bytes]
    file: str

    def __repr__(self):
        return f"{self.file}: {self.content[self.file][:2000]!r}"


@st.composite
def damaged_folder(draw, boundary):
    """A folder of which one file is damaged."""
    folder = dict(draw(st.sampled_from(boundary.folders)))
    name = draw(st.sampled_from(sorted(folder)))
    change_value = not isinstance(folder[name], bytes) and draw(st.integers(0, 2))
    if change_value:
        folder[name] = draw(changed_value(folder[name], (*ODD_VALUES, *boundary.odd_values)))
    try:
        content = {name: file_content(name, value) for name, value in folder.items()}
    except Exception:  # such a file cannot hold the value
        reject()
    if not change_value:
        content[name] = draw(changed_bytes(content[name], list(content.values())))
    return Damaged(content, name)


def is_reported(error):
    """Whether the command line reports an error on one line, and it does not hide that the memory was used up."""
    told = isinstance(error, ValueError | OSError)
    while error is not None:
        told = told and not isinstance(error, MemoryError) and "can't allocate memory" not in str(error)
        error = error.__cause__ or error.__context__
    return told


def is_importing():
    """Whether Python runs the code of a module of its own: what is needed for the first time is imported then."""
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def main(module, name, count):
    boundary = importlib.import_module(module).boundary(name)
    outcomes, slowest = Counter(), 0.0
    events = []
    logging.disable()
    warnings.simplefilter("ignore")

    def read(content):
        with tempfile.TemporaryDirectory() as folder:
            for file, data in content.items():
                (Path(folder) / file).write_bytes(data)
            events.clear()
            boundary.read(Path(folder))

    for folder in boundary.folders:
        read({file: file_content(file, value) for file, value in folder.items()})
    gc.collect()
    gc.freeze()  # Trainer collects garbage, for which all that was imported is looked at each time
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_HEADROOM,) * 2)

    def watch(event, arguments):
        if event in FORBIDDEN_EVENTS and not is_importing():
            events.append(f"{event}{arguments}")

    sys.addaudithook(watch)
    faulthandler.register(signal.SIGPROF, chain=True)  # it also ends a parser that Python cannot interrupt

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged_folder(boundary))
    def check(damaged):
        nonlocal slowest
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS_AN_INPUT)
        try:
            read(damaged.content)
            outcomes["read"] += 1
        except Exception as error:
            outcomes["refused"] += 1
            if not is_reported(error):
                raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, time.process_time() - started)
        assert not events, events

    check()
    print(json.dumps({**outcomes, "slowest_seconds": round(slowest, 3)}))


if __name__ == "__main__":
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as tempfile.tempdir:  # nothing is left of what boundaries write
        os.environ.setdefault("CPSL_TEST_RUN", tempfile.tempdir)
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
