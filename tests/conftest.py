"""One test run: what all its processes share, and what it must not depend on."""

import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

from hypothesis import settings


# Set before any test module imports torch or datasets; workers of pytest-xdist and the processes that tests start
# inherit them. Tests use no network, no GPU, no cache but the run's own, and one thread a process.
_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not _IS_WORKER:
    os.environ["CPSL_TEST_RUN"] = tempfile.mkdtemp(prefix="cpsl-tests-")
os.environ["HF_HOME"] = str(Path(os.environ["CPSL_TEST_RUN"]) / "huggingface")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_NUM_THREADS"] = "1"
# Some hundred processes import the project: it is compiled once, whatever is usual where the tests run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes says how busy the machine is.
settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")


def pytest_collection_modifyitems(items):
    # Workers take file by file: those that take long come first, so that no worker is left alone with one in the end.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    # Hugging Face's Trainer collects garbage after each training, which takes as long as a small one: 0.3 s to look at
    # all that was imported. What is alive now stays alive.
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    if not _IS_WORKER:
        shutil.rmtree(os.environ["CPSL_TEST_RUN"], ignore_errors=True)
