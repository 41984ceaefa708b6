"""What a model predicts when it knows only some of its modalities."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling_cpsl import CPSLModelMixin
from ..modulation.contributions import coalitions, shapley_values
from ..regressor_cpsl import MultimodalRegressor
from .contract import TrainableModel, TrainableOutput
from .labels import constant_errors, task_of_model


@torch.no_grad()
def coalition_logits(model: TrainableModel, inputs: dict[str, Any]) -> dict[tuple[str, ...], Tensor]:
    """The prediction, (B,) or (B, K), from each coalition of the model's modalities, in evaluation mode.

    The text encoder runs once for all of them, unless the other modalities change its embeddings.

    Args:
        model: The model.
        inputs: A batch; `modality_mask`, if it has one, by modality.
    """
    assert isinstance(model, nn.Module)
    present = _presence(model, inputs)
    inputs = {name: value for name, value in inputs.items() if name not in ("labels", "modality_mask", "ids")}
    logits = {}
    with _evaluating(model):
        predict = _above_text_encoder(model, inputs) if _reads_states_alone(model) else model
        for coalition in coalitions(model.modality_names):
            mask = {name: mask & (name in coalition) for name, mask in present.items()}
            output: TrainableOutput = predict(**inputs, modality_mask=mask)
            logits[coalition] = output.logits.float()
    return logits


def coalition_errors(model: TrainableModel, inputs: dict[str, Any], constant: Any) -> dict[tuple[str, ...], Tensor]:
    """Errors (B,) of [`coalition_logits`], and of the constant prediction for the empty coalition.

    A sample without any of a coalition's modalities has the constant's error, one without any modality has none. The
    constant is as [`LabelStatistics`] has it; errors are absolute ones, and for classes 1 - p of the label.
    """
    task, present = task_of_model(model), _presence(model, inputs)
    labels = task.label_tensor(inputs["labels"], len(inputs["labels"]))
    alone = constant_errors(task, constant, labels)
    anything = torch.stack([*present.values()]).any(dim=0)
    errors: dict[tuple[str, ...], Tensor] = {(): torch.where(anything, alone, 0)}
    for coalition, logits in coalition_logits(model, inputs).items():
        known = torch.stack([present[name] for name in coalition]).any(dim=0)
        errors[coalition] = torch.where(anything, torch.where(known, task.errors(logits, labels), alone), 0)
    return errors


def squared_coalition_errors(
    model: TrainableModel, inputs: dict[str, Any], constant: Any
) -> dict[tuple[str, ...], Tensor]:
    """The squares (B,) of [`coalition_errors`]."""
    return {coalition: error.square() for coalition, error in coalition_errors(model, inputs, constant).items()}


def sample_contributions(model: TrainableModel, inputs: dict[str, Any], constant: Any) -> Tensor:
    """How much each modality contributes to the prediction of each sample: Shapley values.

    A coalition is worth by how much its prediction is nearer to the label than a constant one is, so that the values
    of a sample add up to what all its modalities are worth.

    Args:
        model: The model.
        inputs: A batch with `labels`.
        constant: What is predicted without any modality, see [`LabelStatistics`].

    Returns:
        (B, M) in units of the labels, in the order of the model's modalities; NaN where a sample lacks one.
    """
    errors = coalition_errors(model, inputs, constant)
    worth = {coalition: errors[()] - error for coalition, error in errors.items() if coalition}
    shares = shapley_values(worth, model.modality_names)
    present = torch.stack([*_presence(model, inputs).values()])
    return torch.where(present, shares, torch.nan).T


def _presence(model: TrainableModel, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Which samples (B,) have each of the model's modalities."""
    given = inputs.get("modality_mask") or {}
    everywhere = torch.ones(len(inputs["attention_mask"]), dtype=torch.bool, device=inputs["attention_mask"].device)
    return {name: given.get(name, everywhere).bool() for name in model.modality_names}


def _reads_states_alone(model: nn.Module) -> bool:
    """Whether the other modalities are read by what stands above the text encoder alone."""
    if not isinstance(model, CPSLModelMixin):
        return False
    return type(model.multimodal).shifted_embeddings is MultimodalRegressor.shifted_embeddings


def _above_text_encoder(model: nn.Module, inputs: dict[str, Any]) -> Callable[..., Any]:
    """The model as a function of `modality_mask`, with its text encoder's states computed once."""
    read: list[tuple[tuple, dict[str, Any]]] = []
    hook = model.multimodal.register_forward_pre_hook(
        lambda _, arguments, options: read.append((arguments, options)), with_kwargs=True
    )
    try:
        model(**inputs)
    finally:
        hook.remove()
    ((arguments, options),) = read
    return lambda *, modality_mask, **_: model.multimodal(*arguments, **options | {"modality_mask": modality_mask})


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


__all__ = ["coalition_errors", "coalition_logits", "sample_contributions", "squared_coalition_errors"]
