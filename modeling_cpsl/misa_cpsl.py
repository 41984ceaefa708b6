"""MISA: a private and a shared representation of each modality, kept apart and together by losses over the batch."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .losses_cpsl import FEWEST_SAMPLES, TASK_TERM, LossTerm
from .outputs_cpsl import Regression, RegressorInputs
from .pooling_cpsl import masked, sample_mean, token_mean
from .regressor_cpsl import MultimodalRegressor, check_probability, check_weight, option
from .rows_cpsl import RowLSTM, left_aligned


# The paper's: heads and inner width of the one transformer layer, and moments that the similarity loss compares.
NUM_HEADS = 2
FEEDFORWARD_SIZE = 2048
NUM_MOMENTS = 5


@strict
@dataclass
class MISAOptions:
    """The options of MISA; defaults are those of its released code."""

    size: int = option(128, "Size of each private and shared representation.")
    dropout: float | int = option(0.5, "Dropout before the prediction.")
    transformer_dropout: float | int = option(0.1, "Dropout in the transformer layer.")
    difference_weight: float | int = option(0.3, "Weight of the difference loss.")
    similarity_weight: float | int = option(1.0, "Weight of the similarity loss.")
    reconstruction_weight: float | int = option(1.0, "Weight of the reconstruction loss.")

    def __post_init__(self) -> None:
        for name in ("dropout", "transformer_dropout"):
            check_probability(name, getattr(self, name))
        if self.size < 1 or self.size % NUM_HEADS:
            raise ValueError(f"size={self.size} must be a multiple of {NUM_HEADS}, the number of heads")
        for name in ("difference_weight", "similarity_weight", "reconstruction_weight"):
            check_weight(name, getattr(self, name))


def central_moment_discrepancy(one: Tensor, other: Tensor, present: Tensor) -> Tensor:
    """CMD_5 of two representations: |difference of means| + sum over k = 2..5 of |difference of k-th central moments|.

    Args:
        one: (B, d).
        other: (B, d).
        present: (B,) bool, the samples that count.

    Returns:
        Scalar, lengths being Euclidean; a statistic of the batch, which no sum over its parts gives.
    """
    means, centred = zip(*(_mean_and_rest(values, present) for values in (one, other)), strict=True)
    differences = [means[0] - means[1]]
    for order in range(2, NUM_MOMENTS + 1):
        first, second = (_mean_and_rest(values**order, present)[0] for values in centred)
        differences.append(first - second)
    # The root's gradient at 0 would be NaN.
    return torch.stack([(difference.square().sum() + 1e-12).sqrt() for difference in differences]).sum()


def difference_loss(one: Tensor, other: Tensor, present: Tensor) -> Tensor:
    """Mean square of the entries of P^T C, where rows are centred over the batch and scaled to a length of 1.

    Args:
        one: (B, d).
        other: (B, d).
        present: (B,) bool, the samples that count.

    Returns:
        Scalar; a statistic of the batch. The lengths carry no gradient, as in the released code.
    """
    rows = [_mean_and_rest(values, present)[1] for values in (one, other)]
    first, second = (values / (values.norm(dim=1, keepdim=True).detach() + 1e-6) for values in rows)
    return (first.T @ second).square().mean()


def _mean_and_rest(values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (d) of `values` (B, d) over the samples that are present, and what they differ by from it, else 0."""
    kept = present[:, None]
    mean = masked(values, kept).sum(dim=0) / present.sum().clamp(min=1)
    return mean, masked(values - mean, kept)


