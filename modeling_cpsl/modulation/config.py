"""The options of gradient modulation and their checks."""

import math
from dataclasses import dataclass


MODULATION_TARGETS = ("gradient", "update")


@dataclass(frozen=True, kw_only=True)
class ModulationConfig:
    """Options of gradient modulation, with the paper's values as defaults.

    Args:
        modulate: Gradient modulation (GM), eq. 5 of arXiv:2605.28575.
        penalize: Conflict-aware penalty (CP), eq. 6. Without `modulate` it starts from a coefficient of 1.
        enhance: Gradient enhancement (GE): noise on the modulated gradients, as in OGM-GE. Needs `modulate`.
        alpha: Strength of the damping in eq. 5, at least 0.
        penalty_factor: Factor of the penalty (eta of eq. 6), between 0 and 1.
        start_epoch: First epoch of the modulation window, counted from 0. Outside the window gradients are untouched,
            bit for bit.
        end_epoch: Last epoch of the window, included.
        target: What the coefficient scales. `"gradient"` is the paper's choice, but adaptive optimizers such as AdamW
            cancel a constant scale of the gradient. `"update"` leaves the gradient to the optimizer (GE still adds
            its noise) and scales the step that the optimizer takes, weight decay included; it needs
            [`GradientModulator.attach`] and, during the optimizer's step, a copy of the modulated parameters.

    Raises:
        ValueError: An option is out of its range, or `enhance` is set without `modulate`.
    """

    modulate: bool = True
    penalize: bool = True
    enhance: bool = True
    alpha: float = 1.0
    penalty_factor: float = 0.5
    start_epoch: int = 0
    end_epoch: int = 25
    target: str = MODULATION_TARGETS[0]

    def __post_init__(self) -> None:
        if self.enhance and not self.modulate:
            raise ValueError(
                "enhance=True needs modulate=True, since the noise of gradient enhancement (GE) makes up for what "
                "gradient modulation (GM) damps; set enhance=False too"
            )
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha={self.alpha} must be finite and at least 0")
        if not 0 < self.penalty_factor < 1:
            raise ValueError(f"penalty_factor={self.penalty_factor} must lie between 0 and 1, both excluded")
        if not 0 <= self.start_epoch <= self.end_epoch:
            raise ValueError(
                f"start_epoch={self.start_epoch}, end_epoch={self.end_epoch} is not a window of epochs: it needs "
                "0 <= start <= end"
            )
        if self.target not in MODULATION_TARGETS:
            raise ValueError(f"target={self.target!r} must be one of {', '.join(MODULATION_TARGETS)}")

    def includes(self, epoch: float) -> bool:
        """Whether an epoch lies in the window; the integer part of a fractional epoch counts."""
        return self.start_epoch <= math.floor(epoch) <= self.end_epoch


__all__ = ["MODULATION_TARGETS", "ModulationConfig"]
