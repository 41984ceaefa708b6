"""The file that says over which options to search: bounds or choices by option."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_builders.files import DataError

from ..experiments.recipe import read_recipe, read_yaml
from .specification import DECIDED_OPTIONS


_PLAIN = (str, int, float)  # and bool, which is a whole number to Python
# What an option of the space may be, as the message shows it.
_EXAMPLES = "{low: 1.0e-5, high: 1.0e-3, log: true}, {low: 64, high: 512, step: 64} or [gated, sum]"


def read_space(path: Path, base: str, options: Sequence[str]) -> dict[str, Any]:
    """Reads the space, and checks that its bounds and choices are values of the options.

    Args:
        path: A YAML file of options. `{low, high}` are bounds, both included, between which a number is drawn: a whole
            one if both are, with `log: true` on a logarithmic scale, with `step` in multiples from the lower bound.
            A list has choices.
        base: The recipe in which the options are changed.
        options: Options as on the command line of `cpsl train`, which override the recipe's.

    Returns:
        Optuna's distribution of each option.

    Raises:
        ValueError: The file is missing or says something else, or an option or a value is wrong.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; name a YAML file of options to search over")
    space = {}
    for name, content in read_yaml(path).items():
        if name in DECIDED_OPTIONS:
            raise DataError(f"{path}: {name} is not searched over; leave it out")
        values = _bounds(content) if isinstance(content, Mapping) else content
        if not isinstance(values, list) or len(values) < 2 or not all(isinstance(each, _PLAIN) for each in values):
            raise DataError(f"{path}: {name} must be such as {_EXAMPLES}, not {content!r}")
        _check_values(str(name), values, base, options, path)
        space[str(name)] = _distribution(content, values, where=f"{path}: {name}")
    if not space:
        raise DataError(f"{path}: it names no option to search over")
    return space


def _check_values(name: str, values: list[Any], base: str, options: Sequence[str], path: Path) -> None:
    """Refuses values that the option cannot have, and an option that the command line decides."""
    read = []
    for value in values:
        try:
            read.append(read_recipe(base, arguments=options, **{name: value}).resolved()[name])
        except ValueError as error:
            raise DataError(f"{path}: {str(error).removeprefix('options: ')}") from error
    if all(value == read[0] for value in read):  # --ablation decides several
        raise DataError(
            f"{path}: {name} is searched over, and the command line sets it to {read[0]}; leave one of them out"
        )


def _bounds(content: Mapping[str, Any]) -> list[int | float] | None:
    """`low` and `high`; None if the mapping is not one of bounds. YAML reads 1e-5 as a text."""
    if not {"low", "high"} <= content.keys() <= {"low", "high", "log", "step"}:
        return None
    try:
        low, high = (value if type(value) is int else float(value) for value in (content["low"], content["high"]))
    except (TypeError, ValueError):
        return None
    return [low, high]


def _distribution(content: Any, values: list[Any], *, where: str) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    try:
        if not isinstance(content, Mapping):
            return CategoricalDistribution(values)
        kind = IntDistribution if all(type(value) is int for value in values) else FloatDistribution
        extra = {name: content[name] for name in ("log", "step") if name in content}
        return kind(*values, **extra)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error


__all__ = ["read_space"]
