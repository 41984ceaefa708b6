"""Gradient modulation after the backward pass: balances the encoders of any multimodal model; imports torch only.

`config` holds the options, `rules` computes the coefficients from errors and gradient norms, `modulator` pools the
statistics of an optimizer step and applies the coefficients, and `sharded` is all that knows sharded gradients.
"""

from typing import TYPE_CHECKING, Any

from .config import ModulationConfig
from .rules import modulation_coefficients


if TYPE_CHECKING:
    from .modulator import GradientModulator


def __getattr__(name: str) -> Any:
    # The modulator needs torch's DTensor, whose import takes half a second that the options alone should not cost.
    if name == "GradientModulator":
        from .modulator import GradientModulator

        return GradientModulator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["GradientModulator", "ModulationConfig", "modulation_coefficients"]
