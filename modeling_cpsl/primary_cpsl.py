"""A primary modality for each sample, and attention between it and the others (MODS-style, arXiv:2511.06328)."""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .encoding_cpsl import UnimodalHead
from .losses_cpsl import LOSSES, TASK_TERM, unimodal_loss
from .mult_cpsl import CrossmodalLayer, MulTOptions
from .outputs_cpsl import Regression, RegressorInputs
from .pooling_cpsl import masked, token_mean
from .regressor_cpsl import MultimodalRegressor, check_probability, check_size, option


@strict
@dataclass
class PrimaryOptions:
    """The options of the architecture `primary`; the defaults are ours."""

    size: int = option(64, "Size of each modality's tokens.")
    num_heads: int = option(4, "Number of attention heads.")
    dropout: float | int = option(0.1, "Dropout on attention weights, within the feed-forward layers and behind them.")

    def __post_init__(self) -> None:
        check_probability("dropout", self.dropout)
        for name in ("size", "num_heads"):
            check_size(name, getattr(self, name))
        if self.size % self.num_heads:
            raise ValueError(f"size={self.size} must be a multiple of num_heads={self.num_heads}")

    @property
    def attention(self) -> MulTOptions:
        """The same as options of a layer of crossmodal attention."""
        return MulTOptions(
            size=self.size,
            num_heads=self.num_heads,
            attention_dropout=self.dropout,
            relu_dropout=self.dropout,
            residual_dropout=self.dropout,
        )


class PrimaryRegressor(MultimodalRegressor):
    """Chooses each sample's primary modality, which then attends to all others, and they to it.

    Tokens are the text encoder's states and the features at them, brought to one size by a matrix each. From the means
    of all modalities' tokens two layers make a weight for each, a softmax over those that the sample has; the primary
    modality is the one of the largest weight, text not excluded. Each modality's tokens are multiplied by M times its
    weight, through which the choice is trained. The primary modality's tokens attend to those of all others, these to
    what has become of it, and the means of both give the prediction.

    Args:
        config: The model's configuration.
    """

    title = "MODS-style (this package)"
    reference = "MODS (AAAI 2026), arXiv:2511.06328, as notes on it say"
    Options = PrimaryOptions
    config_fields = frozenset({"classifier_dropout", "unimodal_weight"})
    parts_by_place = frozenset({"selector"})
    heads = frozenset({"head", "unimodal_heads"})
    loss_terms = {"task": TASK_TERM, "unimodal": LOSSES["unimodal"]}
    needs_text = False
    has_unimodal_heads = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.loss_weights = {"unimodal": config.unimodal_weight}
        options, size, dropout = self.options, self.options.size, config.classifier_dropout
        widths = ({"text": config.hidden_size} if config.use_text else {}) | config.modality_sizes
        self.projections = nn.ModuleDict({name: nn.Linear(width, size) for name, width in widths.items()})
        self.selector = nn.Sequential(nn.Linear(len(widths) * size, size), nn.ReLU(), nn.Linear(size, len(widths)))
        self.from_others = CrossmodalLayer(size, options.attention)
        self.from_primary = CrossmodalLayer(size, options.attention)
        self.unimodal_heads = nn.ModuleDict(
            {name: UnimodalHead(size, dropout, self.task.num_outputs) for name in widths}
        )
        self.head = nn.Sequential(
            nn.Linear(2 * size, size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(size, self.task.num_outputs)
        )

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of a modality's projection."""
        return list(self.projections[name].parameters())

    def regress(self, inputs: RegressorInputs) -> Regression:
        """See [`PrimaryRegressor`]."""
        values = {"text": inputs.hidden} if self.config.use_text else {}
        values |= {name: self._normalize(name, inputs)[0] for name in self.config.modality_sizes}
        presence = torch.stack([inputs.presence[name] for name in values], dim=1)
        kept = inputs.mask[:, None] & presence[..., None]
        projected = [self.projections[name](values[name].to(self.head[0].weight.dtype)) for name in values]
        tokens = masked(torch.stack(projected, dim=1), kept[..., None])
        pooled = torch.stack([token_mean(*each) for each in zip(tokens.unbind(1), kept.unbind(1), strict=True)], dim=1)
        logits = self.selector(pooled.flatten(1)).masked_fill(~presence, torch.finfo(pooled.dtype).min)
        weights = logits.softmax(dim=1) * presence
        scaled = len(values) * weights[..., None, None] * tokens
        prediction = self.task.logits(self.head(self._attended(scaled, kept, weights.argmax(dim=1))))
        places = {name: place for place, name in enumerate(values)}
        unimodal = {
            name: self.task.logits(head(pooled[:, places[name]])) for name, head in self.unimodal_heads.items()
        }
        fusion_weights = {name: weights[:, places[name]] for name in self.config.modality_sizes}
        regression = Regression(prediction, unimodal_logits=unimodal, fusion_weights=fusion_weights)
        if inputs.labels is not None:
            regression.losses = {
                "task": self._task_loss(prediction, inputs),
                "unimodal": unimodal_loss(unimodal, inputs.labels, inputs.presence, inputs.weights, self.task),
            }
        return regression

    def _attended(self, tokens: Tensor, kept: Tensor, primary: Tensor) -> Tensor:
        """The means of the primary modality's tokens and of all others', side by side, after they have attended.

        Args:
            tokens: (B, M, L, size), 0 where a sample has none.
            kept: (B, M, L) bool, where it has some.
            primary: (B,), the place of the primary modality.

        Returns:
            (B, 2 size).
        """
        order = (primary[:, None] + torch.arange(tokens.shape[1], device=tokens.device)) % tokens.shape[1]
        tokens = tokens.gather(1, order[..., None, None].expand_as(tokens))
        kept = kept.gather(1, order[..., None].expand_as(kept))
        first, is_first = tokens[:, 0], kept[:, 0]
        others, is_other = tokens[:, 1:].flatten(1, 2), kept[:, 1:].flatten(1)
        first = self.from_others(first, others, is_other)
        others = self.from_primary(others, first, is_first)
        return torch.cat([token_mean(first, is_first), token_mean(others, is_other)], dim=-1)


__all__ = ["PrimaryOptions", "PrimaryRegressor"]
