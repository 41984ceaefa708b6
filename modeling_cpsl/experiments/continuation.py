"""Training a CPSL model further: what a new training keeps of one that was trained before, and what is new."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration_cpsl import FITTED_FIELDS, CPSLConfigMixin
from ..processing_cpsl import CPSLProcessor


# The members of `model.multimodal` that have a module for each modality.
_BY_MODALITY = ("normalizers", "encoders", "decoders", "unimodal_heads")
# Those from the pooled states to the prediction.
_TASK_HEAD = ("norm", "dense", "out_proj")


def kept_statistics(
    trained: CPSLProcessor, modality_sizes: Mapping[str, int], feature_extractors: Mapping[str, str]
) -> dict[str, dict[str, list[float]]]:
    """The feature statistics that hold for other data too: those of the same features, to which encoders are fitted.

    Args:
        trained: The processor of the trained model.
        modality_sizes: Feature size by modality of the other data.
        feature_extractors: The extractors of its features by modality, where they are known.

    Returns:
        Statistics by modality, of those that have the same size and are not known to come from another extractor.
    """

    def is_same(name: str) -> bool:
        extractors = {known[name] for known in (trained.feature_extractors, feature_extractors) if name in known}
        return trained.modality_sizes[name] == modality_sizes.get(name) and len(extractors) < 2

    return {name: statistics for name, statistics in trained.feature_statistics.items() if is_same(name)}


def restart_bounds(model: PreTrainedModel, processor: CPSLProcessor, trained: CPSLProcessor) -> None:
    """Has the first step set the bounds of modalities whose features are standardised otherwise than before."""
    model.multimodal.restart_bounds(_with_other_statistics(processor, trained))


def _with_other_statistics(processor: CPSLProcessor, trained: CPSLProcessor) -> list[str]:
    before, now = trained.feature_statistics, processor.feature_statistics
    return [name for name in processor.modality_sizes if before.get(name) != now.get(name)]


def kept_and_new(
    model: PreTrainedModel,
    processor: CPSLProcessor,
    trained_config: PreTrainedConfig,
    trained: CPSLProcessor,
    info: Mapping[str, Any],
) -> str:
    """What a model and its processor have of the trained ones, in words.

    Args:
        model: The model to train.
        processor: Its processor.
        trained_config: The configuration of the trained model.
        trained: The processor of the trained model.
        info: transformers' report of what was loaded.
    """
    new = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    tensors: dict[str, list[bool]] = {}
    for name in model.state_dict():
        tensors.setdefault(_part(name), []).append(name in new)
    groups = {
        "kept": [part for part, is_new in tensors.items() if not any(is_new)],
        "partly new": [part for part, is_new in tensors.items() if any(is_new) and not all(is_new)],
        "new": [part for part, is_new in tensors.items() if all(is_new)],
        "left out": sorted({_part(name) for name in info["unexpected_keys"]} - tensors.keys()),
        "other feature statistics": _with_other_statistics(processor, trained),
        "other labels": _other_labels(trained_config, model.config),
        "other options": [
            f"{name} {getattr(trained_config, name)} -> {getattr(model.config, name)}"
            for name in (option.name for option in fields(CPSLConfigMixin) if option.name not in FITTED_FIELDS)
            if getattr(trained_config, name) != getattr(model.config, name)
        ],
    }
    return "; ".join(f"{group}: {', '.join(parts)}" for group, parts in groups.items() if parts)


def _other_labels(before: PreTrainedConfig, now: PreTrainedConfig) -> list[str]:
    names = [" ".join(config.id2label[place] for place in range(config.num_labels)) for config in (before, now)]
    are_others = (before.problem_type, names[0]) != (now.problem_type, names[1])
    return [" -> ".join(names)] if are_others else []


def _part(tensor: str) -> str:
    """The part of a model that a tensor belongs to, as a user knows it."""
    module, _, rest = tensor.partition(".")
    if module != "multimodal":
        return "text encoder"
    member, _, rest = rest.partition(".")
    if member in _BY_MODALITY:
        name = rest.partition(".")[0]
        return "unimodal head of text" if name == "text" else name
    return "task head" if member in _TASK_HEAD else member


__all__ = ["kept_and_new", "kept_statistics", "restart_bounds"]
