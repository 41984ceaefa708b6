"""Support for gradients that are sharded over ranks (DTensor, as in FSDP2): norms, deviations and noise.

Norms and deviations of a sharded gradient are those of the whole one; noise is this rank's part of it.
"""

import functools

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is one rank's view of a tensor that is spread over ranks."""
    from torch.distributed.tensor import DTensor  # takes most of a second to import, which only training should pay

    return isinstance(tensor, DTensor)


def mean_norm(gradients: list[Tensor], device: torch.device) -> Tensor:
    """Mean of the L2 norms of gradients, 0-dim float32 on `device`; 0 where there is none.

    The norms of sharded gradients are completed by one all-reduce.
    """
    norms = []
    sharded = [gradient for gradient in gradients if is_sharded(gradient)]
    whole = [gradient for gradient in gradients if not is_sharded(gradient)]
    for group in filter(None, (sharded, whole)):
        dtype = functools.reduce(torch.promote_types, (gradient.dtype for gradient in group), torch.float32)
        stacked = torch.stack(torch._foreach_norm(group, 2, dtype=dtype))
        norms.append(stacked.full_tensor() if is_sharded(stacked) else stacked)
    return torch.cat(norms).mean().to(device, torch.float32) if norms else torch.zeros((), device=device)


def deviation(gradient: Tensor) -> Tensor:
    """Biased standard deviation of a whole gradient, 0 where it overflows: finite gradients then stay finite."""
    full = gradient.full_tensor() if is_sharded(gradient) else gradient
    return full.std(correction=0).nan_to_num(nan=0.0, posinf=0.0)


def normal_noise(gradient: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise in the shape of a gradient; for a sharded one, this rank's part of the whole noise."""
    noise = torch.randn(gradient.shape, generator=generator, device=gradient.device, dtype=gradient.dtype)
    if is_sharded(gradient):
        from torch.distributed.tensor import distribute_tensor

        # every rank has drawn the same noise, so each keeps its part without communication
        noise = distribute_tensor(noise, gradient.device_mesh, gradient.placements, src_data_rank=None)
    return local_part(noise)


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory; a tensor that is not sharded is itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor


__all__ = ["deviation", "is_sharded", "local_part", "mean_norm", "normal_noise"]
