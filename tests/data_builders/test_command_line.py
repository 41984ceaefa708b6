"""The machinery of command lines: spelling of options, suggestions, exit statuses and one-line errors."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_builders.command_line import Command, CommandParser, UsageError, did_you_mean, run_command


ROOT = Path(__file__).parents[2]


COMMANDS = {
    name: Command(f"commands_of_this_test:{name}", f"what {name} is for")
    for name in ("show", "fail", "wrong_file", "stop", "stop_silently", "bug")
}
MODULE = """
from data_builders.command_line import CommandParser

def show(arguments):
    parser = CommandParser(prog="program show")
    parser.add_argument("path")
    parser.add_argument("--on_error", choices=["raise", "skip"], default="raise", help="what to do")
    print(vars(parser.parse_args(arguments)))

def fail(arguments):
    raise ValueError("the data is bad:\\n  line 3")

def wrong_file(arguments):
    open("nowhere.txt")

def stop(arguments):
    raise KeyboardInterrupt("continue with --again")

def stop_silently(arguments):
    raise KeyboardInterrupt

def bug(arguments):
    raise TypeError("a fault of ours")
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command line; returns the exit status and what was printed to stdout and stderr."""
    (tmp_path / "commands_of_this_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = run_command("program", COMMANDS, arguments)
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("option", ["--on_error", "--on-error"])
def test_options_take_underscores_and_dashes(run, option):
    for arguments in ([option, "skip"], [f"{option}=skip"]):
        assert run("show", "a-b_c", *arguments) == (0, "{'path': 'a-b_c', 'on_error': 'skip'}\n", "")


@pytest.mark.parametrize(
    ("arguments", "speaker", "message"),
    [
        ([], "program", "name a command: show, fail, wrong_file, stop, stop_silently, bug"),
        (["shwo"], "program", "unknown command 'shwo'; did you mean show?"),
        (["xyz"], "program", "unknown command 'xyz'"),
        (["--verson"], "program", "unknown option --verson; did you mean --version?"),
        (["show"], "program show", "the following arguments are required: path"),
        (["show", "x", "--on-eror", "skip"], "program show", "unknown option --on-eror; did you mean --on_error?"),
        (["show", "x", "--on", "skip"], "program show", "unknown option --on"),
        (["show", "x", "--on_error", "stop"], "program show", "argument --on_error: invalid choice: 'stop' (choose"),
        (["show", "x", "y"], "program show", "unexpected argument 'y'"),
    ],
)
def test_wrong_usage_has_status_2_and_is_two_lines(run, arguments, speaker, message):
    status, output, errors = run(*arguments)
    usage, error = errors.splitlines()
    assert (status, output) == (2, "")
    assert usage.startswith(f"usage: {speaker} ")
    assert error.startswith(f"{speaker}: error: {message}")


def test_what_a_user_did_wrong_has_status_1_and_is_one_line(run):
    assert run("fail") == (1, "", "program fail: error: the data is bad: line 3\n")
    assert run("wrong_file") == (1, "", "program wrong_file: error: nowhere.txt: No such file or directory\n")


def test_an_interrupt_has_status_130_and_may_say_how_to_continue(run):
    assert run("stop") == (130, "", "program stop: interrupted; continue with --again\n")
    assert run("stop_silently") == (130, "", "program stop_silently: interrupted\n")


def test_an_interrupt_while_a_command_is_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "interrupted_import.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    assert run_command("program", {"slow": Command("interrupted_import:slow", "")}, ["slow"]) == 130
    assert capsys.readouterr().err == "program slow: interrupted\n"


def test_what_a_console_cannot_show_is_escaped(run, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    assert run("show", "电影\udcff.pkl 😀")[0] == 0
    console.flush()
    assert rb"\u7535\u5f71\udcff.pkl \U0001f600" in console.buffer.getvalue()


def test_an_interrupt_while_the_program_itself_is_imported(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which background jobs of a shell lack
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'data_builders.files':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "cpsl", "inspect", "sample"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (130, "")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    (tmp_path / "talkative.py").write_text(
        "def talk(arguments):\n    for _ in range(100_000):\n        print('word ' * 9)\n"
    )
    command = "import sys; from data_builders.command_line import Command, run_command\n"
    command += "sys.exit(run_command('program', {'talk': Command('talkative:talk', '')}, ['talk']))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    script = ["bash", "-c", 'set -o pipefail; "$@" | head -n 1', "bash", sys.executable, "-c", command]
    process = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (141, "word " * 9 + "\n", "")


def test_a_fault_of_the_program_keeps_its_traceback(run):
    with pytest.raises(TypeError, match="a fault of ours"):
        run("bug")


def test_help_lists_the_commands_and_options_in_one_spelling(run, capsys):
    listings = {"show           what show is for": ["--help"], "--on_error {raise,skip}": ["show", "--help"]}
    for listed, arguments in listings.items():
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 0
        assert listed in capsys.readouterr().out


def test_an_error_in_python_does_not_end_the_interpreter():
    parser = CommandParser(prog="program")
    with pytest.raises(UsageError, match="unknown option --x") as caught:
        parser.parse_args(["--x"])
    assert caught.value.usage == "usage: program [-h]\n"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("trian", "; did you mean train?"),
        ("--max_step", "; did you mean --max_steps?"),
        ("--epochs", "; did you mean --num_train_epochs?"),
        ("--num_layers", ""),
        ("zzz", ""),
    ],
)
def test_only_what_is_alike_is_suggested(word, meant):
    known = ["train", "predict", "--max_steps", "--no_ame", "--num_train_epochs"]
    assert did_you_mean(word, iter(known)) == meant
