"""What splits should not have in common: ids and videos. Memory does not grow with their number."""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .files import counted


_NUM_NAMED = 5


class Names(NamedTuple):
    """How many names there are, and the first of them."""

    number: int
    first: list[str]


class LeakSearch:
    """The ids and videos of splits, in a database.

    Args:
        database: An empty database.
    """

    def __init__(self, database: sqlite3.Connection):
        self._database, self._splits = database, list[str]()
        self._database.execute("CREATE TABLE ids (id TEXT)")
        self._database.execute(
            "CREATE TABLE videos (video TEXT, split INTEGER, PRIMARY KEY (video, split)) WITHOUT ROWID"
        )

    def add(self, split: str, ids: Iterable[str], videos: Iterable[str]) -> None:
        """Adds samples of a split, by their ids and the ids of their videos."""
        if split not in self._splits:
            self._splits.append(split)
        number = self._splits.index(split)
        self._database.executemany("INSERT INTO ids VALUES (?)", ((name,) for name in ids))
        self._database.executemany("INSERT OR IGNORE INTO videos VALUES (?, ?)", ((name, number) for name in videos))

    def repeated_ids(self) -> Names:
        """The ids that occur more than once in the splits together, in the order of the data."""
        rows = self._database.execute("SELECT id FROM ids GROUP BY id HAVING count(*) > 1 ORDER BY min(rowid)")
        return _names(name for (name,) in rows)

    def shared_videos(self) -> Names:
        """The videos that are in more than one split, in alphabetical order."""
        rows = self._database.execute("SELECT video FROM videos GROUP BY video HAVING count(*) > 1 ORDER BY video")
        return _names(name for (name,) in rows)

    def messages(self) -> list[str]:
        """What is said of ids that occur more than once, and of each two splits that share videos."""
        said = []
        if (repeated := self.repeated_ids()).number:
            said.append(f"{counted(repeated.number, 'id')} more than once, the first is {repeated.first[0]}")
        pairs = self._database.execute(
            "SELECT one.split, other.split, video FROM videos one JOIN videos other USING (video) "
            "WHERE one.split < other.split ORDER BY one.split, other.split, video"
        )
        for (one, other), rows in itertools.groupby(pairs, key=lambda row: row[:2]):
            shared = _names(video for *_, video in rows)
            said.append(
                f"{self._splits[one]} and {self._splits[other]} share {counted(shared.number, 'video')}, so speakers "
                f"leak between them; the first is {shared.first[0]}"
            )
        return said


def _names(names: Iterable[str]) -> Names:
    rest = iter(names)
    first = list(itertools.islice(rest, _NUM_NAMED))
    return Names(len(first) + sum(1 for _ in rest), first)


@contextlib.contextmanager
def leak_search() -> Iterator[LeakSearch]:
    """A search that keeps names in a temporary file, once they are some megabytes."""
    with contextlib.closing(sqlite3.connect("")) as database:
        yield LeakSearch(database)
