"""`python -m modeling_cpsl predict` and `python -m modeling_cpsl compare`.

Exit status: 0 done, 1 something given is wrong, 2 bad usage, 130 interrupted.
"""

import argparse
import sys
from pathlib import Path

from .experiments.comparison import compare_runs
from .experiments.prediction import predict_table
from .pipeline_cpsl import ON_ERROR
from .training.metrics import METRICS


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _predict(options: argparse.Namespace) -> None:
    given = {name: value for name, value in vars(options).items() if name not in ("run", "command")}
    predicted, before, skipped = predict_table(**given)
    print(f"{options.out}: {predicted} utterances predicted, {before} were there, {skipped} skipped")


def _compare(options: argparse.Namespace) -> None:
    print(compare_runs(options.runs, options.split, options.metrics.split(",")).to_string())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modeling_cpsl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    predict = commands.add_parser("predict", help="predictions for a data set, resumable")
    predict.set_defaults(run=_predict)
    predict.add_argument("model", help="folder or Hub id of a CPSL model")
    predict.add_argument("data", help="a file or folder of any known format, or the name of a data set")
    predict.add_argument("out", type=Path, help=".parquet, .jsonl or .csv; what is in it already is not done again")
    predict.add_argument("--batch_size", type=int, default=32, help="utterances in a forward pass")
    predict.add_argument("--device", help="such as cpu or cuda:1; default: the first accelerator")
    predict.add_argument("--num_samples", type=int, default=1, help="above 1: mean and deviation over latent draws")
    predict.add_argument("--explain", action="store_true", help="how much each modality matters")
    predict.add_argument("--on_error", choices=ON_ERROR, default="raise", help="skip: leave bad utterances out")
    predict.add_argument("--data_dir", help="where the files of a data set given by name are")
    predict.add_argument("--format", help="the data's format, where its content is not to tell it")

    compare = commands.add_parser("compare", help="runs of run_train.py, mean and deviation over seeds")
    compare.set_defaults(run=_compare)
    compare.add_argument("runs", type=Path, nargs="+", help="output folders; those that differ in seed are one row")
    compare.add_argument("--split", default="test", help="validation or test")
    compare.add_argument("--metrics", default=",".join(METRICS), help="separated by commas")
    return parser


if __name__ == "__main__":
    sys.exit(main())
