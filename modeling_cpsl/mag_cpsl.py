"""MAG: the multimodal adaptation gate of Rahman et al. (2020), which shifts the text encoder's embeddings."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .outputs_cpsl import Regression, RegressorInputs
from .regressor_cpsl import MultimodalRegressor, check_probability, check_weight, option


@strict
@dataclass
class MAGOptions:
    """The options of MAG; defaults are those of its paper and code."""

    beta: float | int = option(
        1.0, "The longest shift, as a share of the embedding's length; a shift is never lengthened."
    )
    dropout: float | int = option(0.5, "Dropout on the shifted embeddings.")
    shift_special_tokens: bool = option(
        False, "Whether tokens without a word are shifted by the gates' biases too, as in the released code."
    )

    def __post_init__(self) -> None:
        check_probability("dropout", self.dropout)
        check_weight("beta", self.beta)


class AdaptationGate(nn.Module):
    """Shifts each embedding T of a token by the features x_m of its word.

    g_m = ReLU(W_gm [x_m; T] + b_gm), h = sum_m g_m * (W_m x_m + b_m), alpha = min(beta |T| / (|h| + 1e-6), 1), where a
    length of 0 counts as 1, and T' = Dropout(LayerNorm(T + alpha h)).

    Args:
        sizes: d_m by modality.
        hidden_size: d_t.
        options: The options of MAG.
    """

    def __init__(self, sizes: dict[str, int], hidden_size: int, options: MAGOptions):
        super().__init__()
        self.beta = options.beta
        self.gates = nn.ModuleDict({name: nn.Linear(size + hidden_size, hidden_size) for name, size in sizes.items()})
        self.shifts = nn.ModuleDict({name: nn.Linear(size, hidden_size) for name, size in sizes.items()})
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, embeddings: Tensor, features: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Shifts the embeddings of a batch.

        Args:
            embeddings: (B, L, d_t), T.
            features: (B, L, d_m) by modality, 0 where `present` is False.
            present: (B, L) bool by modality, the tokens that it shifts.

        Returns:
            (B, L, d_t), T'.
        """
        shift = torch.zeros_like(embeddings)
        for name, gate in self.gates.items():
            opened = torch.relu(gate(torch.cat([features[name], embeddings], dim=-1)))
            shift = shift + torch.where(present[name][..., None], opened * self.shifts[name](features[name]), 0.0)
        length = shift.norm(dim=-1, keepdim=True)
        length = torch.where(length == 0, 1.0, length)
        alpha = (self.beta * embeddings.norm(dim=-1, keepdim=True) / (length + 1e-6)).clamp(max=1.0)
        return self.dropout(self.norm(embeddings + alpha * shift))


class MAGRegressor(MultimodalRegressor):
    """A head over a text encoder whose embeddings were shifted; features are taken as the processor gives them.

    The shift goes in before attention, so that each token's state depends on the voice and face of all words.

    Args:
        config: The model's configuration.
    """

    title = "MAG (this package)"
    reference = "Rahman et al. (2020), *Integrating Multimodal Information in Large Pretrained Transformers*, ACL"
    Options = MAGOptions
    config_fields = frozenset({"pooling"})

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.gate = AdaptationGate(config.modality_sizes, config.hidden_size, self.options)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, self.task.num_outputs)

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of a modality's gate."""
        return [*self.gate.gates[name].parameters(), *self.gate.shifts[name].parameters()]

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Those of the gate."""
        return list(self.gate.parameters())

    @contextlib.contextmanager
    def shifted_embeddings(
        self,
        embeddings: nn.Module,
        features: dict[str, Tensor],
        feature_mask: Tensor,
        modality_mask: dict[str, Tensor] | None,
    ) -> Iterator[None]:
        """See [`MultimodalRegressor.shifted_embeddings`]."""
        inputs = self._checked_inputs(None, features, feature_mask, modality_mask)

        def shift(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            values, present = {}, {}
            for name in self.gate.gates:
                values[name], present[name] = self._normalize(name, inputs)
                values[name] = values[name].to(output.dtype)
                if self.options.shift_special_tokens:
                    present[name] = inputs.presence[name][:, None].expand_as(present[name])
            return self.gate(output, values, present)

        handle = embeddings.register_forward_hook(shift)
        try:
            yield
        finally:
            handle.remove()

    def regress(self, inputs: RegressorInputs) -> Regression:
        """Pools the states, and predicts from them; the other modalities are in them already."""
        pooled = torch.tanh(self.dense(self._pool(inputs.hidden, inputs.mask)))
        regression = Regression(self.task.logits(self.out_proj(self.dropout(pooled))))
        if inputs.labels is not None:
            regression.losses = {"task": self._task_loss(regression.logits, inputs)}
        return regression


__all__ = ["AdaptationGate", "MAGOptions", "MAGRegressor"]
