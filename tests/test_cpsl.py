"""The console command: its ways in, what it costs to ask it something, and that an installed wheel has all of it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from warm_python import warm_python

import cpsl
from modeling_cpsl.training.metrics import METRICS


ROOT = Path(__file__).parents[1]
ROW = {"id": "v_0", "words": ["a", "b"], "acoustic": [[1, 2], [3, 4]], "label": 1}


def start(*arguments, status=0, cwd=ROOT, path=ROOT, python=sys.executable):
    """Runs Python; returns what it printed and the CPU seconds that it took."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    with subprocess.Popen(
        list(map(str, [python, *arguments])),
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output = process.stdout.read()
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    assert process.returncode == status, output[-3000:]
    return output, usage.ru_utime + usage.ru_stime


def costs_at_most(factor, command, other):
    """Compares the least CPU seconds of two programs, which are measured by turns until they say so, four times."""
    least = [float("inf")] * 2
    for _ in range(4):
        least = [min(before, start(*program)[1]) for before, program in zip(least, (command, other), strict=True)]
        if least[0] <= factor * least[1]:
            return
    raise AssertionError(least)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


@pytest.mark.parametrize("name", cpsl.COMMANDS)
def test_every_command_exists_and_says_what_it_takes(name, capsys):
    module, _, function = cpsl.COMMANDS[name].function.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    with pytest.raises(SystemExit) as stop:
        cpsl.main([name, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: cpsl {name} ")


@pytest.mark.parametrize("way", [["cpsl.py"], ["-m", "cpsl"], ["-m", "data_builders"]])
def test_ways_in(way, table):
    assert "train: 1 sample of 1 video" in start(*way, "inspect", table)[0]


@pytest.mark.slow
def test_ways_into_training():
    for way in (["run_train.py"], ["-m", "modeling_cpsl", "train"]):
        output, _ = start(*way, status=2, python=warm_python())
        usage, error = output.splitlines()
        assert usage == "usage: cpsl train RECIPE [--option value ...]"
        assert error.startswith("cpsl train: error: name a recipe: ")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["train", "--version"], *([name, "-h"] for name in ("inspect", "convert", "plot"))],
)
def test_what_needs_no_libraries_is_answered_at_once(arguments):
    program = "import cpsl, sys\ntry:\n  cpsl.main()\nexcept SystemExit:\n  print(sorted(sys.modules))"
    output, seconds = start("-c", program, *arguments)
    assert seconds <= 1
    for name in ("torch", "transformers", "datasets", "pyarrow", "numpy", "modeling_cpsl"):
        assert f"'{name}'" not in output


@pytest.mark.slow
def test_inspect_costs_what_reading_does(table):
    heavy = [f"{name!r} not in sys.modules" for name in ("torch", "transformers", "matplotlib", "modeling_cpsl")]
    start("-c", f"import cpsl, sys; cpsl.main(); assert {' and '.join(heavy)}", "inspect", table)
    costs_at_most(1.5, ["-m", "cpsl", "inspect", table], ["-c", "import datasets, pyarrow.parquet"])


@pytest.mark.slow
def test_help_of_train_costs_what_its_options_do():
    """Without the registration of the models, which `import modeling_cpsl` is for and takes as long again."""
    # 1.1 on a quiet machine; with the registration it would be 2.1
    costs_at_most(1.4, ["-m", "cpsl", "train", "--help"], ["-c", "from transformers import TrainingArguments"])
    program = "import cpsl, sys\ntry:\n  cpsl.main()\nexcept SystemExit:\n  print(sorted(sys.modules))"
    output, _ = start("-c", f"{program}\n  import modeling_cpsl; print(modeling_cpsl.CPSLConfig)", "train", "--help")
    output, _, imported = output.rpartition("\n<class")
    assert "CPSLConfig" in imported
    for name in ("modeling_cpsl", "transformers.trainer", "datasets", "pandas", "matplotlib", "sklearn"):
        assert f"'{name}'" not in output


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which the wheel was installed that is built from a copy of what git knows or would add."""
    copy, target = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("installed")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--target", target]
    start("-m", "pip", "install", "--quiet", *options, copy, cwd=copy, path=target)
    return target


@pytest.mark.slow
def test_an_installed_wheel_trains_predicts_and_compares(installed, tmp_path):
    modules = ("cpsl", "data_builders", "modeling_cpsl")
    where = f"import sys, {', '.join(modules)}; print(*(sys.modules[name].__file__ for name in {modules}))"
    output, _ = start("-c", where, cwd=tmp_path, path=installed)
    assert all(Path(file).is_relative_to(installed) for file in output.split())
    assert all((installed / package / "py.typed").is_file() for package in ("data_builders", "modeling_cpsl"))
    [metadata] = installed.glob("cpsl-*.dist-info/METADATA")
    assert "Author: CPSL developers\n" in metadata.read_text()
    assert "https://arxiv.org/abs/2605.28575" in metadata.read_text()

    def command(*arguments, python=None):
        program = installed / "bin" / "cpsl"
        return start(program, *arguments, cwd=tmp_path, path=installed, python=python or sys.executable)[0]

    options = ["--max_steps", 2, "--num_train_epochs", 1, "--use_cpu", "--output_dir", "run"]
    # model, modalities and method; two lines of header; an epoch; the table; what was kept, and where it is
    lines = command("train", "sample", *options).splitlines()
    assert len(lines) == 3 + 2 + 1 + (1 + len(METRICS)) + 2, lines
    assert lines[-1] == "model, results, predictions, plots and model card are in run"
    options = ["run", "sample", "out.parquet", "--device", "cpu"]
    assert "utterances predicted now" in command("predict", *options, python=warm_python())
    assert len(pd.read_parquet(tmp_path / "out.parquet")) > 1000
    printed = command("report", "run", "--metrics", "mae", python=warm_python())
    assert printed.splitlines()[0] == "| row | runs | mae |"
