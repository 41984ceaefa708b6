"""The one list of architectures: what may stand above the text encoder, by the name that `architecture` gives it."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from huggingface_hub.errors import StrictDataclassFieldValidationError

from .cpsl_regressor_cpsl import CPSLRegressor
from .ithp_cpsl import ITHPRegressor
from .late_cpsl import LateRegressor
from .mag_cpsl import MAGRegressor
from .misa_cpsl import MISARegressor
from .mult_cpsl import MulTRegressor
from .primary_cpsl import PrimaryRegressor
from .regressor_cpsl import MultimodalRegressor
from .self_mm_cpsl import SelfMMRegressor


ARCHITECTURES: dict[str, type[MultimodalRegressor]] = {
    "cpsl": CPSLRegressor,
    "late": LateRegressor,
    "mag": MAGRegressor,
    "ithp": ITHPRegressor,
    "self_mm": SelfMMRegressor,
    "misa": MISARegressor,
    "mult": MulTRegressor,
    "primary": PrimaryRegressor,
}


def describe_options() -> str:
    """Which options each architecture has, in words."""
    names = {
        name: [option.name for option in fields(architecture.Options)] for name, architecture in ARCHITECTURES.items()
    }
    return "; ".join(f"{name}: {', '.join(options)}" for name, options in names.items() if options)


def checked_options(architecture: str, given: Mapping[str, Any], modality_names: list[str]) -> dict[str, Any]:
    """All options of an architecture, the defaults of those that are not given included.

    Raises:
        ValueError: An option is unknown, its value is out of range or of another type, or it does not fit the
            modalities.
    """
    regressor = ARCHITECTURES[architecture]
    known = [option.name for option in fields(regressor.Options)]
    for name in given:
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise ValueError(f"architecture_options: {name!r} is not an option of {architecture!r}; {has}")
    try:
        options = regressor.Options(**given)
        regressor.check_options(options, modality_names)
    except StrictDataclassFieldValidationError as error:
        raise ValueError(f"architecture_options: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"architecture_options: {error}") from None
    return asdict(options)


def check_modality_count(architecture: str, names: list[str]) -> None:
    """Refuses modalities, `text` among them, that an architecture cannot combine; ValueError says what it needs."""
    regressor = ARCHITECTURES[architecture]
    fewest, most = regressor.fewest_modalities, regressor.most_modalities
    if regressor.needs_text and "text" not in names:
        raise ValueError(f"architecture={architecture!r} needs text; the modalities are {', '.join(names)}")
    if len(names) < fewest or (most is not None and len(names) > most):
        bounds = f"at least {fewest}" if most is None else f"{fewest} to {most}"
        raise ValueError(f"architecture={architecture!r} combines {bounds} modalities; these are {', '.join(names)}")


__all__ = ["ARCHITECTURES", "check_modality_count", "checked_options", "describe_options"]
