"""What the tests of modulation share: eq. 5 and 6 in plain Python, groups with gradients, a small model."""

import functools
import math

import torch
from hypothesis import strategies as st
from torch import nn


EPS = 1e-8
DAMPED_TIE = 1 - math.tanh(1.0)  # the largest coefficient below 1 at alpha = 1: 0.238

# few distinct values, so that ties and exact zeros are drawn often
magnitudes = st.one_of(st.sampled_from([0.0, 0.1, 0.7, 0.7, 1.3]), st.floats(0, 6))
alphas = st.sampled_from([0.0, 0.1, 1.0, 3.0])
penalty_factors = st.floats(0.01, 0.99)


def reference_coefficients(errors, norms, alpha=1.0, penalty_factor=0.5, modulate=True, penalize=True):
    """Eq. 5 and 6 with numbers and loops; None where a near-tie would leave the answer to the rounding."""
    coefficients = {}
    for name, error in errors.items():
        other_errors = [e for n, e in errors.items() if n != name]
        other_norms = [g for n, g in norms.items() if n != name]
        coefficients[name] = 1.0
        if not other_errors:
            continue
        score = 1 / (error + EPS)
        mean_of_others = sum(1 / (e + EPS) for e in other_errors) / len(other_errors)
        if all(e == error for e in other_errors):
            is_better = False
        elif math.isclose(score, mean_of_others, rel_tol=1e-9):
            return None
        else:
            is_better = score > mean_of_others
        if modulate and is_better:
            coefficients[name] = 1 - math.tanh(alpha * max(score / (mean_of_others + EPS), 0))
        mean_norm = sum(other_norms) / len(other_norms)
        if not all(g == norms[name] for g in other_norms) and math.isclose(norms[name], mean_norm, rel_tol=1e-9):
            return None
        has_larger_norm = norms[name] > mean_norm and not all(g == norms[name] for g in other_norms)
        if penalize and all(error < e for e in other_errors) and has_larger_norm:
            coefficients[name] *= penalty_factor
    return coefficients


def scalars(values, dtype=torch.float64):
    return {name: torch.tensor(value, dtype=dtype) for name, value in values.items()}


def floats_of(tensors):
    return {name: tensor.item() for name, tensor in tensors.items()}


def group(*shapes, seed=0, dtype=torch.float32):
    """Parameters with gradients that have a mean and a deviation."""
    generator = torch.Generator().manual_seed(seed)
    parameters = []
    for shape in shapes:
        parameter = nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        parameter.grad = (0.3 + 0.1 * torch.randn(shape, generator=generator)).to(dtype)
        parameters.append(parameter)
    return parameters


def groups_with_gradients(dtype=torch.float32):
    return {"acoustic": group((4, 3), (4,), dtype=dtype), "visual": group((5, 2), (5,), (1,), seed=1, dtype=dtype)}


def gradients_of(groups):
    return {name: [parameter.grad.clone() for parameter in parameters] for name, parameters in groups.items()}


def assert_equal(actual, expected):
    """Nested lists and dicts of tensors, bit for bit."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def reference_norms(gradients):
    return {name: sum(g.pow(2).sum().sqrt().item() for g in of) / len(of) for name, of in gradients.items()}


def observe(modulator, acoustic, visual, count=1):
    sums = {"acoustic": torch.tensor(acoustic), "visual": torch.tensor(visual)}
    modulator.observe(sums, count)


class TwoEncoders(nn.Module):
    """A regression with a head a modality; sizes that two processes cannot share evenly."""

    def __init__(self):
        super().__init__()
        self.acoustic = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))
        self.visual = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 1))

    def encoders(self):
        return {"acoustic": self.acoustic, "visual": self.visual}

    def forward(self, batch):
        predictions = {name: encoder(batch[name])[:, 0] for name, encoder in self.encoders().items()}
        labels = batch["labels"]
        loss = (sum(predictions.values()) - labels).pow(2).mean()
        loss = loss + sum((prediction - labels).pow(2).mean() for prediction in predictions.values())
        return {name: (prediction - labels).detach().abs() for name, prediction in predictions.items()}, loss


def make_batch(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = functools.partial(torch.randn, generator=generator)
    return {"acoustic": draw(size, 5), "visual": draw(size, 4), "labels": 2 * draw(size)}
