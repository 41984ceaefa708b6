"""What is made once in a test run, whichever of its processes asks first."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def built_once(name: str, build: Callable[[Path], None]) -> Path:
    """A folder of the test run that `build` fills when it is first asked for; no test may change what is in it.

    The workers of pytest-xdist and the processes that tests start share it, and it goes when the run ends.
    """
    folder = Path(os.environ["CPSL_TEST_RUN"]) / name
    complete = folder.with_name(f"{name}.complete")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a build that failed has left
            folder.mkdir(parents=True)
            build(folder)
            complete.touch()
    return folder
