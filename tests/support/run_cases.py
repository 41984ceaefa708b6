"""What the tests of whole runs share: short ones, and tables of a few utterances."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from shared_run import built_once

from cpsl import main


@contextmanager
def pictures_not_rendered() -> Iterator[None]:
    """Plots are put together and empty files stand for them: to draw them takes as long as the rest of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        for way in ("figure.Figure.savefig", "backends.backend_agg.FigureCanvasAgg.print_png"):
            patch.setattr(f"matplotlib.{way}", lambda drawn, path, **options: Path(path).touch())
        yield


def sample_run() -> Path:
    """The folder of a finished training of the sample recipe: `CPSL_SAMPLE_RUN`, what `make train` left, or a new one.

    No test may change what is in it.
    """
    given = os.environ.get("CPSL_SAMPLE_RUN")
    if given:
        return Path(given)

    def build(folder: Path) -> None:
        assert main(["train", "sample", "--output_dir", str(folder / "run"), "--disable_tqdm", "true"]) == 0

    return built_once("sample_run", build) / "run"
