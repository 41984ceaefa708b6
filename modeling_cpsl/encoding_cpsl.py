"""The parts that encode one modality: min-max normalisation, encoder (AME, eq. 1), decoder and unimodal head."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init


# What FeatureNormalizer can do, by the name that the config's `feature_normalization` gives it.
FEATURE_NORMALIZATIONS = ("minmax_running", "minmax_batch", "none")
NORMALIZATION_MOMENTUM = 0.1

# softplus(-4) = 0.018 is about the variance of min-max normalised features, the Statistical Loss's target. From
# softplus(0) = 0.69 the noise drowns the latent means: correlation .73 instead of .86 on the sample corpus.
INITIAL_VARIANCE_BIAS = -4.0


@torch.no_grad()
def pooled_feature_bounds(batches: Iterable[tuple[Tensor, Tensor]], *, over_ranks: bool = True) -> Tensor:
    """Minimum and maximum of one modality's features over the feature tokens of all batches and all ranks.

    Args:
        batches: Pairs of features (B, L, d) and mask (B, L).
        over_ranks: Whether to pool over all ranks, each of which has to call this then.

    Returns:
        (2,), minimum and maximum in float32; (inf, -inf) where there is no feature token at all.
    """
    bounds = []
    for features, mask in batches:
        features, mask = features.float(), mask.bool()[..., None]
        lowest = features.masked_fill(~mask, torch.inf).amin()
        highest = features.masked_fill(~mask, -torch.inf).amax()
        bounds.append(torch.stack([-lowest, highest]))
    pooled = torch.stack(bounds).amax(dim=0)
    if over_ranks and dist.is_available() and dist.is_initialized():
        dist.all_reduce(pooled, op=dist.ReduceOp.MAX)
    return torch.stack([-pooled[0], pooled[1]])


class FeatureNormalizer(nn.Module):
    """Min-max normalisation of one modality with one scalar minimum and maximum for all its features.

    Training uses the bounds of the mini-batch over all ranks (or those that the caller pooled over a whole optimizer
    step) and tracks them in running buffers. Evaluation uses the buffers and clips to [0, 1], so that a sample's
    prediction does not depend on its batch. Constant features map to 0.

    Args:
        mode: `minmax_running`; `minmax_batch`, the paper to the letter, which uses the batch's bounds in evaluation
            too; or `none`, which takes features as they come.
    """

    def __init__(self, mode: str):
        super().__init__()
        self.mode = mode
        self.register_buffer("minimum", torch.zeros(()))
        self.register_buffer("maximum", torch.ones(()))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))

    def reset_buffers(self) -> None:
        """Sets the buffers to their initial values; called by the model's `_init_weights`."""
        init.zeros_(self.minimum)
        init.ones_(self.maximum)
        init.zeros_(self.num_updates)

    @torch.no_grad()
    def update(self, bounds: Tensor, is_frozen: bool = False) -> None:
        """Moves the running bounds towards `bounds` (2,); the first update sets them, empty bounds are ignored.

        Args:
            bounds: (2,), minimum and maximum.
            is_frozen: Whether what reads the features is no longer trained: then the bounds it was fitted to stay.
        """
        momentum = torch.where(self.num_updates == 0, 1.0, 0.0 if is_frozen else NORMALIZATION_MOMENTUM)
        known = bounds.isfinite().all()
        for buffer, bound in zip((self.minimum, self.maximum), bounds, strict=True):
            buffer.copy_(torch.where(known, torch.lerp(buffer.float(), bound, momentum), buffer.float()))
        self.num_updates += known

    def forward(self, features: Tensor, mask: Tensor, bounds: Tensor | None = None, is_frozen: bool = False) -> Tensor:
        """Normalises the feature tokens; everything else becomes 0.

        Args:
            features: (B, L, d).
            mask: (B, L), 1 at feature tokens.
            bounds: (2,), minimum and maximum to use in training. A caller who gives them also calls `update`, once
                for all batches that share them. Default: the batch's own, which are then tracked.
            is_frozen: See [`update`].

        Returns:
            (B, L, d), float32.
        """
        features, mask = features.float(), mask.bool()[..., None]
        if self.mode == "none":
            return torch.where(mask, features, 0.0)
        if self.training:
            if bounds is None:
                bounds = pooled_feature_bounds([(features, mask[..., 0])])
                self.update(bounds, is_frozen)
        elif self.mode == "minmax_batch":  # of the own batch: in evaluation ranks may have different numbers of them
            bounds = pooled_feature_bounds([(features, mask[..., 0])], over_ranks=False)
        else:
            bounds = torch.stack([self.minimum, self.maximum]).float()
        minimum, extent = bounds[0], bounds[1] - bounds[0]
        usable = extent.isfinite() & (extent > 0)
        normalized = (features - minimum) / torch.where(usable, extent, 1.0)
        if self.mode == "minmax_running" and not self.training:
            normalized = normalized.clamp(0.0, 1.0)
        return torch.where(mask & usable, normalized, 0.0)


