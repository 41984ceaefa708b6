"""Every boundary that takes foreign files, given damaged ones: each is read or refused on one line, and runs nothing.

Inputs are the same in every run. `make test-nightly` tries more of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parents[1]
INPUTS = int(os.environ.get("CPSL_DAMAGED_INPUTS", "300"))  # a boundary
BOUNDARIES = {
    "data_boundaries": [
        *("mag_pickle", "misa_pickle", "mmim_pickle", "mmsa_pickle", "mult_pickle"),
        *("csd", "csv", "jsonl", "parquet", "arrays"),
    ],
    "model_boundaries": ["recipe", "model", "backbone", "checkpoint", "journal"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "boundary"), [(module, name) for module, names in BOUNDARIES.items() for name in names]
)
def test_damaged_files_are_read_or_refused_on_one_line(module, boundary):
    command = [sys.executable, REPOSITORY / "tests" / "support" / "fuzz.py", module, boundary, str(INPUTS)]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    assert result.returncode == 0, result.stderr[-5000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["read"] + report["refused"] >= INPUTS
    assert min(report["read"], report["refused"]) > INPUTS // 50  # the damages neither spare nor wreck them all
