"""What of a trained model's weights does not hold where its modalities or labels are others, and is made new."""

from collections.abc import Callable
from typing import Any

import torch

from .configuration_cpsl import CPSLConfigMixin


def renew_parts(model: Any, saved: CPSLConfigMixin) -> set[str]:
    """Initialises what does not hold for a model that was loaded with another configuration than it was saved with.

    Where the modalities are others, that is what knows them by their place and not by their name; where labels are
    something else, it is what predicts them.

    Args:
        model: A CPSL model.
        saved: The configuration that its weights were saved with.

    Returns:
        The names of the tensors that are new.
    """
    now, regressor, new = model.config, model.multimodal, set()
    if saved.modality_sizes.keys() != now.modality_sizes.keys():
        named = now.modality_sizes.keys()
        new |= _renew(
            model,
            lambda parts: ("fusion" in parts and not named & parts) or bool(regressor.parts_by_place & parts),
        )
    if (saved.problem_type, saved.id2label) != (now.problem_type, now.id2label):
        new |= _renew(model, lambda parts: bool(regressor.heads & parts))
    return new


@torch.no_grad()
def _renew(model: Any, is_meant: Callable[[set[str]], bool]) -> set[str]:
    """Initialises the modules that are meant, of which one goes by the parts of its path; returns their tensors."""
    new = set()
    for path, module in model.multimodal.named_modules(prefix="multimodal"):
        if is_meant({*path.split(".")}):
            for name, parameter in module.named_parameters(prefix=path, recurse=False):
                parameter._is_hf_initialized = False  # transformers initialises no tensor that was loaded
                new.add(name)
            model._init_weights(module)
    return new


__all__ = ["renew_parts"]
