"""The process in which a caller of `warm_python` sees its program run: `warm_python_client.py SERVER ARGUMENT...`."""

import contextlib
import json
import os
import signal
import socket
import sys


def is_handed_on(file: int) -> bool:
    try:
        return os.get_inheritable(file)
    except OSError:  # that of the list of open files
        return False


def main(server: str, *arguments: str) -> None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(server)
    except OSError:  # it has ended
        os.execv(sys.executable, [sys.executable, *arguments])
    # What the caller has opened for the program, as `multiprocessing` does; all that Python itself opens is closed.
    files = [0, 1, 2, *(number for number in map(int, os.listdir("/dev/fd")) if number > 2 and is_handed_on(number))]
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "files": files}
    content = json.dumps(request).encode()
    socket.send_fds(connection, [len(content).to_bytes(8, "big")], files)
    connection.sendall(content)
    if connection.recv(1) != b"y":  # it cannot do what is asked for
        os.execv(sys.executable, [sys.executable, *arguments])
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: connection.sendall(bytes([number])))
    ended = connection.recv(4)
    status = os.waitstatus_to_exitcode(int.from_bytes(ended, "big")) if len(ended) == 4 else 1
    if status < 0:  # it was ended by a signal, and so is this process
        with contextlib.suppress(OSError):  # those that cannot be caught
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


main(*sys.argv[1:])
