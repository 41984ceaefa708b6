"""Loads packages that only an extra brings."""

import importlib
from types import ModuleType

from ..files import DataError


def load(module: str, *, extra: str = "media") -> ModuleType:
    """Imports a module of a package that comes with an extra.

    Raises:
        DataError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DataError(f"{error.name} is not installed; clips need it: pip install .[{extra}]") from None
