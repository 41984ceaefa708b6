"""What [`CPSLTrainer`] needs of a model, and nothing else of it is touched: any class with these can be trained."""

from typing import Protocol

from torch import Tensor, nn


class TrainableOutput(Protocol):
    """What the model's `forward` returns when it is given `labels`: a `ModelOutput` with these fields.

    Attributes:
        loss: Scalar, a mean over the samples of the batch.
        logits: (B,), the predictions; the first field after `loss`.
        losses: The parts of `loss` by the names of [`TrainableModel.loss_names`], scalars; each is logged.
        modality_errors: (B,) for each of [`TrainableModel.unimodal_names`], the absolute error of the prediction from
            that modality alone; 0 where the sample lacks the modality. None where there are no such predictions.
        modality_presence: (B,) bool by modality, whether the sample has it; None if every sample has all.
    """

    loss: Tensor
    logits: Tensor
    losses: dict[str, Tensor]
    modality_errors: dict[str, Tensor] | None
    modality_presence: dict[str, Tensor] | None


class TrainableModel(Protocol):
    """A model that [`CPSLTrainer`] can train: an `nn.Module` with these members.

    Its `forward` takes a batch of the data collator (but for `ids`, the names of the samples, which the trainer keeps
    to itself) and returns a [`TrainableOutput`]. The trainer may add `modality_mask` (which samples have a modality,
    (B,) bool by modality) and in training, for a model that asks for them, `feature_bounds` and `latent_noise`. A
    `forward` that takes `**kwargs` needs the class attribute `accepts_loss_kwargs = False`.
    """

    @property
    def modality_names(self) -> list[str]:
        """All modalities that the model reads, `text` among them where it takes part."""

    @property
    def unimodal_names(self) -> list[str]:
        """The modalities with a prediction of their own, by whose errors gradient modulation compares them."""

    @property
    def loss_names(self) -> list[str]:
        """The names in the output's `losses`."""

    @property
    def normalized_modalities(self) -> list[str]:
        """The modalities whose bounds the trainer pools over an optimizer step; empty for none.

        Their features are inputs of the batch, as [`collect_features`] finds them, and the batch has `feature_mask`
        (B, L) and `modality_mask`.
        """

    def update_feature_bounds(self, bounds: dict[str, Tensor]) -> None:
        """Called once an optimizer step with the pooled bounds (2,), minimum and maximum by modality.

        The same bounds are the input `feature_bounds` of each of the step's micro-batches.
        """

    def latent_noise_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """The shapes of one sample's noise by modality, for an input of `length` tokens; empty for none.

        With `latent_noise="sample"` the trainer draws it and passes it as the input `latent_noise`.
        """

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters that encode a modality, which gradient modulation scales; ValueError for an unknown name."""

    def prepare_for_training(self) -> None:
        """Called at the start of each training, to forget what will not hold for the weights to come."""


__all__ = ["TrainableModel", "TrainableOutput"]
