"""What a user can say that labels are; apart from how they are read, so that a command's help needs no libraries."""

from .command_line import CommandParser


KINDS = ("number", "class", "classes")


def add_label_options(parser: CommandParser) -> None:
    """Adds the options that say what labels are."""
    parser.add_argument(
        "--label_kind",
        choices=KINDS,
        help="what a label is: a number, a class (numbers are names too), or classes, of which a text names several "
        "between semicolons; default: told by the training split",
    )
    parser.add_argument(
        "--label_range",
        type=float,
        nargs="+",
        help="the least and the greatest label, if they are not -3 3; for several numbers one after the other",
    )
