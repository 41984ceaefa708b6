"""The pickles of MISA and MMIM: one file a split (`train.pkl`, `dev.pkl`, `test.pkl`), each a list of samples.

MISA's samples are `((word_ids, visual, acoustic, words), label, segment)` with one row a word. In MMIM's samples the
first part has two more fields, the true numbers of visual and acoustic frames; these frames are shared out evenly over
the words (`data_builders.alignment.spread_frames`). Both are z-scored within the segment by their authors.
"""

from pathlib import Path

from ..rows import Source
from .contract import Head, ReadOptions
from .pickles import pickle_files
from .sample_lists import Layout, layout_of, read_samples


FORMAT = "misa_pickle"
FEATURES_ARE_NORMALIZED = True

files = pickle_files

_LAYOUTS = (Layout(fields=4, words=3, lengths={}), Layout(fields=6, words=3, lengths={"visual": 4, "acoustic": 5}))


def recognizes(path: Path, head: Head) -> bool:
    """Whether the pickle of a split, or a folder of them, holds samples of MISA or MMIM."""
    return layout_of(head.unpickled, _LAYOUTS) is not None


def read(path: Path, options: ReadOptions) -> Source:
    """Opens a folder of `train.pkl`, `dev.pkl` and `test.pkl`, or one of them."""
    return read_samples(path, options, FORMAT, _LAYOUTS)
