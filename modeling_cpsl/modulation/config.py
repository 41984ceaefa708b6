"""The options of gradient modulation and their checks."""

import math
from dataclasses import dataclass

from .rules import ConflictAware


MODULATION_TARGETS = ("gradient", "update")


@dataclass(frozen=True, kw_only=True)
class ModulationConfig:
    """Options of gradient modulation, with the paper's values as defaults.

    Args:
        modulate: Option of the rule [`ConflictAware`], CPSL's own, as are `penalize`, `alpha` and `penalty_factor`.
        penalize: See `modulate`.
        enhance: Gradient enhancement (GE): noise on the modulated gradients, as in OGM-GE, by rules that it belongs
            to. Needs `modulate`.
        alpha: See `modulate`.
        penalty_factor: See `modulate`.
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

    modulate: bool = ConflictAware.modulate
    penalize: bool = ConflictAware.penalize
    enhance: bool = True
    alpha: float = ConflictAware.alpha
    penalty_factor: float = ConflictAware.penalty_factor
    start_epoch: int = 0
    end_epoch: int = 25
    target: str = MODULATION_TARGETS[0]

    def __post_init__(self) -> None:
        if self.enhance and not self.modulate:
            raise ValueError(
                "enhance=True needs modulate=True, since the noise of gradient enhancement (GE) makes up for what "
                "gradient modulation (GM) damps; set enhance=False too"
            )
        self.conflict_aware()
        if not 0 <= self.start_epoch <= self.end_epoch:
            raise ValueError(
                f"start_epoch={self.start_epoch}, end_epoch={self.end_epoch} is not a window of epochs: it needs "
                "0 <= start <= end"
            )
        if self.target not in MODULATION_TARGETS:
            raise ValueError(f"target={self.target!r} must be one of {', '.join(MODULATION_TARGETS)}")

    def conflict_aware(self) -> ConflictAware:
        """CPSL's rule with these options."""
        return ConflictAware(
            modulate=self.modulate, penalize=self.penalize, alpha=self.alpha, penalty_factor=self.penalty_factor
        )

    def includes(self, epoch: float) -> bool:
        """Whether an epoch lies in the window; the integer part of a fractional epoch counts."""
        return self.start_epoch <= math.floor(epoch) <= self.end_epoch


__all__ = ["MODULATION_TARGETS", "ModulationConfig"]
