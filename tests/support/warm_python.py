"""A `python` that has imported PyTorch and transformers before it starts, which takes seconds each time.

`warm_python()` is an executable file that takes the arguments of `python`. A server, one for all processes of a test
run, has imported the large libraries, and nothing of this project. It forks for each program, which gets the caller's
arguments, folder, environment and open files, and imports the project from wherever its caller's path leads. The
caller's process stays until the program has ended: it ends with the same status, hands on the signals that it gets,
and takes the program with it when it is killed.
"""

import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np


# Those that take long; none that starts a thread, which the programs would lack.
LIBRARIES = [
    *("torch.distributed.run", "torch._dynamo", "torch.onnx", "onnxscript"),
    *("transformers.trainer", "transformers.pipelines", "transformers.models.auto.modeling_auto"),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("bert", "deberta_v2", "mpnet")),
    *("transformers.models.deberta_v2.tokenization_deberta_v2", "transformers.models.bert.tokenization_bert"),
    *("accelerate.commands.launch", "datasets.packaged_modules.parquet.parquet", "evaluate", "h5py", "pandas"),
    *("pyarrow.dataset", "pyarrow.parquet", "matplotlib.pyplot", "scipy.stats", "sklearn.metrics", "jinja2", "yaml"),
]
# What Python looks at when it starts, and libraries while they are imported.
FIXED_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_", "MPL", "OMP_", "PYTHONHASHSEED", "TRANSFORMERS_")
IDLE_SECONDS = 1800  # after which a server ends whose test run was killed
CLIENT = Path(__file__).with_name("warm_python_client.py")


def warm_python() -> Path:
    """The executable file; the server ends when the folder of the test run is removed."""
    from shared_run import built_once

    def build(folder: Path) -> None:
        command, server = folder / "python", folder / "server"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{CLIENT}" "{server}" "$@"\n')
        command.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        # It ends when the server that it forks can be asked. With pipes, since what the programs write to may be one.
        started = subprocess.run(
            [sys.executable, __file__, server, command], env=environment, stdin=subprocess.DEVNULL, capture_output=True
        )
        assert started.returncode == 0, started.stderr.decode()

    return built_once("warm_python", build) / "python"


def serve(path: str) -> dict[str, Any]:
    """Forks for each program; returns its request in the new process, and in no other."""
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(1)
    listener.bind(path)
    listener.listen()
    if os.fork():
        os._exit(0)
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    children, last_request = 0, time.monotonic()
    while os.path.exists(path) and time.monotonic() - last_request < IDLE_SECONDS:
        while children and os.waitpid(-1, os.WNOHANG) != (0, 0):
            children -= 1
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listener.close()
            return start_program(connection)
        children, last_request = children + 1, time.monotonic()
        connection.close()
    sys.exit()


def start_program(connection: socket.socket) -> dict[str, Any]:
    """The request of a client, in a process of its own that this one supervises and reports the end of."""
    connection.settimeout(None)
    head, files, _, _ = socket.recv_fds(connection, 8, 100)
    with connection.makefile("rb") as stream:
        request = json.loads(stream.read(int.from_bytes(head, "big")))
    can_start = request["arguments"][0] in ("-c", "-m", "-u") or not request["arguments"][0].startswith("-")
    if not can_start or fixed(request["environment"]) != fixed(os.environ):
        connection.sendall(b"n")
        os._exit(0)
    program = os.fork()
    if program == 0:
        os.setsid()
        connection.close()
        # Above all numbers that any of them is to have.
        copies = [fcntl.fcntl(file, fcntl.F_DUPFD, max(request["files"]) + 1) for file in files]
        for file in files:
            os.close(file)
        for copy, number in zip(copies, request.pop("files"), strict=True):
            os.dup2(copy, number)
            os.close(copy)
        return request
    connection.sendall(b"y")
    threading.Thread(target=hand_on_signals, args=(connection, program), daemon=True).start()
    _, status = os.waitpid(program, 0)
    connection.sendall(status.to_bytes(4, "big"))
    os._exit(0)


def hand_on_signals(connection: socket.socket, program: int) -> None:
    while number := connection.recv(1):
        os.kill(program, number[0])
    os.kill(program, signal.SIGKILL)  # the client is gone


def fixed(environment: Any) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(FIXED_VARIABLES)}


def run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """What `python` does with these arguments."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR may be another one than the server's
    signal.signal(signal.SIGINT, signal.default_int_handler)
    np.random.seed()
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if arguments[0] == "-u":
        arguments = arguments[1:]
        sys.stdout.reconfigure(write_through=True)
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), sys.modules["__main__"].__dict__)
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, folder)
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _, server, sys.executable = sys.argv
    sys.path.pop(0)
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.collect()
    gc.freeze()
    run(**serve(server))
