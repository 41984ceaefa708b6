"""`python -m data_builders inspect | convert | plot`: look at data, turn it into Parquet, draw it."""

import argparse
import sys
from pathlib import Path

from .builder import load_aligned_dataset
from .conversion import write_parquet
from .formats import READERS
from .inspection import inspect, plot


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status, 1 for data that cannot be read."""
    options = _parser().parse_args(arguments)
    reading = {"format": options.format}
    if options.no_labels:
        reading["labels"] = False
    if options.modalities:
        reading["modalities"] = options.modalities.split(",")
    try:
        if options.command == "inspect":
            print(inspect(options.path, **reading))
            return 0
        splits = load_aligned_dataset(options.path, on_error=options.on_error, num_proc=options.num_proc, **reading)
        if options.command == "plot":
            plot(splits, options.out)
            print(options.out)
        else:
            for file in write_parquet(splits, options.out, shard_megabytes=options.shard_megabytes):
                print(file)
    except (OSError, ValueError) as error:  # a DataError is a ValueError
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_builders", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, description in (
        ("inspect", "format, splits, sizes, labels, lengths, faults and leaks of a file or folder"),
        ("convert", "write sharded Parquet and a dataset card, which datasets.load_dataset reads and streams"),
        ("plot", "draw the distributions of labels and lengths as PNG"),
    ):
        command = commands.add_parser(name, help=description, description=description)
        command.add_argument("path", type=Path, help="a file or folder in any known format")
        command.add_argument(
            "--format", choices=sorted(READERS), help="the format, where the content is not to tell it"
        )
        command.add_argument("--modalities", help="the wanted ones, separated by commas; default: all that are found")
        command.add_argument("--no-labels", action="store_true", help="do not read labels, for data that has none")
        if name == "inspect":
            continue
        command.add_argument("out", type=Path, help="the new folder" if name == "convert" else "the PNG file")
        command.add_argument(
            "--on-error", choices=("raise", "skip"), default="raise", help="skip leaves bad samples out"
        )
        command.add_argument("--num-proc", type=int, help="processes that read")
        if name == "convert":
            command.add_argument("--shard-megabytes", type=int, default=64, help="about the size of a file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
