"""Launching several processes that train together."""

import itertools
import os
import random
import socket
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout
from warm_python import warm_python


ROOT = Path(__file__).parents[2]
# Below the ports that a system hands out to whoever asks for any, and apart for each worker of pytest-xdist.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = itertools.count(20_000 + 1_000 * (_WORKER % 12) + random.SystemRandom().randrange(900))
_RESERVED: list[FileLock] = []  # until this process ends, so that another test run on this machine takes other ports


def free_port() -> str:
    """A port that nobody listens on, and that no other process takes before the launched ones do."""
    for port in _PORTS:
        reservation = FileLock(Path(tempfile.gettempdir(), f"cpsl-tests-port-{port}.lock"), blocking=False)
        try:
            reservation.acquire()
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", port))
        except (OSError, Timeout):
            continue
        _RESERVED.append(reservation)
        return str(port)


def launch(*arguments: object, python: object = None) -> subprocess.Popen:
    """Starts `python ARGUMENTS` in the repository, whose output `finish` reads; by default a warm one."""
    return subprocess.Popen(
        list(map(str, [python or warm_python(), *arguments])),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, timeout: float = 550) -> tuple[str, str]:
    """Waits until a launcher has ended well; returns what it and the processes that it started have printed."""
    output, errors = process.communicate(timeout=timeout)
    # the whole of it: what a process died of stands far above what its launcher says in the end
    assert process.returncode == 0, f"exit status {process.returncode}\n{output}\n{errors}"
    return output, errors
