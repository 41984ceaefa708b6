"""Trains a text encoder by low-rank adapters (LoRA, Hu et al., arXiv:2106.09685), with PEFT.

While they are trained, the model's state is that of a plain model: an adapted weight stands in it under its own name,
with what was learnt added to it. So whatever saves or loads the model needs to know nothing of adapters.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


# PEFT's name of an adapter that is the only one, and of its two matrices.
ADAPTER = "default"
MATRICES = ("lora_A", "lora_B")
# What the product of the two is multiplied by: alpha / rank.
SCALING = 2


class LowRankAdapters:
    """Adapters in all linear layers of a text encoder, of which nothing else is trained until they are merged.

    In place of W a layer has W + 2 B A, with A (rank, inputs) and B (outputs, rank), which is 0 at first.

    Args:
        model: A model of transformers over a text encoder, on the device that it is trained on.
        rank: The rank.

    Raises:
        ValueError: The model is another one, or PEFT is not installed.
    """

    def __init__(self, model: nn.Module, rank: int):
        if not isinstance(model, PreTrainedModel):
            raise ValueError(f"lora_rank={rank} needs a model of transformers, and this is a {type(model).__name__}")
        try:
            from peft import LoraConfig, inject_adapter_in_model
            from peft.tuners.lora import LoraLayer
        except ImportError:
            raise ValueError("lora_rank needs peft; say pip install 'cpsl[lora]'") from None
        self.encoder = encoder = model.base_model
        self._trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=SCALING * rank, target_modules="all-linear"), encoder)
        self.layers = {name: layer for name, layer in encoder.named_modules() if isinstance(layer, LoraLayer)}
        for layer in self.layers.values():
            layer.register_state_dict_post_hook(_make_plain)
            layer.register_load_state_dict_pre_hook(_take_plain)

    def merge(self) -> None:
        """Gives the encoder its own layers back, with what the adapters have learnt added to their weights."""
        for name, layer in self.layers.items():
            layer.merge()
            self.encoder.set_submodule(name, layer.get_base_layer())
        del self.encoder.peft_config
        for parameter in self._trainable:
            parameter.requires_grad_(True)

    def own_weights(self) -> dict[str, Tensor]:
        """Copies of the weights W of the adapted layers, by layer."""
        return {name: layer.get_base_layer().weight.detach().clone() for name, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """What a restart needs beside a plain state of the model: the matrices of the adapters."""
        return {
            f"{name}.{matrix}": getattr(layer, matrix)[ADAPTER].weight.detach()
            for name, layer in self.layers.items()
            for matrix in MATRICES
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor], own_weights: dict[str, Tensor]) -> None:
        """Goes on from a [`state_dict`], in a model that has just been given the plain state beside it.

        Args:
            state: The matrices.
            own_weights: What [`own_weights`] were before.

        Raises:
            ValueError: The matrices are of other layers or another rank, or of an encoder with other weights.
        """
        known = self.state_dict()
        if {name: matrix.shape for name, matrix in state.items()} != {name: known[name].shape for name in known}:
            raise ValueError("its adapters are of other layers, or lora_rank is another than before")
        for name, matrix in known.items():
            matrix.copy_(state[name])
        for name, layer in self.layers.items():
            weight = layer.get_base_layer().weight
            sum_before = weight.clone()
            weight.copy_(own_weights[name])
            if not torch.allclose(weight + layer.get_delta_weight(ADAPTER), sum_before, rtol=1e-4, atol=1e-5):
                raise ValueError("its adapters belong to a text encoder with other weights: name the one of before")


@torch.no_grad()
def _make_plain(layer: Any, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Puts the sum W + 2 B A of an adapted layer into a state in place of its parts."""
    parts = {name: state.pop(name) for name in list(state) if name.startswith(prefix)}
    for name in ("weight", "bias"):
        if (value := parts.get(f"{prefix}base_layer.{name}")) is not None:
            state[f"{prefix}{name}"] = value + layer.get_delta_weight(ADAPTER) if name == "weight" else value


@torch.no_grad()
def _take_plain(layer: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lets an adapted layer be given a plain state: its own weights are then all of it, and the adapter adds 0."""
    for name in ("weight", "bias"):
        if f"{prefix}{name}" in state:
            state[f"{prefix}base_layer.{name}"] = state.pop(f"{prefix}{name}")
    first, second = (getattr(layer, matrix)[ADAPTER].weight for matrix in MATRICES)
    state[f"{prefix}{MATRICES[0]}.{ADAPTER}.weight"] = first.clone()
    state[f"{prefix}{MATRICES[1]}.{ADAPTER}.weight"] = torch.zeros_like(second)


__all__ = ["LowRankAdapters"]
