"""A specification of an experiment: a recipe, the rows of a table that change its options, seeds and folds."""

import argparse
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data_builders.columns import modality_sizes
from data_builders.command_line import CommandParser, UsageError, did_you_mean
from data_builders.cross_validation import SMALLEST_NUM_FOLDS
from data_builders.files import DataError, broken_files_are_data_errors, replacing_file

from ..experiments.assembly import load_data
from ..experiments.recipe import Recipe, check_arguments, read_recipe, read_yaml
from ..experiments.records import SPECIFICATION_FILE


# What `rows` may be in place of a mapping: a row for every subset of the modalities.
EVERY_SUBSET = "every_subset"
# Names of rows stand in tables, and become names of files.
_ROW_NAME = re.compile(r"[A-Za-z0-9+]([A-Za-z0-9_.+() -]*[A-Za-z0-9_.+)-])?")
# Options that the specification itself decides, which would make several runs the same one; and where they are set.
DECIDED_OPTIONS = {
    "seed": "give --seeds of the experiment",
    "fold": "give --folds of the experiment",
    "fold_group": "name the group in the specification's folds or, without folds, in its base recipe",
    "fold_seed": "name the seed in the specification's folds",
    "output_dir": "give --output_dir of the experiment",
    "resume_from_checkpoint": "leave it out, since the same command continues an experiment",
}


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
        return f"{file_name(self.row)}-seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")


