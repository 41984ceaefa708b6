"""Every boundary that takes foreign files, given damaged ones: each is read or refused on one line, and runs nothing.

Inputs are the same in every run. `make test-nightly` tries more of them.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from warm_python import warm_python


REPOSITORY = Path(__file__).parents[1]
INPUTS = int(os.environ.get("CPSL_DAMAGED_INPUTS", "300"))  # a boundary
BOUNDARIES = {
    "data_boundaries": [
        *("mag_pickle", "misa_pickle", "mmim_pickle", "mmsa_pickle", "mult_pickle"),
        *("csd", "csv", "jsonl", "parquet", "arrays", "labels", "meld", "sst", "trees"),
    ],
    "model_boundaries": ["recipe", "model", "backbone", "checkpoint", "journal"],
}


def give_damaged_files(module, boundary, count, folder_of_module=""):
    command = [warm_python(), REPOSITORY / "tests" / "support" / "fuzz.py", module, boundary, str(count)]
    paths = os.pathsep.join([str(REPOSITORY), str(folder_of_module)])
    return subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": paths}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "boundary"), [(module, name) for module, names in BOUNDARIES.items() for name in names]
)
def test_damaged_files_are_read_or_refused_on_one_line(module, boundary):
    result = give_damaged_files(module, boundary, INPUTS)
    assert result.returncode == 0, result.stderr[-5000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["read"] + report["refused"] >= INPUTS
    assert min(report["read"], report["refused"]) > INPUTS // 50  # the damages neither spare nor wreck them all


READER = """
from boundaries import Boundary

def boundary(name):
    def read(folder):
        if (folder / "data.json").read_text() != '["x"]':
            {fault}

    return Boundary([{{"data.json": ["x"]}}], read)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raise TypeError('not told')", "TypeError: not told"),
        ("exec('1')", "exec(<code object"),
        ("__import__('os').system('true')", "os.system(b'true'"),
        ("try: bytearray(2 << 30)\n            except MemoryError: raise ValueError('no')", "ValueError: no"),
        ("raise ValueError('no')", None),
    ],
)
def test_a_reader_that_does_what_it_may_not_is_found(tmp_path, fault, told):
    (tmp_path / "faulty.py").write_text(READER.format(fault=fault))
    result = give_damaged_files("faulty", "it", 10, tmp_path)
    assert (result.returncode == 0) == (told is None), result.stderr[-2000:]
    assert (told or "") in result.stderr
