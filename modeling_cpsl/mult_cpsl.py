"""MulT: crossmodal attention from each modality to each other one (Tsai et al., 2019)."""

import itertools
import math
from dataclasses import dataclass, fields

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .outputs_cpsl import Regression, RegressorInputs
from .pooling_cpsl import masked
from .regressor_cpsl import MultimodalRegressor, check_probability, check_size, option
from .rows_cpsl import left_aligned


# The released code's: layers of self-attention over what crossmodal attention made, at least.
FEWEST_SELF_LAYERS = 3


@strict
@dataclass
class MulTOptions:
    """The options of MulT; defaults are those of its released code for CMU-MOSI, but for `causal`."""

    size: int = option(30, "Size of each modality's tokens.")
    num_heads: int = option(5, "Number of attention heads.")
    num_layers: int = option(5, "Layers of each crossmodal transformer.")
    causal: bool = option(False, "Whether a token attends only to tokens up to its own place, as in the code.")
    attention_dropout: float | int = option(0.1, "Dropout on attention weights.")
    relu_dropout: float | int = option(0.1, "Dropout within the feed-forward layers.")
    residual_dropout: float | int = option(0.1, "Dropout on what a layer adds.")
    embedding_dropout: float | int = option(0.25, "Dropout on the tokens with their positions.")
    output_dropout: float | int = option(0.0, "Dropout before the prediction.")

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name.endswith("dropout")):
            check_probability(name, getattr(self, name))
        for name in ("size", "num_heads", "num_layers"):
            check_size(name, getattr(self, name))
        if self.size % self.num_heads:
            raise ValueError(f"size={self.size} must be a multiple of num_heads={self.num_heads}")


def positions(length: int, size: int, device: torch.device) -> Tensor:
    """Sinusoidal position embeddings (L, d): sines and then cosines of p / 10000^(i / (ceil(d / 2) - 1)), p from 1."""
    half = math.ceil(size / 2)
    scale = torch.exp(torch.arange(half, device=device) * (-math.log(10000.0) / max(half - 1, 1)))
    angles = torch.arange(1, length + 1, device=device)[:, None] * scale
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :size]


class CrossmodalLayer(nn.Module):
    """One layer: attention from a target's tokens to a source's, and a feed-forward part, each after LayerNorm.

    Args:
        size: d, of both modalities' tokens.
        options: The options of MulT.
    """

    def __init__(self, size: int, options: MulTOptions):
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(
            size, options.num_heads, dropout=options.attention_dropout, batch_first=True
        )
        self.feedforward_norm = nn.LayerNorm(size)
        self.feedforward = nn.Sequential(
            nn.Linear(size, 4 * size), nn.ReLU(), nn.Dropout(options.relu_dropout), nn.Linear(4 * size, size)
        )
        self.dropout = nn.Dropout(options.residual_dropout)
        self.causal = options.causal

    def forward(self, target: Tensor, source: Tensor, kept: Tensor) -> Tensor:
        """Changes the target's tokens; where the source has none, attention adds nothing.

        Args:
            target: (B, L, d).
            source: (B, L, d), the source's tokens, or the target's own.
            kept: (B, L) bool, where the source has tokens.

        Returns:
            (B, L, d).
        """
        query, key = self.attention_norm(target), self.attention_norm(source)
        anything = kept.any(dim=1, keepdim=True)
        later = None
        if self.causal:
            later = torch.ones(target.shape[1], source.shape[1], dtype=torch.bool, device=target.device).triu(1)
        # Attention to nothing would be NaN, also in the gradient.
        attended, _ = self.attention(
            query, key, key, key_padding_mask=~kept & anything, attn_mask=later, need_weights=False
        )
        target = target + self.dropout(masked(attended, anything[..., None]))
        return target + self.dropout(self.feedforward(self.feedforward_norm(target)))


class CrossmodalTransformer(nn.Module):
    """Layers from one modality's tokens to another's, which all of them read as they first were (its low level).

    Args:
        size: d, of both modalities' tokens.
        num_layers: Number of layers.
        options: The options of MulT.
    """

    def __init__(self, size: int, num_layers: int, options: MulTOptions):
        super().__init__()
        self.layers = nn.ModuleList(CrossmodalLayer(size, options) for _ in range(num_layers))
        self.norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(options.embedding_dropout)

    def forward(self, target: Tensor, source: Tensor | None, kept: Tensor) -> Tensor:
        """Returns the target's new tokens (B, L, d).

        Args:
            target: (B, L, d).
            source: (B, L, d); None where the target attends to itself.
            kept: (B, L) bool, where the source has tokens.
        """
        target = self._placed(target)
        source = None if source is None else self._placed(source)
        for layer in self.layers:
            target = layer(target, target if source is None else source, kept)
        return self.norm(target)

    def _placed(self, tokens: Tensor) -> Tensor:
        _, length, size = tokens.shape
        return self.dropout(math.sqrt(size) * tokens + positions(length, size, tokens.device).to(tokens.dtype))


