"""A text encoder over the tokens of a batch alone, without its padding.

In random batches of 8 half of the tokens are padding. Here the tokens of all utterances stand in one row, and each
attends to its own utterance. A state is what it is in a padded batch, but for rounding.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import BertModel, DebertaV2Model, MPNetModel, PreTrainedModel


# What a transformer layer costs for a token, over the square of the hidden size, and for a pair of tokens in its
# attention, over the hidden size. DeBERTa's attention gathers positions for each pair.
_TOKEN_COST = 12
_PAIR_COSTS = {DebertaV2Model: 16, BertModel: 4, MPNetModel: 4}


def packing_pays(encoder: PreTrainedModel, attention_mask: Tensor) -> bool:
    """Whether a batch is worth packing, and can be.

    It is on a CPU, where lengths can be read without waiting for a device, if the tokens that are saved cost more than
    the larger attention matrix. Tokens of an utterance must follow each other, nothing may mix neighbours, as a
    convolution does, and nobody may wait for a call of the encoder itself, which then has none.

    Args:
        encoder: A DeBERTa-v2, BERT or MPNet model.
        attention_mask: (B, L), 1 on attended tokens.
    """
    if attention_mask.device.type != "cpu" or attention_mask.dim() != 2 or _is_traced():
        return False
    pair_cost = _PAIR_COSTS.get(type(encoder))
    if pair_cost is None or encoder._forward_hooks or encoder._forward_pre_hooks or not _attends_to_all(encoder):
        return False
    attended = attention_mask.bool()
    batch_size, length = attended.shape
    num_tokens = int(attended.sum())
    token_cost = _TOKEN_COST * encoder.config.hidden_size * (batch_size * length - num_tokens)
    pair_cost *= num_tokens**2 - batch_size * length**2
    starts = attended[:, :1].sum(1) + (attended[:, 1:] & ~attended[:, :-1]).sum(1)
    return num_tokens > 0 and token_cost > max(pair_cost, 0) and bool((starts <= 1).all())


def encode_packed(encoder: PreTrainedModel, attention_mask: Tensor, **inputs: Any) -> Tensor:
    """The last hidden states of a text encoder, computed without padding.

    Args:
        encoder: A DeBERTa-v2, BERT or MPNet model.
        attention_mask: (B, L), 1 on attended tokens.
        **inputs: What the encoder's embeddings take, such as `input_ids` (B, L).

    Returns:
        (B, L, d_t), 0 at padding.
    """
    attended = attention_mask.bool()
    if isinstance(encoder, DebertaV2Model):
        inputs["mask"] = attention_mask
    embeddings = encoder.embeddings(**inputs)
    packed = embeddings[attended][None]
    utterance = attended.nonzero()[:, 0]
    is_own = (utterance[:, None] == utterance)[None, None]
    if isinstance(encoder, DebertaV2Model):
        packed = _deberta_layers(encoder, packed, is_own, attended.size(1))
    else:
        bias = torch.zeros_like(is_own, dtype=packed.dtype).masked_fill(~is_own, torch.finfo(packed.dtype).min)
        packed = encoder.encoder(packed, attention_mask=bias)[0]
    states = packed.new_zeros(embeddings.shape)
    states[attended] = packed[0]
    return states


def _attends_to_all(encoder: PreTrainedModel) -> bool:
    """Whether each token attends to its whole utterance, in a way that takes a mask, and sees no neighbours else."""
    if isinstance(encoder, DebertaV2Model):
        return encoder.encoder.conv is None
    is_causal = getattr(encoder.config, "is_decoder", False)
    return encoder.config._attn_implementation in ("eager", "sdpa") and not is_causal


def _is_traced() -> bool:
    """Whether the model is being compiled or exported, so that no branch may depend on the data."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _deberta_layers(encoder: DebertaV2Model, packed: Tensor, is_own: Tensor, length: int) -> Tensor:
    """DeBERTa's layers over packed tokens (1, N, d_t), with the relative positions that L tokens can reach."""
    positions = encoder.encoder.get_rel_embedding()
    if positions is not None:
        span = len(positions) // 2
        positions = positions[max(span - length, 0) : span + length]
    relative_pos = encoder.encoder.get_rel_pos(packed)
    for layer in encoder.encoder.layer:
        packed, _ = layer(packed, is_own, relative_pos=relative_pos, rel_embeddings=positions)
    return packed


__all__ = ["encode_packed", "packing_pays"]
