"""Fusion blocks by name, and the injection of what they fuse into the text encoder's states (eq. 2).

A new block is a class like [`GatedFusion`] and a line in `FUSION_BLOCKS`, which makes it a choice of the config's and
the command line's `fusion`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class GatedFusion(nn.Module):
    """Gated multimodal unit of Arevalo et al. (2017): h_m = tanh(W_m Z_m), F = sum_m g_m * h_m.

    The gates are a softmax over modalities whose last logit is fixed at 0: for two modalities exactly
    g = sigmoid(W_g [Z_a; Z_v]) and 1 - g, for one modality F = h_m. A modality that is missing in a sample has gate 0
    and the others share its part.

    Args:
        names: The modalities' names, sorted.
        latent_size: d_z.
        fusion_size: d_f.
    """

    def __init__(self, names: list[str], latent_size: int, fusion_size: int):
        super().__init__()
        self.names = names
        self.transforms = nn.ModuleDict({name: nn.Linear(latent_size, fusion_size) for name in names})
        free = len(names) - 1
        self.gate = nn.Linear(len(names) * latent_size, free * fusion_size) if free else None

    def forward(self, latents: dict[str, Tensor], presence: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fuses the latents of all modalities token by token.

        Args:
            latents: (B, L, d_z) by name.
            presence: (B,) bool by name.

        Returns:
            The fused sequence (B, L, d_f) and each modality's mean weight (B, L, number of modalities).
        """
        values, present = _stack_values(self, latents, presence)
        if self.gate is None:
            logits = torch.zeros_like(values)
        else:
            # A missing modality must not influence the others' gates either.
            inputs = [latents[name] * presence[name][:, None, None] for name in self.names]
            logits = self.gate(torch.cat(inputs, dim=-1)).unflatten(-1, (len(self.names) - 1, -1))
            logits = torch.cat([logits, torch.zeros_like(logits[..., :1, :])], dim=-2)
        weights = _masked_softmax(logits, present)
        return (weights * values).sum(dim=-2), weights.mean(dim=-1)


