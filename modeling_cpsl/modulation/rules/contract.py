"""What a rule is given, what it returns, and the comparisons that rules share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor


EPS = 1e-8


@dataclass(frozen=True)
class StepStatistics:
    """What is known of an optimizer step after its backward pass, pooled over micro-batches and ranks.

    A modality that no sample of the step has is NaN in `scores`, `errors` and `squared_errors`.

    Attributes:
        scores: (M,), how good each modality is, in (0, 1]: the mean over samples of exp(-error / tau) in regression,
            of the probability of the true class in classification. None if it was not observed.
        errors: (M,), mean error: absolute error in regression, 1 - probability of the true class in classification.
        grad_norms: (M,), mean norm of the gradients of each modality's parameters.
        contributions: (M,), Shapley shares of the modalities in the prediction (see [`shapley_values`]); None in a
            step that did not evaluate them.
        epoch: Epoch, counted from 0, with fractions.
        squared_errors: (M,), mean squared error. None if it was not observed.
        step: Number of the optimizer step, counted from 0.
        seed: Seed of what a rule draws.
    """

    scores: Tensor | None
    errors: Tensor
    grad_norms: Tensor
    contributions: Tensor | None
    epoch: float
    squared_errors: Tensor | None = None
    step: int = 0
    seed: int = 0

    @property
    def absent(self) -> Tensor:
        """(M,) bool, the modalities that no sample of the step has; none where no modality has an error."""
        known = self.errors.isfinite()
        return ~known & known.any()

    def required(self, name: str) -> Tensor:
        """An optional statistic that a rule cannot do without.

        Raises:
            ValueError: It was not observed.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"the rule reads {name}, which were not observed")
        return value


@dataclass(kw_only=True)
class Method:
    """A way to balance modalities: a dataclass whose fields are its options, those with `init=False` its state."""

    def state_dict(self) -> dict[str, Any]:
        """What it has kept of former steps."""
        return {field.name: getattr(self, field.name) for field in fields(self) if not field.init}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state of [`state_dict`].

        Raises:
            ValueError: The state is of another method.
        """
        if state.keys() != self.state_dict().keys():
            raise ValueError(f"the state has {sorted(state)}, {type(self).__name__} needs {sorted(self.state_dict())}")
        for name, value in state.items():
            setattr(self, name, value)


@dataclass(kw_only=True)
class CoefficientRule(Method):
    """Turns the statistics of a step into one factor on the gradients, or on the update, of each modality.

    A rule extends this class in a file of this folder, and is a line in `RULES`. Its options are the fields of a
    dataclass, whose checks are in `__post_init__`; a field with `init=False` is state, which checkpoints keep. It runs
    on the device of the statistics, without reading a value there.
    """

    # Whether gradient enhancement (GE) belongs to the method.
    enhances: ClassVar[bool] = False
    # Whether it only works on the update: a gradient of 0 does not stop an optimizer with momentum or weight decay.
    needs_update_target: ClassVar[bool] = False

    def __call__(self, statistics: StepStatistics) -> Tensor:
        """(M,), finite and at least 0; 1 for a modality that the step cannot judge."""
        raise NotImplementedError

    @property
    def needs(self) -> frozenset[str]:
        """Which of the optional statistics it reads: `scores`, `squared_errors`, `contributions`."""
        return frozenset()

    @property
    def balances(self) -> bool:
        """Whether it can give a coefficient other than 1."""
        return True


def check_in_range(name: str, value: float, low: float, high: float) -> None:
    """ValueError for an option outside [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name}={value} must be between {low:g} and {high:g}")


def stack_scalars(values: Iterable[int | Tensor], like: Tensor | None = None) -> Tensor:
    """Stacks scalars in at least float32 on one device, that of `like` or else of the first tensor."""
    values = list(values)
    device = next(value.device for value in (like, *values) if isinstance(value, Tensor))
    # `torch.full` fills on the device, where `torch.tensor` would copy from the host and wait
    tensors = [value if isinstance(value, Tensor) else torch.full((), value, device=device) for value in values]
    return torch.stack([tensor.to(device, torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors])


def others(comparable: Tensor) -> Tensor:
    """(M, M) bool: which modalities (columns) each modality (row) is compared with."""
    return comparable & ~torch.eye(len(comparable), dtype=torch.bool, device=comparable.device)


def compare_with_others(values: Tensor, comparable: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the comparable others' values, and whether a modality's value is strictly above it, each (M,)."""
    compared = others(comparable)
    mean = torch.where(compared, values, 0).sum(1) / compared.sum(1)
    # as a sum of differences, for the mean of equal values may be rounded away from them
    is_above = torch.where(compared, values[:, None] - values, 0).sum(1) > 0
    return mean, is_above


def exponential_mean(mean: Tensor | None, values: Tensor, momentum: float) -> Tensor:
    """Moves a mean (M,) towards new values; the first value of a modality sets it, one that is not finite does not."""
    values = values.detach()
    mean = torch.full_like(values, torch.nan) if mean is None else mean.to(values.device)
    moved = torch.where(mean.isfinite(), momentum * mean + (1 - momentum) * values, values)
    return torch.where(values.isfinite(), moved, mean)


__all__ = [
    "CoefficientRule",
    "Method",
    "StepStatistics",
    "check_in_range",
    "compare_with_others",
    "exponential_mean",
    "others",
    "stack_scalars",
]
