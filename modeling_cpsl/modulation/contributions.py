"""How much each modality contributes to a prediction: Shapley values over what coalitions of modalities can do."""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def coalitions(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All coalitions of modalities but the empty one, small ones first, each in the order of `names`."""
    return [coalition for size in range(1, len(names) + 1) for coalition in itertools.combinations(names, size)]


def shapley_weight(num_before: int, total: int) -> float:
    """The share of the orders of `total` modalities in which a modality comes right behind these `num_before`."""
    return math.factorial(num_before) * math.factorial(total - num_before - 1) / math.factorial(total)


def shapley_values(values: Mapping[tuple[str, ...], Tensor], names: Sequence[str]) -> Tensor:
    """The Shapley value of each modality (the empty coalition is worth 0); they add up to the value of all together.

    phi_m is the mean, over the orders in which modalities can be added, of what m adds to those before it.

    ```python
    values = {("a",): torch.tensor(0.2), ("v",): torch.tensor(0.1), ("a", "v"): torch.tensor(0.5)}
    shapley_values(values, ["a", "v"])  # tensor([0.3, 0.2])
    ```

    Args:
        values: What each of [`coalitions`] is worth, tensors of one shape: 0-dim, or (B,) for samples.
        names: The modalities.

    Returns:
        (M, ...), of that shape for each modality.
    """
    total = len(names)
    shares = []
    for name in names:
        gains = []
        for coalition in coalitions(names):
            if name in coalition:
                rest = tuple(member for member in coalition if member != name)
                gains.append(shapley_weight(len(rest), total) * (values[coalition] - (values[rest] if rest else 0)))
        shares.append(torch.stack(gains).sum(dim=0))
    return torch.stack(shares)


__all__ = ["coalitions", "shapley_values", "shapley_weight"]
