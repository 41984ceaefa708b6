"""The pickles of MISA and MMIM: one file a split (`train.pkl`, `dev.pkl`, `test.pkl`), each a list of samples.

MISA's samples are `((word_ids, visual, acoustic, words), label, segment)` with one row a word. MMIM's first part ends
with two more fields, the true numbers of visual and acoustic frames; such frames are shared out evenly over the words
(`data_builders.alignment.spread_frames`). Both are z-scored within the segment by their authors.
"""

from pathlib import Path
from typing import Any

from ..rows import Source
from .sample_lists import Layout, layout_of, read_samples


FORMAT = "misa_pickle"
FEATURES_ARE_NORMALIZED = True

_LAYOUTS = (Layout(fields=4, words=3, lengths={}), Layout(fields=6, words=3, lengths={"visual": 4, "acoustic": 5}))


def matches(data: Any) -> bool:
    """Whether unpickled splits are in this format."""
    return layout_of(data, _LAYOUTS) is not None


def read(path: Path, data: dict[str, list]) -> Source:
    """The source of unpickled splits by the names of their files."""
    return read_samples(path, data, FORMAT, layout_of(data, _LAYOUTS))