class UtteranceEncoder(nn.Module):
    """Two stacked bidirectional LSTMs of width d over rows, and both directions' last states of both, (B, 4 d).

    Args:
        size: d, the size of a row.
    """

    def __init__(self, size: int):
        super().__init__()
        self.first = RowLSTM(size, size, bidirectional=True)
        self.norm = nn.LayerNorm(2 * size)
        self.second = RowLSTM(2 * size, size, bidirectional=True)

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Reads rows (B, L, d), of which each sample has `lengths` (B,); see [`RowLSTM.forward`]."""
        states, first_last = self.first(rows, lengths)
        _, second_last = self.second(self.norm(states), lengths)
        return torch.cat([first_last, second_last], dim=-1)


class MISARegressor(MultimodalRegressor):
    """Predicts from a private and a shared representation of each modality, after attention among them all.

    u_m is the mean text state or the last states of LSTMs over one row a word, projected; p_m = sigmoid(W_m u_m),
    c_m = sigmoid(W_c u_m). These pass one transformer layer together and are concatenated. The similarity and
    difference losses are **statistics of a batch**: how samples are cut into batches changes them, they are 0 for a
    batch of fewer than 4 samples, and in them all samples count alike, whatever their weights.

    Args:
        config: The model's configuration.
    """

    title = "MISA (this package)"
    reference = "Hazarika, Zimmermann and Poria (2020), arXiv:2005.03545"
    Options = MISAOptions
    loss_terms = {
        "task": TASK_TERM,
        "difference": LossTerm("difference loss", "mean square"),
        "similarity": LossTerm("similarity loss", "central moment discrepancy"),
        "reconstruction": LossTerm("reconstruction loss", "mean squared error"),
    }
    heads = frozenset({"fusion"})
    needs_text = False
    reads_word_starts = True
    smallest_batch_size = FEWEST_SAMPLES

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        options, names = self.options, self.modality_names
        size = options.size
        self.loss_weights = {
            name: getattr(options, f"{name}_weight") for name in ("difference", "similarity", "reconstruction")
        }
        self.encoders = nn.ModuleDict({name: UtteranceEncoder(width) for name, width in config.modality_sizes.items()})
        widths = {"text": config.hidden_size} if config.use_text else {}
        widths |= {name: 4 * width for name, width in config.modality_sizes.items()}
        self.projections = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, size), nn.ReLU(), nn.LayerNorm(size))
                for name, width in widths.items()
            }
        )
        self.private = nn.ModuleDict({name: nn.Linear(size, size) for name in names})
        self.shared = nn.Linear(size, size)
        self.decoders = nn.ModuleDict({name: nn.Linear(size, size) for name in names})
        self.transformer = nn.TransformerEncoderLayer(
            size, NUM_HEADS, FEEDFORWARD_SIZE, options.transformer_dropout, batch_first=True
        )
        width = 2 * len(names) * size
        self.fusion = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.Dropout(options.dropout),
            nn.ReLU(),
            nn.Linear(width // 2, self.task.num_outputs),
        )

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of a modality's LSTMs, projection and private representation."""
        parts = (self.encoders, self.projections, self.private)
        return [parameter for part in parts for parameter in part[name].parameters()]

    def regress(self, inputs: RegressorInputs) -> Regression:
        """See [`MISARegressor`]."""
        utterances = self._utterances(inputs)
        private = {name: torch.sigmoid(self.private[name](vector)) for name, vector in utterances.items()}
        shared = {name: torch.sigmoid(self.shared(vector)) for name, vector in utterances.items()}
        tokens = torch.stack([*private.values(), *shared.values()], dim=1)
        present = torch.stack([*inputs.presence.values()] * 2, dim=1)
        # Attention to nothing would be NaN; a sample without any modality attends to all, and nothing of it is kept.
        ignored = ~present & present.any(dim=1, keepdim=True)
        mixed = masked(self.transformer(tokens, src_key_padding_mask=ignored), present[..., None])
        regression = Regression(self.task.logits(self.fusion(mixed.flatten(1))))
        if inputs.labels is not None:
            regression.losses = {
                "task": self._task_loss(regression.logits, inputs),
                **self._batch_losses(private, shared, inputs.presence),
                "reconstruction": self._reconstruction_loss(utterances, private, shared, inputs),
            }
        return regression

    def _utterances(self, inputs: RegressorInputs) -> dict[str, Tensor]:
        """u_m (B, size) by modality."""
        pooled = {"text": token_mean(inputs.hidden, inputs.mask)} if self.config.use_text else {}
        for name, encoder in self.encoders.items():
            values, present = self._normalize(name, inputs)
            rows, lengths = left_aligned(values, inputs.word_starts & present)
            pooled[name] = encoder(rows.to(self.shared.weight.dtype), lengths)
        return {name: self.projections[name](vector) for name, vector in pooled.items()}

    def _batch_losses(
        self, private: dict[str, Tensor], shared: dict[str, Tensor], presence: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The losses that are statistics of the batch, a pair of modalities being compared where a sample has both."""
        differences, similarities = [], []
        for name, present in presence.items():
            differences.append(_statistic(difference_loss, private[name], shared[name], present))
        for one, other in itertools.combinations(presence, 2):
            both = presence[one] & presence[other]
            differences.append(_statistic(difference_loss, private[one], private[other], both))
            similarities.append(_statistic(central_moment_discrepancy, shared[one], shared[other], both))
        return {"difference": torch.stack(differences).sum(), "similarity": torch.stack(similarities).mean()}

    def _reconstruction_loss(
        self,
        utterances: dict[str, Tensor],
        private: dict[str, Tensor],
        shared: dict[str, Tensor],
        inputs: RegressorInputs,
    ) -> Tensor:
        """Mean squared error of u_m rebuilt from p_m + c_m; a missing modality contributes 0 and is counted."""
        losses = []
        for name, vector in utterances.items():
            error = (self.decoders[name](private[name] + shared[name]) - vector).float()
            losses.append(sample_mean(masked(error.square().mean(dim=-1), inputs.presence[name]), inputs.weights))
        return torch.stack(losses).mean()


def _statistic(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], one: Tensor, other: Tensor, present: Tensor
) -> Tensor:
    """A loss over the batch; 0 where too few samples count for a statistic."""
    return masked(loss(one.float(), other.float(), present), present.sum() >= FEWEST_SAMPLES)


__all__ = [
    "MISAOptions",
    "MISARegressor",
    "UtteranceEncoder",
    "central_moment_discrepancy",
    "difference_loss",
]
