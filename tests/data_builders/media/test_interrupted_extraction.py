"""An extraction that is killed, or that finds no room for what it writes, goes on where it was."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from media_files import needs_package, tone, write_clip

from cpsl import main
from data_builders import load_aligned_dataset
from data_builders.media import folder
from data_builders.media.workers import run_jobs


needs_package("av")
ROOT = Path(__file__).parents[3]


def parts_of(out):
    return {path: path.stat().st_mtime_ns for path in out.glob(".clips-0-of-1/[!.]*.parquet")}


@pytest.mark.slow
def test_a_killed_extraction_and_a_full_disk_lose_no_finished_clip(tmp_path, monkeypatch):
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for name, seconds in (("a", 2), ("b", 600), ("c", 2)):  # the second one takes long enough to be killed in it
        write_clip(clips / f"{name}.wav", sound=tone(seconds), pictures=False)
    arguments = ["extract", str(clips), str(out), "--words", "none", "--modalities", "acoustic"]
    command = [sys.executable, str(ROOT / "cpsl.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.ExitStack() as ending:
        ending.callback(process.kill)
        while not (finished := parts_of(out)):
            assert process.poll() is None
            time.sleep(0.01)
    process.wait()
    assert len(finished) == 1 and not (out / "data").exists()

    write_clip(clips / "b.wav", sound=tone(30), pictures=False)
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *command]  # no file of more than 4 kB
    result = subprocess.run(limited, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert str(out) in line and "could not be written" in line
    assert finished.items() <= parts_of(out).items() and not (out / "data").exists()

    extracted = []

    def watched(function, jobs, *options, **more):
        extracted.extend(job.clip.name for job in jobs)
        return run_jobs(function, jobs, *options, **more)

    monkeypatch.setattr(folder, "run_jobs", watched)
    assert main(arguments) == 0
    assert "a" not in extracted and "b" in extracted
    ids = list(load_aligned_dataset(out, labels=False)["train"]["id"])
    assert ids[0] == "a" and ids[-1] == "c" and ids[1].startswith("b[")
    assert not list(out.glob(".clips-*"))