@dataclass(frozen=True)
class Specification:
    """What is trained and compared.

    Attributes:
        base: Recipe of all rows: a YAML file, or the name of a packaged recipe.
        rows: The options in which each row differs from it, by the row's name.
        seeds: Each row is trained with each of these seeds.
        reference: The row that the others are compared with.
        folds: `{"k": 5, "group": "video_id"}` for cross-validation, with a `seed` for another assignment of groups to
            folds; None for the data's own splits.
        options: Options of all rows, which override both; from the command line.
        published: Figures of others to show apart: `{"source": text, "systems": {name: {column: number or text}}}`.
        waterfall: Rows of which each has an ingredient more than the one before; None for none.
    """

    base: str
    rows: dict[str, dict[str, Any]]
    seeds: list[int]
    reference: str
    folds: dict[str, Any] | None = None
    options: list[str] = field(default_factory=list)
    published: dict[str, Any] | None = None
    waterfall: list[str] | None = None

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
            decided |= {"fold_seed": self.folds["seed"]} if "seed" in self.folds else {}
        try:
            return read_recipe(self.base, arguments=self.options, **(self.rows[run.row] | decided))
        except ValueError as error:
            raise ValueError(f"row {run.row}: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Writes `specification.yaml`, from which tables can be made again."""
        with replacing_file(Path(folder) / SPECIFICATION_FILE) as path:
            path.write_text(yaml.safe_dump(asdict(self), sort_keys=False), encoding="utf-8")


def file_name(row: str) -> str:
    """A row's name without what is awkward in a file's name: `MAG (this package)` gives `MAG-this-package`."""
    return re.sub(r"[() ]+", "-", row).strip("-")


def saved_specification(folder: str | Path) -> Specification:
    """The specification of an experiment's folder; its recipe need not be there any more.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = Path(folder, SPECIFICATION_FILE)
    with broken_files_are_data_errors(path, "specification", "give the experiment's command again"):
        return Specification(**read_yaml(path))


def read_specification(
    path: str | Path,
    options: Sequence[str] = (),
    *,
    base: str | None = None,
    seeds: Sequence[int] | None = None,
    num_folds: int | None = None,
) -> Specification:
    """Reads and checks a specification.

    Args:
        path: A YAML file, see [`Specification`]; a recipe that it names is looked for beside it too. Its `rows` may be
            `every_subset`, which stands for a row for every subset of the modalities: of those that `--modalities`
            names or, without it, of all that the data has.
        options: Options of all rows, as on the command line of `cpsl train`.
        base: Recipe in place of the file's.
        seeds: Seeds in place of the file's.
        num_folds: Number of folds in place of the file's.

    Raises:
        ValueError: Something is missing, unknown or of a wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such specification; name a YAML file")
    content = read_yaml(path)
    if base is not None:
        content["base"] = base
    if seeds is not None:
        content["seeds"] = [*seeds]
    if num_folds is not None:
        content["folds"] = (_checked_folds(content.get("folds"), path) or {}) | {"k": num_folds}
    known = set(Specification.__dataclass_fields__)
    for name in content:
        if name not in known:
            raise DataError(
                f"{path}: {name!r} is unknown{did_you_mean(str(name), known)}; it may have {_listed(known)}"
            )
    if missing := {"base", "rows"} - content.keys():
        raise DataError(f"{path}: it lacks {_listed(missing)}")
    beside = path.parent / str(content["base"])
    content["base"] = str(beside if beside.is_file() and base is None else content["base"])
    own_options = _checked_own_options(content.get("options", []), path)
    check_options(own_options, f"{path}: options")
    check_options(options, "command line")
    options = [*own_options, *options]
    if content["rows"] == EVERY_SUBSET:
        content["rows"], options = _every_subset(content["base"], options)
    specification = Specification(
        base=content["base"],
        rows=_checked_rows(content["rows"], path),
        seeds=_checked_seeds(content.get("seeds", [0]), path),
        reference=str(content.get("reference") or next(iter(content["rows"]))),
        folds=_checked_folds(content.get("folds"), path),
        options=options,
        published=_checked_published(content.get("published"), path),
        waterfall=_checked_waterfall(content.get("waterfall"), [*map(str, content["rows"])], path),
    )
    if specification.reference not in specification.rows:
        meant = did_you_mean(specification.reference, specification.rows)
        raise DataError(f"{path}: reference {specification.reference!r} is not one of the rows{meant}")
    for row in specification.rows:  # all are wrong now or in three hours
        specification.recipe(PlannedRun(row, specification.seeds[0], 0), path.parent / "unused")
    return specification


def check_options(options: Sequence[str], source: str, decided: Mapping[str, str] = DECIDED_OPTIONS) -> None:
    """Refuses options of all runs that are wrong by themselves, or that are decided for each run.

    Args:
        options: Options as on the command line of `cpsl train`.
        source: Where they are from, to begin the message with.
        decided: Where each option is set that may not be among them.

    Raises:
        DataError: One is unknown, has a wrong value or is decided elsewhere.
    """
    parser = CommandParser(add_help=False, argument_default=argparse.SUPPRESS)
    for name in decided:
        parser.add_argument(f"--{name}", nargs="?")
    try:
        check_arguments(options)
        given, _ = parser.parse_own_args(options)
    except UsageError as error:
        raise DataError(f"{source}: {error}") from error
    for name in vars(given):
        raise DataError(f"{source}: --{name} would be the same in every run; {decided[name]}")


def _every_subset(base: str, options: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """A row for every subset of the modalities, and the options without `--modalities`, which would override them."""
    data = read_recipe(base, arguments=options).data
    names = data.modality_names or ["text", *modality_sizes(load_data(data)["train"])]
    subsets = (subset for size in range(len(names)) for subset in itertools.combinations(names, size + 1))
    parser = CommandParser(add_help=False)
    parser.add_argument("--modalities")
    _, others = parser.parse_own_args(options)
    return {"+".join(subset): {"modalities": ",".join(subset)} for subset in subsets}, others


def _checked_rows(rows: Any, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(rows, Mapping) or not rows:
        raise DataError(
            f"{path}: rows must be a mapping of names to options, such as {{text: {{modalities: text}}}}, or "
            f"{EVERY_SUBSET}"
        )
    checked: dict[str, dict[str, Any]] = {}
    for name, options in rows.items():
        if not _ROW_NAME.fullmatch(str(name)):
            raise DataError(f"{path}: row {name!r} names files; use letters a to z, digits, spaces and _ . + - ( )")
        if not isinstance(options or {}, Mapping):
            raise DataError(
                f"{path}: row {name}: {options!r} is not a mapping of options; {{}} leaves the base as it is"
            )
        decided = [option for option in options or {} if option in DECIDED_OPTIONS]
        if decided:
            raise DataError(
                f"{path}: row {name}: {decided[0]} is not a row's; set seeds and folds of the specification"
            )
        same = [other for other in checked if file_name(other) == file_name(str(name))]
        if same:
            raise DataError(f"{path}: rows {same[0]!r} and {name!r} would have the same files; rename one of them")
        checked[str(name)] = dict(options or {})
    return checked


def _checked_own_options(options: Any, path: Path) -> list[str]:
    if not isinstance(options, list) or not all(isinstance(word, str) for word in options):
        raise DataError(
            f'{path}: options must be words as on a command line, such as ["--max_steps", "20"], not {options!r}'
        )
    return options


def _checked_seeds(seeds: Any, path: Path) -> list[int]:
    is_right = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not is_right or len(set(seeds)) < len(seeds):
        raise DataError(f"{path}: seeds must be different whole numbers from 0, such as [0, 1, 2], not {seeds!r}")
    return seeds


def _checked_folds(folds: Any, path: Path) -> dict[str, Any] | None:
    if folds is None:
        return None
    is_right = isinstance(folds, Mapping) and folds.keys() <= {"k", "group", "seed"} and type(folds.get("k")) is int
    if not is_right or type(folds.get("seed", 0)) is not int or folds.get("seed", 0) < 0:
        raise DataError(f"{path}: folds must be null or such as {{k: 5, group: video_id, seed: 1}}, not {folds!r}")
    if folds["k"] < SMALLEST_NUM_FOLDS:
        raise DataError(
            f"{path}: folds: k={folds['k']} leaves nothing to train on; it must be at least {SMALLEST_NUM_FOLDS}"
        )
    return {**folds, "group": str(folds.get("group", "video_id"))}


def _checked_published(published: Any, path: Path) -> dict[str, Any] | None:
    if published is None:
        return None
    is_mapping = isinstance(published, Mapping) and published.keys() == {"source", "systems"}
    systems = published["systems"] if is_mapping else None
    if not isinstance(systems, Mapping) or not all(isinstance(figures, Mapping) for figures in systems.values()):
        raise DataError(f"{path}: published must be such as {{source: a paper, systems: {{MAG-BERT: {{mae: .712}}}}}}")
    return dict(published)


def _checked_waterfall(names: Any, rows: Sequence[str], path: Path) -> list[str] | None:
    if names is None:
        return None
    if not isinstance(names, list) or len(names) < 2 or len({*map(str, names)}) < len(names):
        raise DataError(
            f"{path}: waterfall must be different rows in their order, such as [text, full], not {names!r}"
        )
    for name in map(str, names):
        if name not in rows:
            raise DataError(f"{path}: waterfall: {name!r} is not one of the rows{did_you_mean(name, rows)}")
    return [*map(str, names)]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


__all__ = [
    "DECIDED_OPTIONS",
    "EVERY_SUBSET",
    "PlannedRun",
    "Specification",
    "check_options",
    "file_name",
    "read_specification",
    "saved_specification",
]