class ResidualHead(nn.Module):
    """Predicts from x + W_2 Dropout(ReLU(W_1 x)).

    Args:
        size: Size of x.
        dropout: Its dropout.
        num_outputs: How many numbers it predicts.
    """

    def __init__(self, size: int, dropout: float, num_outputs: int):
        super().__init__()
        self.change = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(size, size))
        self.out_proj = nn.Linear(size, num_outputs)

    def forward(self, joint: Tensor) -> Tensor:
        """Returns (B, K) predictions from (B, d)."""
        return self.out_proj(joint + self.change(joint))


class MulTRegressor(MultimodalRegressor):
    """Predicts from each modality's last token after it has attended to all others, and then to itself.

    Tokens are the text encoder's states and the features at them, brought to one size by a matrix each (a convolution
    of width 1). Each modality attends to each other one in a transformer of its own; side by side the results attend
    to themselves. The last token of each is concatenated. Without a source attention adds nothing; a modality that a
    sample lacks gives 0.

    Args:
        config: The model's configuration.
    """

    title = "MulT (this package)"
    reference = "Tsai et al. (2019), *Multimodal Transformer for Unaligned Multimodal Language Sequences*, ACL"
    Options = MulTOptions
    needs_text = False
    most_modalities = 4
    parts_by_place = frozenset({"memories"})

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        options, names = self.options, self.modality_names
        size, others = options.size, len(names) - 1
        widths = ({"text": config.hidden_size} if config.use_text else {}) | config.modality_sizes
        self.projections = nn.ModuleDict({name: nn.Linear(width, size, bias=False) for name, width in widths.items()})
        self.crossmodal = nn.ModuleDict(
            {
                _pair(source, target): CrossmodalTransformer(size, options.num_layers, options)
                for target, source in itertools.permutations(names, 2)
            }
        )
        num_layers = max(options.num_layers, FEWEST_SELF_LAYERS)
        self.memories = nn.ModuleDict(
            {name: CrossmodalTransformer(others * size, num_layers, options) for name in names}
        )
        self.fusion = ResidualHead(len(names) * others * size, options.output_dropout, self.task.num_outputs)

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of a modality's projection."""
        return list(self.projections[name].parameters())

    def regress(self, inputs: RegressorInputs) -> Regression:
        """See [`MulTRegressor`]."""
        tokens, kept = self._tokens(inputs)
        last = []
        for target in tokens:
            crossed = [
                self.crossmodal[_pair(source, target)](tokens[target], tokens[source], kept[source])
                for source in tokens
                if source != target
            ]
            memory = self.memories[target](torch.cat(crossed, dim=-1), None, kept[target])
            place = (kept[target].sum(dim=1) - 1).clamp(min=0)
            final = memory.gather(1, place[:, None, None].expand(-1, 1, memory.shape[-1]))[:, 0]
            last.append(masked(final, inputs.presence[target][:, None]))
        regression = Regression(self.task.logits(self.fusion(torch.cat(last, dim=-1))))
        if inputs.labels is not None:
            regression.losses = {"task": self._task_loss(regression.logits, inputs)}
        return regression

    def _tokens(self, inputs: RegressorInputs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each modality's tokens (B, L, size), left-aligned, and where a sample has some: (B, L) bool."""
        values = {"text": inputs.hidden} if self.config.use_text else {}
        values |= {name: self._normalize(name, inputs)[0] for name in self.config.modality_sizes}
        places = torch.arange(inputs.mask.shape[1], device=inputs.mask.device)
        tokens, kept = {}, {}
        for name, sequence in values.items():
            rows, lengths = left_aligned(sequence, inputs.mask)
            tokens[name] = self.projections[name](rows.to(self.fusion.out_proj.weight.dtype))
            kept[name] = (places < lengths[:, None]) & inputs.presence[name][:, None]
        return tokens, kept


def _pair(source: str, target: str) -> str:
    return f"{source}-to-{target}"  # a name of a modality has no hyphen


__all__ = ["CrossmodalLayer", "CrossmodalTransformer", "MulTOptions", "MulTRegressor", "ResidualHead", "positions"]
