"""10,000 and more mutated files: each loads or is refused, in bounded time and memory, and none runs anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[1] / "support" / "fuzz.py"


def fuzz(kind, count, seed):
    command = [sys.executable, "-W", "error::ResourceWarning", SCRIPT, kind, str(count), str(seed)]
    repository = Path(__file__).parents[2]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=repository, env={"PYTHONPATH": "."}
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("pickle", 10_000), ("table", 2_000), ("hdf5", 600)])
def test_mutated_files_load_or_are_refused(kind, count):
    report = fuzz(kind, count, seed=20)
    assert report["loaded"] + report["refused"] == count
    assert min(report["loaded"], report["refused"]) > count // 50  # the mutations neither spare nor wreck them all
    assert report["events"] == []
    assert report["slowest_seconds"] < 5 and report["peak_mb"] < 600