class AdaptiveModalityEncoder(nn.Module):
    """Encodes a modality into a latent mean and variance and samples by reparameterisation (AME, eq. 1).

    Z = mean + noise * sqrt(variance + 1e-6). Without AME there is neither a variance head nor noise: Z = mean, and
    each token's variance is that of its Z along the latent dimension.

    Args:
        feature_size: d_m.
        hidden_size: Width of the trunk.
        latent_size: d_z.
        dropout: Dropout after the trunk.
        ame: Whether there is a variance head.
    """

    def __init__(self, feature_size: int, hidden_size: int, latent_size: int, dropout: float, ame: bool):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(feature_size, hidden_size), nn.ReLU(), nn.Dropout(dropout))
        self.mean_head = nn.Linear(hidden_size, latent_size)
        self.variance_head = nn.Linear(hidden_size, latent_size) if ame else None

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the latent mean (B, L, d_z) and variance (B, L, d_z), or (B, L, 1) without AME.

        Args:
            features: (B, L, d_m), normalised.
        """
        hidden = self.trunk(features)
        mean = self.mean_head(hidden)
        if self.variance_head is None:
            return mean, mean.var(dim=-1, correction=0, keepdim=True)
        return mean, F.softplus(self.variance_head(hidden))

    def sample(self, mean: Tensor, variance: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draws Z (B, L, d_z), with `noise` of that shape where it is given; without AME Z = mean."""
        if self.variance_head is None:
            return mean
        noise = torch.randn_like(mean) if noise is None else noise.to(mean)
        return mean + noise * torch.sqrt(variance + 1e-6)


class ModalityDecoder(nn.Sequential):
    """Rebuilds a modality's normalised features from its latents, for the reconstruction loss of eq. 4."""

    def __init__(self, latent_size: int, hidden_size: int, feature_size: int):
        super().__init__(nn.Linear(latent_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, feature_size))


class UnimodalHead(nn.Sequential):
    """Predicts the label from one modality's pooled representation alone, for the unimodal loss of eq. 4."""

    def __init__(self, input_size: int, dropout: float, num_outputs: int = 1):
        super().__init__(nn.Dropout(dropout), nn.Linear(input_size, num_outputs))


class BoostedHead(nn.Module):
    """Several heads over one modality's pooled representation, whose predictions add up (boosting, AUG).

    Each has a hidden layer of its own, and all modalities' heads share the last one, which is given. At first one head
    is active; an idle one predicts 0 and gets gradients of 0, so that no parameter is ever added to an optimizer.

    Args:
        input_size: Size of the representation.
        hidden_size: Width of each hidden layer.
        dropout: Dropout before it.
        count: Number of heads, active and idle.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float, count: int):
        super().__init__()
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Dropout(dropout), nn.Linear(input_size, hidden_size), nn.ReLU()) for _ in range(count)
        )
        self.register_buffer("num_active", torch.ones((), dtype=torch.long))

    def reset_buffers(self) -> None:
        """Sets the buffer to its initial value; called by the model's `_init_weights`."""
        init.ones_(self.num_active)

    def forward(self, values: Tensor, output: nn.Linear) -> Tensor:
        """Returns what each head adds to the prediction, (K, B), from the representations `values` (B, d)."""
        predictions = torch.stack([output(hidden(values)).squeeze(-1) for hidden in self.hidden])
        places = torch.arange(len(self.hidden), device=predictions.device)
        return torch.where((places < self.num_active)[:, None], predictions, 0.0)

    def newest(self, predictions: Tensor) -> Tensor:
        """Of what each head adds (K, B), that of the one that was activated last, (B,)."""
        places = torch.arange(len(self.hidden), device=predictions.device)
        return torch.where((places == self.num_active - 1)[:, None], predictions, 0.0).sum(dim=0)


__all__ = [
    "FEATURE_NORMALIZATIONS",
    "AdaptiveModalityEncoder",
    "BoostedHead",
    "FeatureNormalizer",
    "ModalityDecoder",
    "UnimodalHead",
    "pooled_feature_bounds",
]
