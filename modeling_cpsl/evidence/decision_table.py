"""What a model predicts from every coalition of modalities, and where its decision has its weight."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..experiments.decision import groups_of
from ..fusion_cpsl import ResidualInjection
from ..late_cpsl import LateRegressor
from ..modulation.contributions import coalitions
from ..pipeline_cpsl import MultimodalSentimentPipeline
from ..training.coalitions import coalition_logits
from ..training.collation import CPSLDataCollator
from ..training.encoding import encode_dataset, modality_sets


@dataclass(frozen=True)
class DecisionTable:
    """N samples, what a model predicts for them, and what its decision is made of.

    Attributes:
        modalities: The model's M modalities.
        labels: (N,).
        fused: (N,), the prediction.
        unimodal: (N,) by modality, the prediction from it alone, NaN where it is missing; empty without such heads.
        coalitions: (N,) for each coalition of modalities, the prediction from these alone; the mean label for a sample
            that has none of them.
        sets: The set of modalities that each sample has.
        groups: What each sample is from.
        mean_label: The prediction from nothing.
        gates: (N,) by modality, its mean weight in the fusion block; empty where there is none.
        parts: (N,) by name, what is summed or compared to see where the decision's weight lies, see [`where`].
        norms: Norms of a late decision's weights by modality.
    """

    modalities: list[str]
    labels: np.ndarray
    fused: np.ndarray
    unimodal: dict[str, np.ndarray]
    coalitions: dict[tuple[str, ...], np.ndarray]
    sets: list[str]
    groups: list[str]
    mean_label: float
    gates: dict[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)


def decision_table(
    sentiment: MultimodalSentimentPipeline, split: Any, mean_label: float, *, group: str, batch_size: int
) -> DecisionTable:
    """Predicts a split with every coalition of the model's modalities.

    Args:
        sentiment: The pipeline of the model.
        split: N labelled samples.
        mean_label: The mean training label.
        group: The column of what a sample is from.
        batch_size: Samples in a forward pass.
    """
    model, processor = sentiment.model.eval(), sentiment.processor
    encoded: Any = encode_dataset({"split": split}, processor)["split"]
    collected: dict[Any, list[Tensor]] = {}
    with torch.no_grad(), _opened(model) as parts:
        for batch in DataLoader(encoded, batch_size, collate_fn=CPSLDataCollator(processor)):
            batch = on_device({name: value for name, value in batch.items() if name != "ids"}, model.device)
            parts.clear()
            output = model(**batch)
            rows: dict[Any, Tensor] = {"fused": output.logits, "label": batch["labels"]}
            rows |= {("part", name): value for name, value in parts.items()}
            rows |= {("head", name): value for name, value in (output.unimodal_logits or {}).items()}
            rows |= {("gate", name): value for name, value in (output.fusion_weights or {}).items()}
            rows |= {("has", name): value for name, value in output.modality_presence.items()}
            rows |= {("from", *names): value for names, value in coalition_logits(model, batch).items()}
            for name, value in rows.items():
                collected.setdefault(name, []).append(value.detach().float().cpu())
    columns = {name: torch.cat(values).double().numpy() for name, values in collected.items()}
    has = {name: columns["has", name] > 0 for name in model.modality_names}
    known = {names: np.any([has[name] for name in names], axis=0) for names in coalitions(model.modality_names)}

    def of(kind: str) -> dict[str, np.ndarray]:
        return {
            name[1]: np.where(has.get(name[1], True), values, np.nan)
            for name, values in columns.items()
            if name[0] == kind
        }

    return DecisionTable(
        modalities=model.modality_names,
        labels=columns["label"],
        fused=columns["fused"],
        unimodal=of("head"),
        coalitions={names: np.where(mask, columns["from", *names], mean_label) for names, mask in known.items()},
        sets=modality_sets(encoded, processor),
        groups=groups_of(split, group),
        mean_label=mean_label,
        gates=of("gate"),
        parts=of("part"),
        norms=_norms(model.multimodal) if isinstance(model.multimodal, LateRegressor) else {},
    )


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch of tensors and dicts of them on a device."""
    return {
        name: on_device(value, device) if isinstance(value, Mapping) else value.to(device)
        for name, value in batch.items()
    }


@contextlib.contextmanager
def _opened(model: Any) -> Iterator[dict[str, Tensor]]:
    """Within this context a forward pass leaves what the decision is made of, (B,) by name; nothing for most models.

    Of an injection (CPSL) the sums of the norms of `shift` and `text` over the tokens where something is injected; of
    a late decision each modality's part W_m h_m.
    """
    parts: dict[str, Tensor] = {}

    def of_injection(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        hidden, _, mask = inputs
        parts["shift"] = ((output - hidden).norm(dim=-1) * mask).sum(dim=1)
        parts["text"] = (hidden.norm(dim=-1) * mask).sum(dim=1)

    def of_late(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        for name, part in _by_modality(model.multimodal, inputs[0] * module.weight[0]).items():
            parts[name] = part.sum(dim=-1)

    regressor, hook = model.multimodal, None
    if isinstance(getattr(regressor, "injection", None), ResidualInjection):
        hook = regressor.injection.register_forward_hook(of_injection)
    elif isinstance(regressor, LateRegressor):
        hook = regressor.fusion.register_forward_hook(of_late)
    try:
        yield parts
    finally:
        if hook is not None:
            hook.remove()


def _by_modality(regressor: Any, values: Tensor) -> dict[str, Tensor]:
    """Values (..., D) of a late decision's inputs, cut by modality."""
    config = regressor.config
    sizes = [config.hidden_size if name == "text" else config.latent_size for name in regressor.modality_names]
    return dict(zip(regressor.modality_names, values.split(sizes, dim=-1), strict=True))


def _norms(regressor: Any) -> dict[str, float]:
    weights: Callable[[], Tensor] = regressor.fusion.weight[0].detach
    return {name: float(part.norm()) for name, part in _by_modality(regressor, weights()).items()}


__all__ = ["DecisionTable", "decision_table", "on_device"]
