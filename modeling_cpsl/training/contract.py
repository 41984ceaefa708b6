"""What [`CPSLTrainer`] needs of a model, and nothing else of it is touched: any class with these can be trained."""

from typing import Protocol

from torch import Tensor, nn


class TrainableOutput(Protocol):
    """What the model's `forward` returns when it is given `labels`: a `ModelOutput` with these fields.

    Attributes:
        loss: Scalar, a mean over the samples of the batch.
        logits: (B,), the predictions, or (B, K) as the task of the model has them; the first field after `loss`.
        losses: The parts of `loss` by the names of [`TrainableModel.loss_names`], scalars; each is logged.
        modality_errors: (B,) for each of [`TrainableModel.unimodal_names`], the error of the prediction from that
            modality alone, for numbers the absolute one; 0 where the sample lacks the modality. None where there are
            no such predictions, or none that are trained in this step: they then have no part in gradient modulation.
        unimodal_logits: (B,) for each of them, the predictions; read for `sample_weights` that follow the training.
        modality_presence: (B,) bool by modality, whether the sample has it; None if every sample has all.
        sample_values: (B, width) for those of [`TrainableModel.sample_columns`] that a step writes; else None.
    """

    loss: Tensor
    logits: Tensor
    losses: dict[str, Tensor]
    modality_errors: dict[str, Tensor] | None
    unimodal_logits: dict[str, Tensor] | None
    modality_presence: dict[str, Tensor] | None
    sample_values: dict[str, Tensor] | None


class TrainableModel(Protocol):
    """A model that [`CPSLTrainer`] can train: an `nn.Module` with these members.

    A model whose labels are no sentiments says what they are with a property `task`, a [`Task`].

    Its `forward` takes a batch of the data collator (but for `ids`, the names of the samples, which the trainer keeps
    to itself) and returns a [`TrainableOutput`]. The trainer may add `modality_mask` (which samples have a modality,
    (B,) bool by modality) and in training, for a model that asks for them, `feature_bounds`, `latent_noise` and
    `sample_values`, and with `sample_weights` a `sample_weight` (B,), by which samples count in all losses that are
    means over them. A `forward` that takes `**kwargs` needs the class attribute `accepts_loss_kwargs = False`.
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
    def smallest_batch_size(self) -> int:
        """The fewest samples in a micro-batch for which all losses are computed; 1 where none is over a batch."""

    def scale_loss(self, name: str, factor: float) -> None:
        """Called between two epochs: from now on a loss counts so many times its weight, in training alone."""

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

    @property
    def sample_columns(self) -> dict[str, int]:
        """What is to be remembered of each training sample, the number of values by name; empty for nothing.

        The trainer keeps a table of them, NaN at first, writes the output's `sample_values` into it, and from the
        second epoch on passes what it holds of a batch's samples as the input `sample_values`, (B, width) by name.
        """

    def update_sample_columns(self, columns: dict[str, Tensor], num_epochs: int) -> dict[str, Tensor]:
        """Called with the table's columns (N, width) when `num_epochs` are done; returns those that it changes.

        Only what is changed here, and not by steps, is for all batches of an epoch what it was when the epoch began.
        """

    @property
    def weakens_modalities(self) -> bool:
        """Whether `modality_mask` may be a number from 0 (missing) to 1, how much of a modality is fused."""

    @property
    def most_heads(self) -> int:
        """The most heads that may add up to the prediction from one modality alone; 1 where none is ever added."""

    @property
    def head_counts(self) -> dict[str, int]:
        """How many heads do so now, by modality; empty where `most_heads` is 1."""

    def add_head(self, name: str) -> None:
        """Called between two epochs to give a modality another head, of which it then has at most `most_heads`."""

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters that encode a modality, which gradient modulation scales; ValueError for an unknown name."""

    def encoder_layers(self) -> list[list[nn.Parameter]]:
        """The parameters that are trained at `encoder_learning_rate`, by layer, the embeddings first; may be empty.

        With `layer_learning_rate_decay` the last layer has this rate, and each one before it a fraction of the next
        one's. All other parameters have `head_learning_rate`.
        """

    def prepare_for_training(self) -> None:
        """Called at the start of each training, to forget what will not hold for the weights to come."""


__all__ = ["TrainableModel", "TrainableOutput"]
