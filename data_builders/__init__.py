"""Where data comes from: one call that reads word-aligned multimodal sentiment data in every form people have it."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .builder import AlignedSentimentBuilder
    from .files import DataError
    from .loading import CMUMosei, CMUMosi, features_are_normalized, load_aligned_dataset, make_builder
    from .safe_pickle import safe_pickle_load


# Each name comes from its module when it is first used, so that importing the package costs nothing.
_MODULES = {"AlignedSentimentBuilder": "builder", "DataError": "files", "safe_pickle_load": "safe_pickle"}

__all__ = [
    "AlignedSentimentBuilder",
    "CMUMosei",
    "CMUMosi",
    "DataError",
    "features_are_normalized",
    "load_aligned_dataset",
    "make_builder",
    "safe_pickle_load",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES.get(name, 'loading')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
