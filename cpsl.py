"""The console command `cpsl`.

A new command is a function that takes a list of arguments, in the `commands` module of its room, and one line here.
Each command imports only what it needs.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence


try:
    from data_builders.command_line import Command, run_command
except KeyboardInterrupt:  # from here on `run_command` answers it
    sys.exit(130)


COMMANDS = {
    "train": Command("modeling_cpsl.experiments.commands:train", "train and evaluate a model from a recipe"),
    "predict": Command("modeling_cpsl.experiments.commands:predict", "write a model's predictions for a data set"),
    "experiment": Command("modeling_cpsl.evidence.commands:experiment", "train a grid of runs and compare its rows"),
    "search": Command("modeling_cpsl.evidence.commands:search", "search for better options of a recipe"),
    "report": Command("modeling_cpsl.evidence.commands:report", "compare finished runs: tables, figures, intervals"),
    "diagnose": Command("modeling_cpsl.evidence.commands:diagnose", "look into the decision of a trained model"),
    "score_quality": Command("modeling_cpsl.evidence.commands:score_quality", "weigh samples made of others"),
    "export": Command("modeling_cpsl.experiments.commands:export", "write a model as an ONNX file"),
    "extract_encoder": Command("modeling_cpsl.experiments.commands:extract_encoder", "write a model's text encoder"),
    "demo": Command("modeling_cpsl.experiments.commands:demo", "show a local page to try a model on"),
    "inspect": Command("data_builders.commands:inspect", "report what a data file or folder holds"),
    "convert": Command("data_builders.commands:convert", "convert data into sharded Parquet with a dataset card"),
    "extract": Command("data_builders.media.commands:extract", "turn video and audio clips into a data set"),
    "plot": Command("data_builders.commands:plot", "draw the distributions of labels and lengths"),
}


# Commands of earlier versions, and what stands in their place.
RENAMED = {"compare": "report"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit status; see [`run_command`].

    Args:
        arguments: The command line without the program's name, such as `["train", "sample"]`.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    asks_for_help = not {"-h", "--help"}.isdisjoint(arguments)
    with _without_registration() if asks_for_help else contextlib.nullcontext():
        return run_command("cpsl", COMMANDS, arguments, renamed=RENAMED)


@contextlib.contextmanager
def _without_registration() -> Iterator[None]:
    """Lets modules of `modeling_cpsl` be imported without its `__init__`, which takes seconds to register the models.

    Options can be shown without it. Afterwards nothing of the package is imported, so that it can be as usual.
    """
    package = "modeling_cpsl"
    if package in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(package)
    assert spec is not None
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


if __name__ == "__main__":
    sys.exit(main())
