"""DeBERTa's attention without the relative positions that no two tokens of an input have.

Two of L tokens are less than L apart, yet transformers' DeBERTa drops out, projects and multiplies the embeddings of
all 512 relative positions in every layer, and repeats them for every sample. Here a layer takes the 2 L rows that can
be reached, once: the same weights under the same names, and the same results but for rounding.
"""

import inspect
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.utils import logging


if TYPE_CHECKING:
    from transformers import DebertaV2Model

try:
    from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention
except ImportError:  # a version of transformers whose parts differ: its own attention is used
    DisentangledSelfAttention = nn.Module


logger = logging.get_logger(__name__)


class ReachableSelfAttention(DisentangledSelfAttention):
    """DeBERTa's self-attention over the relative positions that an input can reach."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As the parent's, on the rows from -L to L - 1 of `rel_embeddings` (2 S, d_t), which are from -S to S - 1."""
        if rel_embeddings is not None:
            span = len(rel_embeddings) // 2
            reach = torch.sym_min(span, hidden_states.size(1))
            rel_embeddings = rel_embeddings[span - reach : span + reach]
        return super().forward(
            hidden_states, attention_mask, output_attentions, query_states, relative_pos, rel_embeddings
        )

    def disentangled_attention_bias(
        self, query_layer: Tensor, key_layer: Tensor, relative_pos: Tensor, rel_embeddings: Tensor, scale_factor: int
    ) -> Tensor:
        """The position terms of the attention scores of H heads.

        Args:
            query_layer: (B H, L, d).
            key_layer: (B H, L, d).
            relative_pos: (1, L, L), how far each query is from each key, in buckets.
            rel_embeddings: (2 R, d_t), the embeddings of the relative positions from -R to R - 1.
            scale_factor: Number of terms in a score, the content's included.

        Returns:
            (B H, L, L).
        """
        bias = query_layer.new_zeros(())
        if "c2p" in self.pos_att_type:
            project = self.key_proj if self.share_att_key else self.pos_key_proj
            bias = bias + self._scores(query_layer, project(rel_embeddings), relative_pos, scale_factor)
        if "p2c" in self.pos_att_type:
            project = self.query_proj if self.share_att_key else self.pos_query_proj
            scores = self._scores(key_layer, project(rel_embeddings), -relative_pos, scale_factor)
            bias = bias + scores.transpose(-1, -2)
        return bias

    def _scores(self, states: Tensor, positions: Tensor, relative_pos: Tensor, scale_factor: int) -> Tensor:
        """The product of each token's state with the position that it has from every other token, (B H, L, L)."""
        # `size` and `sym_min` rather than `len` and `min`, which an export would take for constants
        heads, reach = self.num_attention_heads, positions.size(0) // 2
        positions = positions.unflatten(-1, (heads, -1)) / math.sqrt(states.size(-1) * scale_factor)
        scores = torch.einsum("bhld,rhd->bhlr", states.unflatten(0, (-1, heads)), positions)
        index = (relative_pos + reach).clamp(0, 2 * reach - 1)
        return scores.gather(-1, index.expand(*scores.shape[:-1], -1)).flatten(0, 1)


def use_reachable_positions(model: "DebertaV2Model") -> None:
    """Lets the attention of a DeBERTa model leave out the relative positions that an input does not reach.

    A model stays as it is, with one line in the log, where this version of transformers has another attention than the
    one that is overridden here.
    """
    if not _is_as_expected():
        logger.warning_once("DeBERTa is not sped up, since its attention differs in this version of transformers.")
        return
    for layer in model.encoder.layer:
        attention = layer.attention.self
        if attention.relative_attention and _buckets_are_within_distance(attention):
            attention.__class__ = ReachableSelfAttention  # parameters, their names and hooks stay


def _is_as_expected() -> bool:
    """Whether the methods that are overridden take the same arguments in transformers."""
    return all(
        inspect.signature(getattr(DisentangledSelfAttention, name, len)).parameters.keys()
        == inspect.signature(getattr(ReachableSelfAttention, name)).parameters.keys()
        for name in ("forward", "disentangled_attention_bias")
    )


def _buckets_are_within_distance(attention: ReachableSelfAttention) -> bool:
    """Whether no bucket has a number above the distances in it, so that L tokens reach no more than 2 L rows.

    Buckets hold one distance each up to the middle one. From there on they grow with the logarithm of the distance up
    to the largest one, so by less than one a distance if the largest is above e times the middle.
    """
    middle = attention.position_buckets // 2
    return attention.position_buckets <= 0 or attention.max_relative_positions > 3 * middle


__all__ = ["ReachableSelfAttention", "use_reachable_positions"]
