"""The commands on data: `cpsl inspect`, `cpsl convert` and `cpsl plot`. What they need is imported when they run."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .command_line import CommandParser, comma_separated
from .files import ON_ERROR
from .label_options import add_label_options


MODALITIES_HELP = "the modalities to read, separated by commas; default: all"


def inspect(arguments: Sequence[str]) -> None:
    """Report the format, splits, sizes, labels, lengths, faults and leaks of a data file or folder."""
    options = _parser("inspect", inspect.__doc__).parse_args(arguments)
    from .inspection import inspect as report

    print(report(options.path, **_reading_options(options)))


def convert(arguments: Sequence[str]) -> None:
    """Write sharded Parquet files and a dataset card, which datasets.load_dataset reads and streams."""
    parser = _loading_parser("convert", convert.__doc__, out="the new folder")
    parser.add_argument("--shard_megabytes", type=int, default=64, help="approximate size of a file")
    options = parser.parse_args(arguments)
    from .conversion import write_parquet

    for file in write_parquet(_load(options), options.out, shard_megabytes=options.shard_megabytes):
        print(file)


def plot(arguments: Sequence[str]) -> None:
    """Draw the distributions of labels and lengths as a PNG file."""
    options = _loading_parser("plot", plot.__doc__, out="the PNG file").parse_args(arguments)
    from .distributions import plot as draw

    draw(_load(options), options.out)
    print(options.out)


def _parser(command: str, description: str | None) -> CommandParser:
    parser = CommandParser(prog=f"cpsl {command}", description=description)
    parser.add_argument(
        "path", help="a file or folder in any known format, or the name of a data set, such as `sample`"
    )
    parser.add_argument("--data_dir", help="where the files of a data set given by name are")
    parser.add_argument("--format", help="the format, where the content does not tell it; `cpsl inspect` names it")
    parser.add_argument("--modalities", type=comma_separated, help=MODALITIES_HELP)
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument(
        "--labels",
        type=comma_separated,
        help="the columns of the label, separated by commas, if it is not `label`; several are several numbers",
    )
    labels.add_argument("--no_labels", action="store_true", help="do not read labels, for data that has none")
    add_label_options(parser)
    return parser


def _loading_parser(command: str, description: str | None, *, out: str) -> CommandParser:
    parser = _parser(command, description)
    parser.add_argument("out", type=Path, help=out)
    parser.add_argument("--on_error", choices=ON_ERROR, default="raise", help="skip: leave bad samples out")
    parser.add_argument("--num_proc", type=int, help="number of processes that read")
    return parser


def _reading_options(options: Namespace) -> dict[str, Any]:
    names = ("data_dir", "format", "modalities", "label_kind", "label_range")
    return {name: getattr(options, name) for name in names} | {"labels": options.labels or not options.no_labels}


def _show_progress_on_terminals_only() -> None:
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _load(options: Namespace) -> Any:
    from .loading import load_aligned_dataset

    _show_progress_on_terminals_only()
    return load_aligned_dataset(
        options.path, on_error=options.on_error, num_proc=options.num_proc, **_reading_options(options)
    )
