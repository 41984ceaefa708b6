"""transformers' own tests of models, configurations and processors, on ours: `tests/support/transformers_cases.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from warm_python import warm_python


# Where `make test-all` unpacks the tests of the installed version.
TRANSFORMERS = Path(sys.prefix) / f"transformers-{transformers.__version__}"


@pytest.mark.slow
def test_models_and_processor_pass_them(repository, tmp_path):
    if not (TRANSFORMERS / "tests" / "__init__.py").is_file():
        message = f"the tests of transformers are not in {TRANSFORMERS}; make test-all gets them where it can"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    path = [TRANSFORMERS, repository, repository / "tests" / "support"]
    options = ["-q", "-c", os.devnull, "--rootdir", tmp_path, "-p", "no:cacheprovider", "-Wignore", "--tb=short"]
    process = subprocess.run(
        [warm_python(), "-m", "pytest", *options, repository / "tests" / "support" / "transformers_cases.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-2000:]