class AttentionFusion(nn.Module):
    """Additive attention over modalities at each token: F = sum_m a_m h_m, a = softmax_m(w h_m), h_m = tanh(W_m Z_m).

    Args and forward as [`GatedFusion`].
    """

    def __init__(self, names: list[str], latent_size: int, fusion_size: int):
        super().__init__()
        self.names = names
        self.transforms = nn.ModuleDict({name: nn.Linear(latent_size, fusion_size) for name in names})
        # No bias: it would shift all modalities' scores equally, which cancels in the softmax.
        self.score = nn.Linear(fusion_size, 1, bias=False) if len(names) > 1 else None

    def forward(self, latents: dict[str, Tensor], presence: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See [`GatedFusion.forward`]."""
        values, present = _stack_values(self, latents, presence)
        scores = torch.zeros_like(values[..., :1]) if self.score is None else self.score(values)
        weights = _masked_softmax(scores, present)
        return (weights * values).sum(dim=-2), weights.squeeze(-1)


class AttentionGateFusion(nn.Module):
    """What the modalities attend to at a token is a gate: F = sum_m g_m h_m, h_m = tanh(W_m Z_m).

    Each modality attends to all that are present, itself among them: a_nm = softmax_m(W_q h_n . W_k h_m / sqrt(d_f)).
    The gate g_m is the mean of a_nm over those that attend, so that no attended values are made: a map of attention
    only says how much of each modality is let through. After Chumachenko et al. (2022), *Self-attention fusion for
    audiovisual emotion recognition with incomplete data*, whose modalities attend along time; here they are aligned,
    and attend to each other at each token.

    Args and forward as [`GatedFusion`].
    """

    def __init__(self, names: list[str], latent_size: int, fusion_size: int):
        super().__init__()
        self.names = names
        self.transforms = nn.ModuleDict({name: nn.Linear(latent_size, fusion_size) for name in names})
        self.query = nn.Linear(fusion_size, fusion_size) if len(names) > 1 else None
        # No bias: it would shift a query's scores equally, which cancels in the softmax.
        self.key = nn.Linear(fusion_size, fusion_size, bias=False) if len(names) > 1 else None

    def forward(self, latents: dict[str, Tensor], presence: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See [`GatedFusion.forward`]."""
        values, present = _stack_values(self, latents, presence)
        scores = torch.zeros_like(values @ values.mT)
        if self.query is not None and self.key is not None:
            scores = self.query(values) @ self.key(values).mT / values.shape[-1] ** 0.5
        attention = _masked_softmax(scores.mT, present) * present.mT  # (B, L, attended, attending)
        weights = attention.sum(dim=-1, keepdim=True) / present.sum(dim=-2, keepdim=True).clamp(min=1)
        return (weights * values).sum(dim=-2), weights.squeeze(-1)


class SumFusion(nn.Module):
    """F = sum of h_m = tanh(W_m Z_m) over the modalities that are present. Args and forward as [`GatedFusion`]."""

    def __init__(self, names: list[str], latent_size: int, fusion_size: int):
        super().__init__()
        self.names = names
        self.transforms = nn.ModuleDict({name: nn.Linear(latent_size, fusion_size) for name in names})

    def forward(self, latents: dict[str, Tensor], presence: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See [`GatedFusion.forward`]."""
        values, present = _stack_values(self, latents, presence)
        weights = present.to(values.dtype).expand(*values.shape[:-1], 1)
        return (weights * values).sum(dim=-2), weights.squeeze(-1)


class ConcatFusion(nn.Module):
    """F = tanh(W [Z_1; ...; Z_M]), a missing modality's part being 0. Args and forward as [`GatedFusion`]."""

    def __init__(self, names: list[str], latent_size: int, fusion_size: int):
        super().__init__()
        self.names = names
        self.projection = nn.Linear(len(names) * latent_size, fusion_size)

    def forward(self, latents: dict[str, Tensor], presence: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See [`GatedFusion.forward`]."""
        present = torch.stack([presence[name] for name in self.names], dim=-1)[:, None, :]
        inputs = [latents[name] * presence[name][:, None, None] for name in self.names]
        fused = torch.tanh(self.projection(torch.cat(inputs, dim=-1)))
        return fused, present.to(fused.dtype).expand(*fused.shape[:2], -1)


# By the name that the config's `fusion` gives it.
FUSION_BLOCKS: dict[str, Callable[[list[str], int, int], nn.Module]] = {
    "gated": GatedFusion,
    "concat": ConcatFusion,
    "sum": SumFusion,
    "attention": AttentionFusion,
    "attention_gate": AttentionGateFusion,
}


class ResidualInjection(nn.Module):
    """H = T + beta * tanh(W_p F) at feature tokens, H = T elsewhere (eq. 2).

    Args:
        fusion_size: d_f.
        hidden_size: d_t.
        residual_weight: beta.
    """

    def __init__(self, fusion_size: int, hidden_size: int, residual_weight: float):
        super().__init__()
        self.projection = nn.Linear(fusion_size, hidden_size)
        self.residual_weight = residual_weight

    def forward(self, hidden: Tensor, fused: Tensor, mask: Tensor) -> Tensor:
        """Injects the fused sequence.

        Args:
            hidden: (B, L, d_t), T.
            fused: (B, L, d_f), F_av.
            mask: (B, L) bool, where `fused` is to be injected.

        Returns:
            (B, L, d_t), H.
        """
        shift = torch.tanh(self.projection(fused))
        return hidden + self.residual_weight * torch.where(mask[..., None], shift, 0.0)


def _stack_values(block: nn.Module, latents: dict[str, Tensor], presence: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """h_m = tanh(W_m Z_m) of all modalities as (B, L, M, d_f), and their presence as (B, 1, M, 1)."""
    values = torch.stack([torch.tanh(block.transforms[name](latents[name])) for name in block.names], dim=-2)
    present = torch.stack([presence[name] for name in block.names], dim=-1)[:, None, :, None]
    return values, present


def _masked_softmax(logits: Tensor, present: Tensor) -> Tensor:
    """Softmax over the modalities (dim -2) that are present; all 0 where none is present."""
    weights = logits.masked_fill(~present, torch.finfo(logits.dtype).min).softmax(dim=-2)
    return weights * present


__all__ = ["FUSION_BLOCKS", "ResidualInjection"]
