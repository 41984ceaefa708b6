"""What the tests of whole runs share: short ones, and tables of a few utterances."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def pictures_not_rendered() -> Iterator[None]:
    """Plots are laid out and empty files stand for them: rendering takes longer than all the rest of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **options: Path(path).touch())
        yield
