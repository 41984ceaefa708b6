"""Gradient modulation after the backward pass: balances the encoders of any multimodal model; imports torch only.

`rules/` turns the statistics of an optimizer step into coefficients, `config` holds the options, `modulator` pools the
statistics and applies the coefficients, `contributions` computes how much each modality contributes to a prediction,
and `sharded` is all that knows sharded gradients.
"""

from .config import ModulationConfig
from .contributions import shapley_values
from .modulator import GradientModulator
from .rules import RULES, CoefficientRule, StepStatistics, modulation_coefficients


__all__ = [
    "RULES",
    "CoefficientRule",
    "GradientModulator",
    "ModulationConfig",
    "StepStatistics",
    "modulation_coefficients",
    "shapley_values",
]
