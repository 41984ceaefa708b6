"""The console command `cpsl`.

A new command is a function that takes a list of arguments, in the `commands` module of its room, and one line here.
Each command imports only what it needs.
"""

import sys
from collections.abc import Sequence

from data_builders.command_line import Command, run_command


COMMANDS = {
    "train": Command("modeling_cpsl.experiments.commands:train", "train and evaluate a model from a recipe"),
    "predict": Command("modeling_cpsl.experiments.commands:predict", "write a model's predictions for a data set"),
    "compare": Command("modeling_cpsl.experiments.commands:compare", "compare finished runs, averaged over seeds"),
    "inspect": Command("data_builders.commands:inspect", "report what a data file or folder holds"),
    "convert": Command("data_builders.commands:convert", "convert data into sharded Parquet with a dataset card"),
    "plot": Command("data_builders.commands:plot", "draw the distributions of labels and lengths"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit status; see [`run_command`].

    Args:
        arguments: The command line without the program's name, such as `["train", "sample"]`.
    """
    return run_command("cpsl", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
