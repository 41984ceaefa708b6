"""What the documentation says holds: every command and snippet runs, every link and named file exists."""

import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from media_files import write_clip
from run_cases import sample_run
from speech import speak
from warm_python import warm_python

from modeling_cpsl.experiments.prediction import predict_table
from modeling_cpsl.losses_cpsl import LOSSES
from modeling_cpsl.training.metrics import METRICS


ROOT = Path(__file__).parents[1]
README, CHANGELOG, CONTRIBUTING = (ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING"))
# The blocks of docs/extend.md are edits of the code, which test_extend.py follows.
EXTEND = ROOT / "docs" / "extend.md"
PAGES = [README, CHANGELOG, CONTRIBUTING, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- not run: ([^>]+) -->\n)?```(\w+)\n(.*?)```", flags=re.DOTALL)
# How many blocks say that they cannot run here, for want of data or GPUs. Do not hide a block that could run.
NUM_NOT_RUN = {
    "demo": 1,
    "own_clips": 1,
    "peers": 1,
    "README": 2,
    "train": 7,
    "scale": 1,
    "transfer": 2,
    "findings": 5,
    "balance": 1,
}


def blocks(page):
    """The language, the code and the reason not to run it (mostly empty) of each block of commands or Python."""
    found = BLOCK.findall(page.read_text())
    return [(language, code, reason) for reason, language, code in found if language in ("bash", "python")]


def is_run(code, reason):
    return not reason and not code.startswith("make ")  # which this test is part of


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder that looks like the project's after `make train`."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("run_train.py", "cpsl.py", "benchmarks", "examples", "experiments", "modeling_cpsl", "data_builders"):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'PATH="{programs}:{Path(sys.executable).parent}:$PATH"\n')
    (programs / "python").symlink_to(warm_python())
    for name, program in {"cpsl": ROOT / "cpsl.py", "torchrun": "-m torch.distributed.run"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {warm_python()} {program} "$@"\n')
        (programs / name).chmod(0o755)
    shutil.copytree(sample_run(), folder / "outputs" / "sample")
    return folder


def write_spoken_clips(folder):
    """Labelled clips in which espeak-ng speaks, their transcripts, and a clip without a label."""
    sentences = {"good": "I loved this wonderful film.", "bad": "I hated this boring film."}
    names = [f"{speaker}-{what}" for speaker in ("anna", "ben", "cleo", "dora") for what in sentences] + ["new"]
    for name in ("clips", "transcripts"):
        (folder / name).mkdir()
    for name in names:
        text = sentences[name.partition("-")[2] or "good"]
        samples, rate, _ = speak(text)
        write_clip(folder / "clips" / f"{name}.mp4", seconds=2, sound=samples / 32768, sampling_rate=rate)
        (folder / "transcripts" / f"{name}.txt").write_text(text)
    lines = [f"{name}.mp4,{2 if 'good' in name else -2},{name.partition('-')[0]}\n" for name in names[:-1]]
    (folder / "labels.csv").write_text("".join(["clip,label,video_id\n", *lines]))


def run_commands(folder, commands):
    script = f"source .venv/bin/activate\n{commands}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert process.returncode == 0, f"{commands}\n{process.stdout[-2000:]}\n{process.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != EXTEND and blocks(page)], ids=lambda page: page.stem
)
def test_page_runs_as_it_is_read(project, page, monkeypatch, capsys):
    """From top to bottom: commands that follow each other in one shell, all snippets in one interpreter."""
    monkeypatch.chdir(project)
    if page.stem == "own_clips":
        write_spoken_clips(project)
    session = {"__name__": "__main__"}
    to_run = [(language, code) for language, code, reason in blocks(page) if is_run(code, reason)]
    for language, group in itertools.groupby(to_run, key=lambda block: block[0]):
        code = "".join(code for _, code in group)
        if language == "bash":
            run_commands(project, code)
        else:
            exec(compile(code, f"<snippets of {page.name}>", "exec"), session)
    assert capsys.readouterr().out or not any(language == "python" for language, _ in to_run)


def test_few_blocks_are_not_run():
    reasons = {page.stem: [reason for _, _, reason in blocks(page) if reason] for page in PAGES}
    assert {name: len(found) for name, found in reasons.items() if found} == NUM_NOT_RUN
    assert all(re.match("needs ", reason) for found in reasons.values() for reason in found)


def anchors(page):
    """What GitHub calls the headings of a page."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), flags=re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(((?!https?:)[^)]+)\)", BLOCK.sub("", page.read_text())):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_files_exist(page):
    if page == CHANGELOG:
        pytest.skip("it names what was there before, too")
    prose = BLOCK.sub("", page.read_text())
    for name in re.findall(r"`((?:modeling_cpsl|data_builders|docs|examples|benchmarks|tests)/[^`*\s]*)`", prose):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"`?make ([a-z-]+)", README.read_text() + CONTRIBUTING.read_text())))
)
def test_make_target_exists(target):
    process = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_readme_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) < 120
    assert [line for line in lines if len(line) > 160 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != README], ids=lambda page: page.stem)
def test_lines_are_short(page):
    lines = page.read_text().splitlines()
    assert [line for line in lines if len(line) > 120 and not line.lstrip().startswith("|")] == []


@pytest.mark.slow
def test_reference_names_everything_that_is_left(project, monkeypatch):
    """Each file, field and column that a run and `cpsl predict` leave; `<m>` and the like stand for any name."""
    monkeypatch.chdir(project)
    page = (ROOT / "docs" / "reference.md").read_text()
    run_section, predict_section = (
        page.partition(f"\n## {title}")[2].partition("\n## ")[0]
        for title in ("What a run leaves", "What `cpsl predict` writes")
    )
    run = project / "outputs" / "sample"
    names = {path.name + ("/" if path.is_dir() else "") for path in [*run.iterdir(), *run.glob("checkpoint-*/*")]}
    names |= json.loads((run / "all_results.json").read_text()).keys()
    names |= {name for line in (run / "training_log.jsonl").read_text().splitlines() for name in json.loads(line)}
    names |= set(pd.read_parquet(run / "predictions_test.parquet").columns)
    assert not_named(names, run_section) == []

    rows = [{"id": "a", "words": ["a", "good", "film"]}, {"id": "b", "words": ["good"], "acoustic": [[0.1] * 74]}]
    (project / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (project / "out").mkdir()
    predict_table("outputs/sample", "two.jsonl", "out/predictions.csv", explain=True, num_samples=2)
    # Columns that every table of predictions has are described where the first one is.
    assert not_named(pd.read_csv("out/predictions.csv").columns, run_section + predict_section) == []


def not_named(names, section):
    stands_for = {
        "<split>": "(train|validation|test)",
        "<m>": "(text|acoustic|visual)",
        "<loss>": f"({'|'.join(LOSSES)})",
        "<metric>": f"({'|'.join(METRICS)})",
        "<step>": r"\d+",
        re.escape("*"): r"\w+",
    }
    patterns = [re.escape(name) for name in re.findall(r"`([^`\s]+)`", section)]
    for placeholder, pattern in stands_for.items():
        patterns = [name.replace(placeholder, pattern) for name in patterns]
    return sorted(name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns))


def test_design_names_every_module():
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "design.md").read_text()))
    modules = {path.stem for package in ("modeling_cpsl", "data_builders") for path in (ROOT / package).rglob("*.py")}
    modules -= {"__init__", "__main__"}
    assert modules - named == set()


def test_reference_is_up_to_date():
    script = runpy.run_path(str(ROOT / "docs" / "update_reference.py"))
    page = script["PAGE"].read_text()
    assert script["render"](page) == page, "run python docs/update_reference.py"
