"""Results of predictions: those of earlier calls, the journal, and the store that they are in meanwhile."""

import contextlib
import json
import re
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from data_builders.files import broken_files_are_data_errors

from .prediction_tables import Columns, check_row, read_table


_WAY_OUT = "remove it or name another output"
# Columns of utterances, not of results; several labels have one each.
_OF_UTTERANCES = ("id", "split", "label", "error")


class ResultStore:
    """Results by the digest of what they depend on, and the rows of a table in their order.

    Args:
        database: An empty database.
    """

    def __init__(self, database: sqlite3.Connection):
        self._database = database
        self._database.execute(
            "CREATE TABLE results (digest TEXT PRIMARY KEY, result TEXT, is_new INTEGER) WITHOUT ROWID"
        )
        self._database.execute("CREATE TABLE utterances (description TEXT, digest TEXT)")

    def __contains__(self, digest: str) -> bool:
        return bool(self._database.execute("SELECT 1 FROM results WHERE digest = ?", (digest,)).fetchall())

    def add(self, digest: str, result: dict[str, Any], *, is_new: bool) -> None:
        """Keeps a result; an earlier one with this digest stays as it is."""
        values = digest, json.dumps(result), is_new
        self._database.execute("INSERT OR IGNORE INTO results VALUES (?, ?, ?)", values)

    def append(self, description: dict[str, Any], digest: str | None = None) -> None:
        """Appends an utterance to the table, with the digest of its result if it has one."""
        self._database.execute("INSERT INTO utterances VALUES (?, ?)", (json.dumps(description), digest))

    def rows(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """The rows of the table, each with its result and `digest`, and whether the result is new."""
        joined = "SELECT description, digest, result, is_new FROM utterances LEFT JOIN results USING (digest)"
        for description, digest, result, is_new in self._database.execute(f"{joined} ORDER BY utterances.rowid"):
            yield json.loads(description) | json.loads(result or "{}") | {"digest": digest}, bool(is_new)


@contextlib.contextmanager
def temporary_results() -> Iterator[ResultStore]:
    """A store for the time of a call: in a temporary file, once it is larger than some megabytes."""
    try:
        with contextlib.closing(sqlite3.connect("")) as database:
            yield ResultStore(database)
    except sqlite3.Error as error:
        raise OSError(f"{tempfile.gettempdir()}: temporary results cannot be kept here ({error})") from error


def journal_of(out: Path, process: int) -> Path:
    """The journal of a table, to which one of the processes that predict appends its results."""
    return out.with_name(f"{out.name}.partial{f'-{process}' if process else ''}.jsonl")


def find_journals(out: Path) -> list[Path]:
    """All journals of a table, of however many processes, in the order of the processes' names."""
    name = re.compile(rf"{re.escape(out.name)}\.partial(-\d+)?\.jsonl")
    return sorted(path for path in out.parent.iterdir() if name.fullmatch(path.name))


def known_results(
    tables: Iterable[Path], journals: Iterable[Path], model_digest: str, columns: Columns, needed: Iterable[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What tables and journals hold, each with its digest: results, and what has none but an `error`.

    Those `needed` of the columns are never empty; others are where a modality is missing or the model not calibrated.
    """
    stored = {name: kind for name, kind in columns.items() if name.partition("_")[0] not in _OF_UTTERANCES}
    needed = [*needed, "num_cut", "digest"]
    for path, read in [*((path, read_table) for path in tables), *((path, _read_journal) for path in journals)]:
        rows = enumerate(read(path, columns) if path.exists() else (), 1)
        while True:
            with broken_files_are_data_errors(path, "table of predictions", _WAY_OUT):
                number, row = next(rows, (0, None))
            if not number:
                break
            if not isinstance(row, dict) or not {"model", "digest"} <= row.keys():
                raise ValueError(f"{path}: not predictions of this version (rows without a digest); {_WAY_OUT}")
            if row["model"] != model_digest:
                raise ValueError(f"{path}: predictions of another model or version or with other options; {_WAY_OUT}")
            if row.get("error") is not None:
                yield row["digest"], {"error": row["error"]}
                continue
            try:
                check_row(row, stored, needed=needed)
            except ValueError as error:
                raise ValueError(f"{path}: row {number} is no prediction, {error}; {_WAY_OUT}") from error
            yield row["digest"], {name: row.get(name) for name in stored if name not in ("model", "digest")}


def _read_journal(path: Path, columns: Columns) -> Iterator[Any]:
    """The rows of an interrupted call; a last line that a kill cut short is removed from the file."""
    with path.open("r+b") as file:
        size = 0
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(size)
                return
            size += len(line)
            yield json.loads(line)


@contextlib.contextmanager
def open_journal(path: Path) -> Iterator[TextIO]:
    """Opens the journal to append results, and removes it if a call that fails has none."""
    try:
        with path.open("a", encoding="utf-8", buffering=1) as stream:
            yield stream
    except BaseException:
        if path.is_file() and not path.stat().st_size:
            path.unlink()
        raise


__all__ = ["ResultStore", "find_journals", "journal_of", "known_results", "open_journal", "temporary_results"]
