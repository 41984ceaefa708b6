"""Command lines of the whole project: one spelling of options, suggestions for misspelt ones, errors on one line.

It imports little, so that `--help` and `--version` answer at once.
"""

import argparse
import difflib
import importlib
import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

from .files import one_line


class Command(NamedTuple):
    """A command: where its function is, as `module:function`, and the line that `--help` says about it.

    The function takes the command's arguments, a list of strings. It is imported when the command is run.
    """

    function: str
    help: str


class UsageError(ValueError):
    """Arguments that a command does not understand.

    Args:
        message: What is wrong with them.
        usage: The command's usage line.
    """

    def __init__(self, message: str, usage: str):
        super().__init__(message)
        self.usage = usage


class CommandParser(argparse.ArgumentParser):
    """An argument parser with one spelling of options.

    Options are spelt with underscores, and dashes are accepted in their place (`--on-error` is `--on_error`). They may
    not be abbreviated. What is not understood raises a [`UsageError`], with a suggestion, instead of ending Python, in
    `parse_known_args` too, with which transformers' `HfArgumentParser` parses.

    Args:
        **kwargs: As for `argparse.ArgumentParser`.
    """

    # By an option's name in earlier versions, which is refused, what has taken its place.
    renamed_options: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs | {"allow_abbrev": False, "formatter_class": _HelpFormatter})

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, with no argument left over.

        Raises:
            UsageError: An argument is unknown, misspelt, missing or has a wrong value.
        """
        namespace, unknown = self.parse_own_args(sys.argv[1:] if args is None else args, namespace)
        for argument in unknown:
            option = argument.partition("=")[0]
            if not option.startswith("-"):
                self.error(f"unexpected argument {argument!r}")
            if (name := _with_underscores(option).removeprefix("--")) in self.renamed_options:
                self.error(f"{name} is now {self.renamed_options[name]}")
            known = filter(_has_underscores, self._option_string_actions)
            self.error(f"unknown option {option}{did_you_mean(_with_underscores(option), known)}")
        return namespace, []

    def parse_own_args(self, args: Iterable[str], namespace: Any = None) -> tuple[Any, list[str]]:
        """The options that this parser knows, and in their order the arguments that it leaves to another one.

        Raises:
            UsageError: One of its own is missing or has a wrong value.
        """
        return super().parse_known_args([self._respelt(argument) for argument in args], namespace)

    def error(self, message: str) -> NoReturn:
        """Raises a [`UsageError`] where argparse would print and exit."""
        raise UsageError(message, self.format_usage())

    def _respelt(self, argument: str) -> str:
        option, equals, value = argument.partition("=")
        underscored = _with_underscores(option)
        return f"{underscored}{equals}{value}" if underscored in self._option_string_actions else argument


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each option in one spelling, and defaults only where there is one."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        spellings = action.option_strings
        action.option_strings = list(filter(_has_underscores, spellings))
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = spellings

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _with_underscores(option: str) -> str:
    return "--" + option[2:].replace("-", "_") if option.startswith("--") else option


def _has_underscores(option: str) -> bool:
    return _with_underscores(option) == option


def comma_separated(value: str) -> list[str]:
    """The names that an option lists.

    >>> comma_separated("text, visual")
    ['text', 'visual']
    """
    return [name.strip() for name in value.split(",")]


def numbered_part(text: str) -> tuple[int, int]:
    """One of several parts, counted from 0, as an option names it.

    >>> numbered_part("0/5")
    (0, 5)

    Raises:
        argparse.ArgumentTypeError: The text is not of that form.
    """
    index, _, number = text.partition("/")
    if not (index.isdecimal() and number.isdecimal() and int(index) < int(number)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form i/n with i below n; 0/5 is the first of five")
    return int(index), int(number)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The suffix `; did you mean X?` for a message about an unknown word, or `""` where no known word is similar.

    >>> did_you_mean("tran", ["train", "predict"])
    '; did you mean train?'
    """
    # Dashes are common to all options, and would make them alike.
    names = {name.lstrip("-"): name for name in known}
    word = word.lstrip("-")
    closest = difflib.get_close_matches(word, names, n=1, cutoff=0.7)
    closest = closest or [name for name in names if name.endswith(f"_{word}")]  # epochs: num_train_epochs
    return f"; did you mean {names[closest[0]]}?" if closest else ""


def run_command(
    program: str,
    commands: Mapping[str, Command],
    arguments: Sequence[str] | None = None,
    *,
    renamed: Mapping[str, str] | None = None,
) -> int:
    """Runs the command that is named first, and reports on one line what its user did wrong.

    Args:
        program: The name of the program.
        commands: Its commands by name.
        arguments: The command line without the program's name. Default: the one that Python was started with.
        renamed: By a command's name in earlier versions, which is refused, its present one.

    Returns:
        The exit status: 0 done; 1 something that was given is wrong or failed (ValueError, OSError); 2 wrong usage;
        130 interrupted; 141 the reader of the output is gone. Another exception is a fault of the program and keeps
        its traceback.

    Raises:
        SystemExit: `--help` or `--version` was asked for.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    prefix = program
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console that cannot show a character shows its number
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        name = _command_name(program, commands, arguments, renamed or {})
        prefix = f"{program} {name}"
        module, _, function = commands[name].function.partition(":")
        getattr(importlib.import_module(module), function)(arguments[1:])
        sys.stdout.flush()
    except UsageError as error:
        print(f"{error.usage}{prefix}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        return 141  # as a shell says of a process that SIGPIPE ended
    except (ValueError, OSError) as error:
        print(f"{prefix}: error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:  # a command may say in it how to go on
        print(": ".join([prefix, "; ".join(["interrupted", *map(str, interrupt.args)])]), file=sys.stderr)
        return 130
    return 0


def _command_name(
    program: str, commands: Mapping[str, Command], arguments: Sequence[str], renamed: Mapping[str, str]
) -> str:
    width = max(map(len, commands))
    parser = CommandParser(
        prog=program,
        usage=f"{program} COMMAND [--option value ...]",
        epilog="commands:\n" + "\n".join(f"  {name:{width}}  {command.help}" for name, command in commands.items()),
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    if not arguments:
        parser.error(f"name a command: {', '.join(commands)}")
    if arguments[0] in commands and arguments[1:] == ["--version"]:
        arguments = ["--version"]
    if arguments[0] not in commands:
        if arguments[0] in renamed:
            parser.error(f"{arguments[0]} is now `{program} {renamed[arguments[0]]}`")
        if not arguments[0].startswith("-"):
            parser.error(f"unknown command {arguments[0]!r}{did_you_mean(arguments[0], commands)}")
        if parser.parse_args(arguments).version:  # this ends Python for --help, and refuses any other option
            from importlib.metadata import version  # which takes longer to import than all else here

            print(f"{program} {version('cpsl')}")
            raise SystemExit(0)
        parser.error(f"name a command: {', '.join(commands)}")
    return arguments[0]


__all__ = ["Command", "CommandParser", "UsageError", "comma_separated", "did_you_mean", "run_command"]
