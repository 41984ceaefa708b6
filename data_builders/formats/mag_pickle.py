"""The pickle of MAG-BERT and ITHP (`mosi.pkl`, `mosei.pkl`).

`{"train", "dev", "test"}`, each a list of `((words, visual, acoustic), label, segment)` with one visual and one
acoustic row a word, z-scored within the segment by its authors.
"""

from pathlib import Path
from typing import Any

from ..rows import Source
from .sample_lists import Layout, layout_of, read_samples


FORMAT = "mag_pickle"
FEATURES_ARE_NORMALIZED = True

_LAYOUT = Layout(fields=3, words=0, lengths={})


def matches(data: Any) -> bool:
    """Whether an unpickled object is in this format."""
    return layout_of(data, (_LAYOUT,)) is not None


def read(path: Path, data: dict[str, list]) -> Source:
    """The source of an unpickled `mosi.pkl` or `mosei.pkl`."""
    return read_samples(path, data, FORMAT, _LAYOUT)
