"""The options of one of several methods, such as those of `--balance`, by name and with their types."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar


Method = TypeVar("Method")

# The type of a training argument that takes them: `__post_init__` makes a dict of a command line's texts.
if TYPE_CHECKING:
    MethodOptions = dict[str, Any] | list[str] | None
else:
    MethodOptions = list[str] | None


def chosen_method(arguments: Any, option: str, methods: Mapping[str, type[Method]]) -> Method:
    """The method that an option of the arguments names, made with its options."""
    method, given = getattr(arguments, option), getattr(arguments, f"{option}_options") or {}
    return methods[method](**_checked_options(option, method, methods, given))


def check_method(arguments: Any, option: str, methods: Mapping[str, type]) -> None:
    """Checks an option of the arguments that names a method, and makes a mapping of that method's options.

    Args:
        arguments: The arguments, with the fields `<option>` and `<option>_options`.
        option: The option that names the method.
        methods: The methods by name: dataclasses whose fields are their options, and which check their values.

    Raises:
        ValueError: There is no such method; or an option of it is unknown, has no value, or one of another type or
            out of range.
    """
    method, given = getattr(arguments, option), getattr(arguments, f"{option}_options")
    if method not in methods:
        raise ValueError(f"{option}={method!r} must be one of {', '.join(methods)}")
    if given is not None:
        setattr(arguments, f"{option}_options", _checked_options(option, method, methods, given))


def _checked_options(
    option: str, method: str, methods: Mapping[str, type], given: Iterable[str] | Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a method by name, from a mapping or from texts such as `alpha=0.3`."""
    if not isinstance(given, Mapping):
        if wrong := [text for text in given if "=" not in text]:
            raise ValueError(f"{option}_options: {wrong[0]!r} must be a name and a value, as in alpha=0.3")
        given = {name: value for name, _, value in (text.partition("=") for text in given)}
    defaults = {field.name: field.default for field in fields(methods[method]) if field.init}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in defaults:
            has = f"its options are {', '.join(defaults)}" if defaults else "it has none"
            raise ValueError(f"{option}_options: {name!r} is not an option of {option}={method}; {has}")
        try:
            checked[name] = _converted(value, type(defaults[name]))
        except (KeyError, TypeError, ValueError):
            kind = {bool: "true or false", int: "a whole number"}.get(type(defaults[name]), "a number")
            raise ValueError(f"{option}_options: {name}={value!r} must be {kind}") from None
    try:
        methods[method](**checked)
    except ValueError as error:
        raise ValueError(f"{option}_options: {error}") from None
    return checked


def _converted(value: Any, kind: type) -> Any:
    """A value as the type of the option's default; an error where it is none."""
    return {"true": True, "false": False}[str(value).lower()] if kind is bool else kind(value)


__all__ = ["MethodOptions", "check_method", "chosen_method"]
