"""Gradient modulation after the backward pass: balances the encoders of any multimodal model; imports torch only.

`config` holds the options, `rules` computes the coefficients from errors and gradient norms, `modulator` pools the
statistics of an optimizer step and applies the coefficients, and `sharded` is all that knows sharded gradients.
"""

from .config import ModulationConfig
from .modulator import GradientModulator
from .rules import modulation_coefficients


__all__ = ["GradientModulator", "ModulationConfig", "modulation_coefficients"]
