"""Gradient modulation after the backward pass: knows torch only, and serves any model."""

from .modulator import GradientModulator, modulation_coefficients


__all__ = ["GradientModulator", "modulation_coefficients"]
