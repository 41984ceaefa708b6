"""A warm Python does what Python does, for the tests that start one in its place."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from warm_python import warm_python


pytestmark = pytest.mark.slow
SHOW = """
import json, os, sys, tempfile
print(json.dumps([__name__, sys.argv, sys.path[0], os.getcwd(), os.environ["HELLO"], tempfile.gettempdir()]))
print(input(), file=sys.stderr)
sys.exit(3)
"""


def results(python, arguments, folder, **variables):
    environment = os.environ | {"HELLO": "wörld", "PYTHONPATH": str(folder), "TMPDIR": str(folder), **variables}
    process = subprocess.run([python, *arguments], cwd=folder, env=environment, input=b"given\n", capture_output=True)
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize("way", [["show.py"], ["-m", "show"], ["-u", "-m", "show"], ["-c", SHOW]])
def test_a_program_sees_what_it_would_see_of_python(tmp_path, way):
    (tmp_path / "show.py").write_text(SHOW)
    cold, warm = (results(python, [*way, "a b", "--c"], tmp_path) for python in (sys.executable, warm_python()))
    assert warm == cold
    assert warm[0] == 3 and warm[2] == b"given\n"
    assert json.loads(warm[1])[1][-2:] == ["a b", "--c"]


def test_a_program_gets_what_else_its_caller_hands_on(tmp_path):
    """So that it can be the server of processes that `multiprocessing` starts."""
    told, tell = os.pipe()
    subprocess.run([warm_python(), "-c", f"import os; os.write({tell}, b'heard')"], pass_fds=[tell], check=True)
    os.close(tell)
    with open(told, "rb") as stream:
        assert stream.read() == b"heard"


def test_large_libraries_are_there_and_ours_are_not(tmp_path):
    code = "import sys; print([name in sys.modules for name in ('torch', 'transformers', 'modeling_cpsl')])"
    assert results(warm_python(), ["-c", code], tmp_path) == (0, b"[True, True, False]\n", b"")


@pytest.mark.parametrize("variables", [{"PYTHONHASHSEED": "7"}, {"HF_HOME": "elsewhere"}])
def test_with_other_variables_that_libraries_read_at_their_import_it_starts_python(tmp_path, variables):
    code = "import sys; print('torch' in sys.modules, hash('a'))"
    cold, warm = (results(python, ["-c", code], tmp_path, **variables) for python in (sys.executable, warm_python()))
    assert warm[1].split()[0] == b"False"
    assert "PYTHONHASHSEED" not in variables or warm == cold


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_program(tmp_path, number):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    process = subprocess.Popen([warm_python(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    program = int(process.stdout.readline())
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    for _ in range(600):  # that it was killed takes a moment to get about
        try:
            os.kill(program, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("the program goes on")
