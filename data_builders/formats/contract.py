"""The protocol of a reader, and its inputs."""

import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..files import DataError, read_head
from ..rows import Source
from .pickles import load_pickles


class Head:
    """The beginning of a file or folder, by which readers recognise their format. Everything is read at most once.

    Args:
        path: The file or folder.
    """

    def __init__(self, path: Path):
        self.path = path

    @functools.cached_property
    def first_bytes(self) -> bytes:
        """The first bytes of a file, none of a folder.

        Raises:
            DataError: There is no such file, or it is a web page or a Git LFS pointer in place of the data.
        """
        return b"" if self.path.is_dir() else read_head(self.path)

    @functools.cached_property
    def unpickled(self) -> Any:
        """The object of a pickle; see `pickles.load_pickles`.

        Raises:
            DataError: The file is not a pickle that can be read.
        """
        # Of pickles, only those of protocol 0 are text; a list, dict, tuple or OrderedDict begins in them like this.
        if self.first_bytes and not re.search(rb"[\0-\x08\x0e-\x1a]|^\([dlt(]|^c[\w.]+\n\w+\n", self.first_bytes):
            raise DataError(f"{self.path}: this is a text, and neither a table nor a pickle; give the data file")
        return load_pickles(self.path)


OPTIONS_OF_SOME = ("feature_sequences", "folds")  # which readers refuse that do not name them in `OPTIONS`


class ReadOptions(NamedTuple):
    """How data is read.

    Attributes:
        head: The beginning of the data, which was read to recognise its format.
        labels: Whether labels are wanted; without, the data need not have them. None: they are given where they are.
        label_columns: The columns of the label that were asked for by name; none for `label`.
        label_kind: What the label was said to be, one of `label_options.KINDS`; None to tell by its values.
        modalities: The modalities that are wanted; None for all.
        feature_sequences: Modality -> file or root name of a computational sequence.
        folds: Split -> ids of videos, for computational sequences.
        group: A column of a table that says what a sample is from, and is kept.
    """

    head: Head
    labels: bool | None = True
    label_columns: tuple[str, ...] = ()
    label_kind: str | None = None
    modalities: Collection[str] | None = None
    feature_sequences: Mapping[str, str] | None = None
    folds: Mapping[str, Sequence[str]] | None = None
    group: str | None = None

    def wanted(self, modalities: Iterable[str]) -> frozenset[str]:
        """Those of some modalities that are wanted."""
        return frozenset(name for name in modalities if self.modalities is None or name in self.modalities)


def no_labels(where: object, what: str) -> DataError:
    """The error for data without labels where they are wanted.

    Args:
        where: The file, and the split if it has several.
        what: What it lacks.
    """
    return DataError(
        f"{where}: no {what}; to predict on the data use cpsl predict, to inspect or convert it give --no_labels (in "
        "Python: labels=False)"
    )


class Reader(Protocol):
    """A module that reads one format; see the package's docstring."""

    FORMAT: str
    FEATURES_ARE_NORMALIZED: bool

    def recognizes(self, path: Path, head: Head) -> bool:
        """Whether a file or folder is in this format."""

    def files(self, path: Path) -> list[Path]:
        """The files that data in this format is read from; none where there is no such data.

        A cache is good as long as none of them changes, so they are found without unpickling.
        """

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Opens a file or folder of this format."""
