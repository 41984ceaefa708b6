"""`python -m modeling_cpsl compare`: runs of `run_train.py` side by side, mean and deviation over seeds."""

import argparse
import sys
from pathlib import Path

from .reporting import METRICS, compare_runs


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status, 1 for folders that hold no finished run."""
    options = _parser().parse_args(arguments)
    try:
        table = compare_runs(options.runs, options.split, options.metrics.split(","))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table.to_string())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modeling_cpsl", description=__doc__)
    command = parser.add_subparsers(dest="command", required=True).add_parser("compare", description=__doc__)
    command.add_argument("runs", type=Path, nargs="+", help="output folders; those that differ in seed are one row")
    command.add_argument("--split", default="test", help="validation or test")
    command.add_argument("--metrics", default=",".join(METRICS), help="separated by commas")
    return parser


if __name__ == "__main__":
    sys.exit(main())
