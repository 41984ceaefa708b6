"""The pickle of MAG-BERT and ITHP (`mosi.pkl`, `mosei.pkl`).

`{"train", "dev", "test"}`, each a list of `((words, visual, acoustic), label, segment)` with one visual and one
acoustic row a word, z-scored within the segment by its authors.
"""

from pathlib import Path

from ..rows import Source
from .contract import Head, ReadOptions
from .pickles import pickle_files
from .sample_lists import Layout, layout_of, read_samples


FORMAT = "mag_pickle"
FEATURES_ARE_NORMALIZED = True

files = pickle_files

_LAYOUTS = (Layout(fields=3, words=0, lengths={}),)


def recognizes(path: Path, head: Head) -> bool:
    """Whether a pickle holds lists of `((words, visual, acoustic), label, segment)`."""
    return layout_of(head.unpickled, _LAYOUTS) is not None


def read(path: Path, options: ReadOptions) -> Source:
    """Opens `mosi.pkl` or `mosei.pkl`."""
    return read_samples(path, options, FORMAT, _LAYOUTS)
