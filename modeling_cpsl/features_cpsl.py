"""Converts between the dict of features by modality and a model's arguments.

The package keeps features in one dict by modality. A model's `forward` takes the two usual modalities as
arguments of their own, `acoustic` and `visual`, and any other one in the dict `extra_features`.
"""

from collections.abc import Mapping
from typing import Any, TypeVar


Values = TypeVar("Values")  # arrays or tensors, or lists of them

NAMED_ARGUMENTS = ("acoustic", "visual")


def collect_features(
    acoustic: Values | None = None,
    visual: Values | None = None,
    extra_features: Mapping[str, Values | None] | None = None,
    **other_inputs: Any,
) -> dict[str, Values]:
    """Collects the features among a model's arguments into a dict by modality.

    Args:
        acoustic: Features of the modality `acoustic`, None where there are none.
        visual: Features of the modality `visual`, likewise.
        extra_features: Features of further modalities by name, likewise.
        **other_inputs: Ignored, so that a whole batch can be passed: `collect_features(**batch)`.

    Returns:
        The features that are not None.

    Example:
        >>> collect_features(acoustic=[1.0], extra_features={"pose": [2.0]}, input_ids=[3])
        {'acoustic': [1.0], 'pose': [2.0]}
    """
    features = {"acoustic": acoustic, "visual": visual, **(extra_features or {})}
    return {name: values for name, values in features.items() if values is not None}


def feature_arguments(features: Mapping[str, Values]) -> dict[str, Values | dict[str, Values]]:
    """Features by modality as a model's arguments; the inverse of [`collect_features`].

    Example:
        >>> feature_arguments({"acoustic": [1.0], "pose": [2.0]})
        {'acoustic': [1.0], 'extra_features': {'pose': [2.0]}}
    """
    arguments: dict[str, Any] = {name: features[name] for name in NAMED_ARGUMENTS if name in features}
    others = {name: values for name, values in features.items() if name not in NAMED_ARGUMENTS}
    return arguments | ({"extra_features": others} if others else {})


__all__ = ["collect_features", "feature_arguments"]
