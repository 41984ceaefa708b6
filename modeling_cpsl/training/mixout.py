"""Mixes a text encoder's weights with those that a training began with (mixout, Lee et al., arXiv:1909.11299).

A layer's forward pass is replaced and its parameters are not, so whatever saves, loads, averages or optimises the
model needs to know nothing of it.
"""

import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mixout:
    """Mixout in all linear layers with trained weights among some parameters, until it is removed.

    Whenever a layer is called in training, each of its weights w is u + d (w - u) / (1 - p), with its first value u,
    and d = 0 with probability p and else 1: it is u, or such that the expectation is w. As in dropout, one d is drawn
    for each input of the layer, and all weights of this input share it. In evaluation a weight is w.

    Args:
        model: The model, on the device that it is trained on.
        parameters: Those of the text encoder.
        probability: p, in (0, 1).

    Raises:
        ValueError: No linear layer is trained.
    """

    def __init__(self, model: nn.Module, parameters: Iterable[nn.Parameter], probability: float):
        trained = {id(parameter) for parameter in parameters if parameter.requires_grad}
        self.layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and id(layer.weight) in trained
        }
        if not self.layers:
            raise ValueError(
                f"mixout={probability} needs linear layers of the text encoder that are trained; leave it out"
            )
        self.first_weights = {name: layer.weight.detach().clone() for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            layer.forward = functools.partial(_mixed, layer, self.first_weights[name], probability)

    def remove(self) -> None:
        """Gives the layers their own forward pass back."""
        for layer in self.layers.values():
            del layer.forward

    def load_first_weights(self, weights: dict[str, Tensor]) -> None:
        """Takes the `first_weights` of the training that is resumed.

        Raises:
            ValueError: They are of other layers.
        """
        if {name: weight.shape for name, weight in weights.items()} != {
            name: weight.shape for name, weight in self.first_weights.items()
        }:
            raise ValueError("its first weights are of other layers than those that mixout has now")
        for name, weight in self.first_weights.items():
            weight.copy_(weights[name])


def _mixed(layer: nn.Linear, first: Tensor, probability: float, inputs: Tensor) -> Tensor:
    """The layer's output, by mixed weights in training."""
    weight = layer.weight
    if layer.training:
        weight = torch.lerp(first, weight, F.dropout(torch.ones_like(first[0]), probability))
    return F.linear(inputs, weight, layer.bias)


__all__ = ["Mixout"]
