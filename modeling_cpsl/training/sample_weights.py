"""What each training sample counts by in the losses; `SAMPLE_WEIGHTS` is the list of ways to decide it.

A weight is the same for all steps of an epoch, so that it does not depend on how a step is cut into batches and ranks.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..modulation.rules.contract import Method, check_in_range


@dataclass(kw_only=True)
class SampleWeights(Method):
    """Decides what each training sample counts by; here all alike."""

    @property
    def weighs(self) -> bool:
        """Whether samples can count differently."""
        return type(self) is not SampleWeights

    @property
    def adapts(self) -> bool:
        """Whether the weights change after each epoch, by what was predicted in it."""
        return False

    def updated(self, observed: Mapping[str, Tensor], progress: float) -> Tensor:
        """The weights (N,) of the training samples for the epoch to come, at least 0 and finite.

        Args:
            observed: Of the last step in which a sample took part: `label` (N,), `prediction` (N,),
                `unimodal_predictions` (N, M), and `earlier_prediction` (N,), that of the epoch before. NaN where
                nothing is known.
            progress: From 0 in the first epoch to 1 in the last one.
        """
        raise NotImplementedError


@dataclass(kw_only=True)
class ColumnWeights(SampleWeights):
    """Those of the data's column `weight`."""


@dataclass(kw_only=True)
class Curriculum(SampleWeights):
    r"""Easy samples first, hard ones later (DynCIM-style, arXiv:2503.06456, of which only the abstract is known).

    How hard a sample is, D, is the mean of three z-scores: of the error |f - y|, of the standard deviation of the
    predictions from each modality alone, and of |f - f'|, f' the prediction an epoch earlier. The weight is
    \\(\exp(-kappa D)\\) over its mean, clipped; kappa goes linearly from `first` to `last`. In the first epoch, and
    for a sample that was not seen yet, the weight is 1.

    Args:
        first: kappa in the first epoch; above 0 easy samples count more.
        last: kappa in the last epoch.
        lowest: The smallest weight, above 0 and at most 1.
        highest: The largest weight, at least 1. Wrong labels look like hard samples.

    Raises:
        ValueError: An option is out of its range.
    """

    first: float = 1.0
    last: float = -0.5
    lowest: float = 0.25
    highest: float = 4.0

    def __post_init__(self) -> None:
        check_in_range("first", self.first, -10, 10)
        check_in_range("last", self.last, -10, 10)
        check_in_range("lowest", self.lowest, 1e-6, 1)
        check_in_range("highest", self.highest, 1, 1e6)

    @property
    def adapts(self) -> bool:
        """See [`SampleWeights.adapts`]."""
        return True

    def updated(self, observed: Mapping[str, Tensor], progress: float) -> Tensor:
        """See [`SampleWeights.updated`]."""
        prediction = observed["prediction"]
        parts = [
            (prediction - observed["label"]).abs(),
            _deviation(observed["unimodal_predictions"]),
            (prediction - observed["earlier_prediction"]).abs(),
        ]
        difficulty = torch.stack([_z_scores(part) for part in parts]).nanmean(dim=0)
        kappa = self.first + (self.last - self.first) * progress
        weights = torch.exp(-kappa * difficulty)
        return (weights / weights.nanmean()).clamp(self.lowest, self.highest).nan_to_num(1.0)


@dataclass(kw_only=True)
class GapWeights(SampleWeights):
    r"""More weight for samples that one modality predicts well and another one does not.

    In the style of arXiv:2510.21797, of which only the abstract is known. A sample's gap is the largest difference of
    the likelihoods exp(-|u_m - y| / tau) of its modalities. A mixture of two normal distributions is fitted to the
    gaps, with one variance for both, so that a larger gap is never the more balanced one. The weight is
    \\(1 + strength \, P(imbalanced \mid gap)\\) over its mean; 1 for a sample without two predictions.

    Args:
        strength: At least 0.

    Raises:
        ValueError: The strength is out of its range.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        check_in_range("strength", self.strength, 0, 1e6)

    @property
    def adapts(self) -> bool:
        """See [`SampleWeights.adapts`]."""
        return True

    def updated(self, observed: Mapping[str, Tensor], progress: float) -> Tensor:
        """See [`SampleWeights.updated`]."""
        labels = observed["label"]
        scale = (labels - labels.nanmedian()).abs().nanmean().clamp(min=1e-6)
        likelihoods = torch.exp(-(observed["unimodal_predictions"] - labels[:, None]).abs() / scale)
        known = likelihoods.isfinite()
        if likelihoods.shape[1] < 2:
            return torch.ones_like(labels)
        highest = likelihoods.masked_fill(~known, -math.inf).amax(dim=1)
        lowest = likelihoods.masked_fill(~known, math.inf).amin(dim=1)
        gaps = torch.where(known.sum(dim=1) > 1, highest - lowest, math.nan)
        weights = 1 + self.strength * share_of_upper_component(gaps)
        return (weights / weights.nanmean()).nan_to_num(1.0)


def share_of_upper_component(values: Tensor, num_iterations: int = 50) -> Tensor:
    """The probability (N,) that a value is of the upper one of two normal distributions with one variance.

    They are fitted by expectation maximisation, from the quartiles on. It is 0 where all values are the same.

    Args:
        values: (N,); NaN, which stays, takes no part.
        num_iterations: Number of iterations.
    """
    known = values.isfinite()
    x = torch.where(known, values, 0).double()
    count = known.sum().clamp(min=1)
    means = torch.nanquantile(values.double(), torch.tensor([0.25, 0.75], dtype=torch.float64, device=values.device))
    variance = ((x - x.sum() / count).square() * known).sum() / count / 4
    upper = torch.zeros_like(x)
    share = torch.full((), 0.5, dtype=torch.float64, device=values.device)
    for _ in range(num_iterations):
        closeness = ((x - means[0]).square() - (x - means[1]).square()) / (2 * variance.clamp(min=1e-12))
        upper = torch.sigmoid(closeness + torch.logit(share, eps=1e-9)) * known
        lower = (1 - upper) * known
        share = upper.sum() / count
        sums = torch.stack([(lower * x).sum(), (upper * x).sum()])
        means = sums / torch.stack([lower.sum(), upper.sum()]).clamp(min=1e-12)
        variance = (lower * (x - means[0]).square() + upper * (x - means[1]).square()).sum() / count
    is_constant = torch.where(known, (x - means[0]).abs(), 0).amax() < 1e-12
    return torch.where(known, torch.where(is_constant, 0.0, upper), math.nan).to(values)


def _z_scores(values: Tensor) -> Tensor:
    """How many standard deviations values are above their mean; 0 where all are the same, NaN where they are."""
    centred = values - values.nanmean()
    deviation = centred.square().nanmean().sqrt()
    return torch.where(deviation > 0, centred / deviation, centred * 0)


def _deviation(values: Tensor) -> Tensor:
    """Standard deviation (N,) over the columns of values (N, M) that are known; NaN for fewer than two."""
    centred = values - values.nanmean(dim=1, keepdim=True)
    deviation = centred.square().nanmean(dim=1).sqrt()
    return torch.where(values.isfinite().sum(dim=1) > 1, deviation, math.nan)


# By the name that the option `sample_weights` gives it.
SAMPLE_WEIGHTS: dict[str, type[SampleWeights]] = {
    "none": SampleWeights,
    "column": ColumnWeights,
    "curriculum": Curriculum,
    "gap": GapWeights,
}


__all__ = ["SAMPLE_WEIGHTS", "ColumnWeights", "Curriculum", "GapWeights", "SampleWeights", "share_of_upper_component"]
