"""A specification of an experiment: a recipe, the rows of a table that change its options, seeds and folds."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data_builders.command_line import did_you_mean
from data_builders.files import DataError, broken_files_are_data_errors, replacing_file

from ..experiments.recipe import Recipe, read_recipe, read_yaml


SPECIFICATION_FILE = "specification.yaml"
# Names of rows become names of files.
_ROW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
# Options that the specification itself decides.
_DECIDED = ("seed", "fold", "fold_group", "output_dir", "resume_from_checkpoint")


class PlannedRun(NamedTuple):
    """One training of an experiment.

    Attributes:
        row: Name of the row of the table.
        seed: The seed.
        fold: Number of the fold; None for the data's own splits.
    """

    row: str
    seed: int
    fold: int | None

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.row}-seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")


@dataclass(frozen=True)
class Specification:
    """What is trained and compared.

    Attributes:
        base: Recipe of all rows: a YAML file, or the name of a packaged recipe.
        rows: The options in which each row differs from it, by the row's name.
        seeds: Each row is trained with each of these seeds.
        reference: The row that the others are compared with.
        folds: `{"k": 5, "group": "video_id"}` for cross-validation; None for the data's own splits.
        options: Options of all rows, which override both; from the command line.
    """

    base: str
    rows: dict[str, dict[str, Any]]
    seeds: list[int]
    reference: str
    folds: dict[str, Any] | None = None
    options: list[str] = field(default_factory=list)

    @property
    def group(self) -> str:
        """The column whose values are never divided between folds, and which the statistics draw."""
        return (self.folds or {}).get("group", "video_id")

    def planned_runs(self) -> list[PlannedRun]:
        """All runs: every row of all folds with one seed before the next seed, so that early results compare rows."""
        folds = [None] if self.folds is None else range(self.folds["k"])
        return [PlannedRun(row, seed, fold) for seed, fold, row in itertools.product(self.seeds, folds, self.rows)]

    def recipe(self, run: PlannedRun, output_dir: str | Path) -> Recipe:
        """The recipe of one run.

        Raises:
            ValueError: An option of the base, the row or the command line is wrong.
        """
        decided: dict[str, Any] = {"seed": run.seed, "output_dir": str(output_dir), "resume_from_checkpoint": "last"}
        if self.folds is not None:
            decided |= {"fold": f"{run.fold}/{self.folds['k']}", "fold_group": self.group}
        try:
            return read_recipe(self.base, arguments=self.options, **(self.rows[run.row] | decided))
        except ValueError as error:
            raise ValueError(f"row {run.row}: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Writes `specification.yaml`, from which tables can be made again."""
        with replacing_file(Path(folder) / SPECIFICATION_FILE) as path:
            path.write_text(yaml.safe_dump(asdict(self), sort_keys=False), encoding="utf-8")


def saved_specification(folder: str | Path) -> Specification:
    """The specification of an experiment's folder; its recipe need not be there any more.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = Path(folder, SPECIFICATION_FILE)
    with broken_files_are_data_errors(path, "specification", "give the experiment's command again"):
        return Specification(**read_yaml(path))


def read_specification(path: str | Path, options: Sequence[str] = ()) -> Specification:
    """Reads and checks a specification.

    Args:
        path: A YAML file, see [`Specification`]; a recipe that it names is looked for beside it too.
        options: Options of all rows, as on the command line of `cpsl train`.

    Raises:
        ValueError: Something is missing, unknown or of a wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such specification; name a YAML file")
    content = read_yaml(path)
    known = set(Specification.__dataclass_fields__)
    for name in content:
        if name not in known:
            raise DataError(
                f"{path}: {name!r} is unknown{did_you_mean(str(name), known)}; it may have {_listed(known)}"
            )
    if missing := {"base", "rows"} - content.keys():
        raise DataError(f"{path}: it lacks {_listed(missing)}")
    beside = path.parent / str(content["base"])
    specification = Specification(
        base=str(beside if beside.is_file() else content["base"]),
        rows=_checked_rows(content["rows"], path),
        seeds=_checked_seeds(content.get("seeds", [0]), path),
        reference=str(content.get("reference") or next(iter(content["rows"]))),
        folds=_checked_folds(content.get("folds"), path),
        options=[*content.get("options", []), *options],
    )
    if specification.reference not in specification.rows:
        meant = did_you_mean(specification.reference, specification.rows)
        raise DataError(f"{path}: reference {specification.reference!r} is not one of the rows{meant}")
    for row in specification.rows:  # all are wrong now or in three hours
        specification.recipe(PlannedRun(row, specification.seeds[0], 0), path.parent / "unused")
    return specification


def _checked_rows(rows: Any, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(rows, Mapping) or not rows:
        raise DataError(f"{path}: rows must be a mapping of names to options, such as {{text: {{modalities: text}}}}")
    checked = {}
    for name, options in rows.items():
        if not _ROW_NAME.fullmatch(str(name)):
            raise DataError(f"{path}: row {name!r} names files; use letters, digits and any of _ . + -")
        if not isinstance(options or {}, Mapping):
            raise DataError(
                f"{path}: row {name}: {options!r} is not a mapping of options; {{}} leaves the base as it is"
            )
        decided = [option for option in options or {} if option in _DECIDED]
        if decided:
            raise DataError(
                f"{path}: row {name}: {decided[0]} is not a row's; set seeds and folds of the specification"
            )
        checked[str(name)] = dict(options or {})
    return checked


def _checked_seeds(seeds: Any, path: Path) -> list[int]:
    is_right = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not is_right or len(set(seeds)) < len(seeds):
        raise DataError(f"{path}: seeds must be different whole numbers from 0, such as [0, 1, 2], not {seeds!r}")
    return seeds


def _checked_folds(folds: Any, path: Path) -> dict[str, Any] | None:
    if folds is None:
        return None
    is_right = isinstance(folds, Mapping) and folds.keys() <= {"k", "group"} and type(folds.get("k")) is int
    if not is_right:
        raise DataError(f"{path}: folds must be null or such as {{k: 5, group: video_id}}, not {folds!r}")
    return {"k": folds["k"], "group": str(folds.get("group", "video_id"))}


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


__all__ = ["PlannedRun", "Specification", "read_specification", "saved_specification"]
