"""What is decided once for a whole optimizer step, over all its micro-batches and ranks: functions over its batches.

A batch is what the data collator made, with a name for each sample. All that is random follows from the seed, the step
and the sample, so that it does not depend on how a step is cut into micro-batches and ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.trainer_utils import has_length

from ..encoding_cpsl import pooled_feature_bounds
from ..features_cpsl import collect_features
from .sample_draws import sample_generator


Batch = dict[str, Any]


@dataclass
class MicroBatch:
    """What a training step knows about its micro-batch beside the model's inputs.

    Args:
        ids: Names of the samples.
        num_samples: Number of samples that count. It is 0 where a rank has nothing left to do in the last step of an
            epoch, and takes part with one sample that has no modality.
        total_weight: The sum of what they count by, without weights their number: a number or a scalar tensor.
        weight: Scalar tensor, the factor on the micro-batch's mean loss.
    """

    ids: list[str]
    num_samples: int
    total_weight: float | Tensor
    weight: Tensor


def drop_repetitions(batches: list[Batch], loader: DataLoader, dataset: Any, accelerator: Accelerator) -> list[int]:
    """Takes out of a step's last micro-batch the samples that were repeated to fill up the batches of all ranks.

    Args:
        batches: The micro-batches of this rank; the last one is replaced.
        loader: The training's data loader.
        dataset: The training split.
        accelerator: Knows the ranks, and whether this step is the epoch's last one.

    Returns:
        The number of samples that count in each micro-batch.
    """
    counts = [len(batch["ids"]) for batch in batches]
    if batches:
        counts[-1] = _num_real_samples(counts[-1], loader, dataset, accelerator)
        batches[-1] = _first_samples(batches[-1], counts[-1]) if counts[-1] else _without_modalities(batches[-1])
    return counts


def _num_real_samples(size: int, loader: DataLoader, dataset: Any, accelerator: Accelerator) -> int:
    """How many of the last micro-batch's samples are not repetitions."""
    if accelerator.num_processes == 1 or not accelerator.gradient_state.end_of_dataloader:
        return size
    batches = getattr(loader.batch_sampler, "batch_sampler", None)  # those of all ranks
    drawn = dataset if batches is None else batches.sampler
    if not has_length(drawn):
        return size
    # Not gradient_state.remainder, which is lost in an epoch that is resumed in its middle.
    remainder = len(drawn) % loader.total_batch_size or loader.total_batch_size
    return min(max(remainder - accelerator.process_index * size, 0), size)


def _first_samples(batch: Any, size: int) -> Any:
    """The first `size` samples of a batch of tensors, lists and dicts of them."""
    if isinstance(batch, dict):
        return {name: _first_samples(value, size) for name, value in batch.items()}
    return batch[:size]


def _without_modalities(batch: Batch) -> Batch:
    """One sample without any modality, which has weight 0: DDP needs every rank to run every step."""
    batch = _first_samples(batch, 1)
    absent = torch.zeros(1, dtype=torch.bool, device=batch["labels"].device)
    names = [*batch.get("modality_mask", {}), *(["text"] if "input_ids" in batch else [])]
    return batch | {"modality_mask": dict.fromkeys(names, absent)}


def step_weights(counts: Sequence[float | Tensor], accelerator: Accelerator, device: torch.device) -> list[Tensor]:
    """The factor on each micro-batch's mean loss that makes the step's loss a mean over all its samples.

    Trainer averages over micro-batches and DDP over ranks, whatever number of samples they have.

    Args:
        counts: Number of samples that count in each micro-batch of this rank, or the sum of their weights.
        accelerator: Sums over ranks.
        device: Where the losses are.

    Returns:
        A scalar tensor for each micro-batch.
    """
    # `torch.full` fills on the device, where `torch.tensor` would copy from the host and wait
    own = sum(counts)
    own = own if isinstance(own, Tensor) else torch.full((), float(own), device=device)
    # where all weights of a step are 0, so is its loss
    total = accelerator.reduce(own, reduction="sum").clamp(min=torch.finfo(torch.float32).tiny)
    return [count * len(counts) * accelerator.num_processes / total for count in counts]


def step_feature_bounds(batches: list[Batch], modalities: list[str]) -> dict[str, Tensor]:
    """Minimum and maximum (2,) of each modality's features over the optimizer step, on all ranks.

    Args:
        batches: The micro-batches of this rank, with `feature_mask` (B, L) and `modality_mask`.
        modalities: Names of the modalities.
    """
    return {
        name: pooled_feature_bounds(
            (collect_features(**batch)[name], batch["feature_mask"] & batch["modality_mask"][name].bool()[:, None])
            for batch in batches
        )
        for name in modalities
    }


def sample_noise(batch: Batch, shapes: dict[str, tuple[int, ...]], seed: int, step: int) -> dict[str, Tensor]:
    """Standard normal noise by modality, for each sample the same whatever batch it is in.

    Args:
        batch: With `ids` and `labels`.
        shapes: The shape of one sample's noise by modality. A longer one begins with the values of a shorter one.
        seed: Seed of the noise.
        step: Number of the optimizer step.

    Returns:
        (B, *shape) float32 by modality.
    """
    noise = {}
    for name, shape in shapes.items():
        generators = [sample_generator(seed, step, sample_id, name) for sample_id in batch["ids"]]
        draws = np.stack([generator.standard_normal(shape, dtype=np.float32) for generator in generators])
        noise[name] = torch.from_numpy(draws).to(batch["labels"].device)
    return noise


__all__ = [
    "MicroBatch",
    "drop_repetitions",
    "sample_noise",
    "step_feature_bounds",
    "step_weights",
]
