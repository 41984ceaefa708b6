"""Rules that turn the statistics of an optimizer step into coefficients: one file a method, one line in `RULES`.

A rule works on stacked tensors (M,), one entry a modality, on their device and without a host sync. A modality whose
error is not finite, because no sample of the step has it, takes no part in the comparison.
"""

from .cggm import CGGM
from .conflict_aware import ConflictAware, modulation_coefficients
from .contract import CoefficientRule, StepStatistics
from .controls import InverseVariance, NoBalance, Prioritize, RandomCoefficients
from .ogm import OGM, OGMTanh
from .shapley import Alternate, Shapley


# By the name that the option `balance` gives it.
RULES: dict[str, type[CoefficientRule]] = {
    "none": NoBalance,
    "cpsl": ConflictAware,
    "ogm": OGM,
    "ogm_tanh": OGMTanh,
    "cggm": CGGM,
    "shapley": Shapley,
    "alternate": Alternate,
    "inverse_variance": InverseVariance,
    "prioritize": Prioritize,
    "random": RandomCoefficients,
}


__all__ = ["RULES", "CoefficientRule", "ConflictAware", "NoBalance", "StepStatistics", "modulation_coefficients"]
