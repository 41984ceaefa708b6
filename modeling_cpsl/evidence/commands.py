"""The commands on experiments. What they need is imported when they run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_builders.command_line import CommandParser, comma_separated, numbered_part
from data_builders.files import DataError, check_at_least_1


def experiment(arguments: Sequence[str]) -> None:
    """Train the runs of a specification and report on them. Run the same command again to resume."""
    parser = CommandParser(
        prog="cpsl experiment",
        description=experiment.__doc__,
        epilog="Options of `cpsl train` may follow, such as --dataset data/mosi.pkl; they hold for every run.",
    )
    parser.add_argument("specification", type=Path, help="a YAML file: base recipe, rows, seeds, folds, reference")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for records, tables and figures")
    parser.add_argument("--workers", type=int, default=1, help="number of runs at a time")
    parser.add_argument(
        "--shard", type=numbered_part, default="0/1", help="i/n: do the i-th of n parts, which may share a folder"
    )
    instead = parser.add_argument_group("in place of what the specification says")
    instead.add_argument("--base", help="the base recipe, a YAML file or the name of a packaged one")
    instead.add_argument("--seeds", type=_numbers, help="seeds separated by commas, such as 0,1,2")
    instead.add_argument("--folds", type=int, help="number of folds of a cross-validation")
    options, others = parser.parse_own_args(arguments)
    check_at_least_1(workers=options.workers, folds=options.folds)
    from .records import has_finished_run
    from .report import write_report
    from .running import check_same_experiment, launched_place, run_experiment
    from .specification import read_specification

    place = launched_place(options.shard)  # before recipes are read, whose processes would look for each other
    specification = read_specification(
        options.specification, others, base=options.base, seeds=options.seeds, num_folds=options.folds
    )
    check_same_experiment(specification, options.output_dir)
    try:
        failed = run_experiment(specification, options.output_dir, workers=options.workers, place=place)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues from here") from None
    is_launched = place.shard != options.shard
    if not is_launched or has_finished_run(options.output_dir):
        print(write_report(options.output_dir))
    if failed:
        message = (
            f"{len(failed)} of the runs failed, the first is {failed[0].name}; their records say why, and the same "
            "command tries them again"
        )
        if not is_launched:
            raise ValueError(message)
        print(message, file=sys.stderr)  # a launcher would end the other processes for an error of this one


def search(arguments: Sequence[str]) -> None:
    """Search for better options of a recipe, on the validation split. Run the same command again to resume."""
    parser = CommandParser(
        prog="cpsl search",
        description=search.__doc__,
        epilog="Options of `cpsl train` may follow, such as --dataset data/mosi.pkl; they hold for every trial.",
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a packaged recipe")
    parser.add_argument("space", type=Path, help="a YAML file with bounds or choices of the options to search over")
    parser.add_argument("--trials", type=int, required=True, help="number of trials, earlier calls' included")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for records, the best recipe and plot")
    parser.add_argument("--seed", type=int, default=0, help="seed of the search and of every training")
    parser.add_argument("--folds", type=int, help="judge by a cross-validation with so many folds")
    parser.add_argument("--workers", type=int, default=1, help="number of trainings at a time, of a trial's folds")
    options, others = parser.parse_own_args(arguments)
    check_at_least_1(trials=options.trials, workers=options.workers, folds=options.folds)
    from .search import search as run_search

    try:
        found = run_search(
            options.recipe,
            options.space,
            options.output_dir,
            options.trials,
            options=others,
            seed=options.seed,
            num_folds=options.folds,
            workers=options.workers,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues from here") from None
    print(found)


def report(arguments: Sequence[str]) -> None:
    """Compare finished runs: an experiment's, whose tables and figures are made anew, or any others in one table.

    Runs that differ in their seed alone are one row, mean and standard deviation. Nothing is trained.
    """
    parser = CommandParser(prog="cpsl report", description=report.__doc__)
    parser.add_argument(
        "paths", type=Path, nargs="+", help="output_dir of `cpsl experiment`, or those of any number of `cpsl train`"
    )
    parser.add_argument(
        "--split", help="the split to report on; default: test or, where no run of an experiment has it, validation"
    )
    parser.add_argument(
        "--metrics", type=comma_separated, help="names separated by commas; default: those that every run has"
    )
    parser.add_argument("--reference", help="row that the others are compared with; default: the specification's")
    parser.add_argument(
        "--errors", action="store_true", help="also write where its models err; needs predictions and data"
    )
    options = parser.parse_args(arguments)
    from ..experiments.records import is_experiment
    from .report import report_on_runs, write_report

    experiments = [path for path in options.paths if is_experiment(path)]
    if experiments and len(options.paths) > 1:
        raise DataError(f"{experiments[0]}: this is an experiment, which is reported on by itself; name nothing else")
    if experiments:
        if options.errors:  # it needs more than a report does, and is refused before anything is printed
            from .errors import write_error_analysis

            errors = write_error_analysis(experiments[0], split=options.split)
        print(write_report(experiments[0], split=options.split, reference=options.reference, metrics=options.metrics))
        if options.errors:
            print(f"where its models err: {errors}")
        return
    for name in ("reference", "errors"):
        if getattr(options, name):
            raise DataError(f"{options.paths[0]}: this is no run of `cpsl experiment`, which --{name} is for")
    print(report_on_runs(options.paths, options.split or "test", options.metrics))


def diagnose(arguments: Sequence[str]) -> None:
    """Look into the decision of a trained model: what it makes of each modality, and what it leaves unused.

    Every split but train is diagnosed; tables are printed, and written with a JSON file and a picture.
    """
    parser = CommandParser(prog="cpsl diagnose", description=diagnose.__doc__)
    parser.add_argument("model", help="folder or Hub id of a CPSL model")
    parser.add_argument("data", help="labelled data of any known format, or the name of a data set")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for JSON, tables and picture")
    parser.add_argument("--data_dir", help="where the files of a data set given by name are")
    parser.add_argument("--format", help="the data's format, where its content does not tell it")
    parser.add_argument("--group", default="video_id", help="column of what a sample is from, for the intervals")
    parser.add_argument("--batch_size", type=int, default=32, help="utterances in a forward pass")
    parser.add_argument("--device", help="such as cpu or cuda:1; default: the first accelerator")
    options = parser.parse_args(arguments)
    from .diagnosis_report import write_diagnosis

    print(write_diagnosis(**vars(options)))


def score_quality(arguments: Sequence[str]) -> None:
    """Weigh training samples that were made of others by how good they are, for --sample_weights column.

    Name a model that was trained on the originals alone. Samples that were made of others are named after them, as
    clip_3~noise is after clip_3, or made here with --augment.
    """
    parser = CommandParser(prog="cpsl score_quality", description=score_quality.__doc__)
    parser.add_argument("model", help="folder or Hub id of a CPSL model, trained on the originals")
    parser.add_argument("data", help="labelled data of any known format, or the name of a data set")
    parser.add_argument("out", type=Path, help="the new folder, of Parquet files")
    parser.add_argument(
        "--augment",
        type=comma_separated,
        default=[],
        help="ways to make samples, separated by commas: word_drop, frame_jitter, voice_exchange",
    )
    parser.add_argument("--data_dir", help="where the files of a data set given by name are")
    parser.add_argument("--format", help="the data's format, where its content does not tell it")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn")
    parser.add_argument("--batch_size", type=int, default=32, help="utterances in a forward pass")
    parser.add_argument("--device", help="such as cpu or cuda:1; default: the first accelerator")
    options = parser.parse_args(arguments)
    from .quality_weights import write_quality_weights

    print(write_quality_weights(**vars(options)))


def _numbers(text: str) -> list[int]:
    numbers = comma_separated(text)
    if not all(map(str.isdecimal, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers separated by commas, as 0,1,2 is")
    return list(map(int, numbers))
