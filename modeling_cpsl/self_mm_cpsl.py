"""Self-MM (Yu et al., 2021): each modality has its own label, which follows from where its representations lie."""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .losses_cpsl import TASK_TERM, LossTerm
from .number_task_cpsl import TASK_LOSSES, NumberTask, Range
from .outputs_cpsl import Regression, RegressorInputs
from .pooling_cpsl import masked, sample_mean
from .regressor_cpsl import MultimodalRegressor, check_probability, check_size, check_weight, option
from .rows_cpsl import RowLSTM, left_aligned
from .task_cpsl import SENTIMENT_RANGE


# Below this absolute value of a sample's relative distance, a ratio to it says nothing.
SMALLEST_DISTANCE = 1e-2
EPS = 1e-8


@strict
@dataclass
class SelfMMOptions:
    """The options of Self-MM; defaults lie within the values that its code has for different data sets."""

    modality_size: int = option(32, "Size of the LSTM's state and of its projection, for each modality but text.")
    fusion_size: int = option(128, "Size of the representation of all modalities together.")
    unimodal_size: int = option(32, "Size of the representation of each modality alone.")
    dropout: float | int = option(0.1, "Dropout before each representation.")
    unimodal_weight: float | int = option(1.0, "Weight of the unimodal loss in the objective.")

    def __post_init__(self) -> None:
        check_probability("dropout", self.dropout)
        for name in ("modality_size", "fusion_size", "unimodal_size"):
            check_size(name, getattr(self, name))
        check_weight("unimodal_weight", self.unimodal_weight)


class ModalityLSTM(nn.Module):
    """The last state of an LSTM over a modality's rows, projected to its own size."""

    def __init__(self, input_size: int, size: int):
        super().__init__()
        self.lstm = RowLSTM(input_size, size)
        self.projection = nn.Linear(size, size)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Returns (B, size) for the rows of `values` (B, L, d) that the `mask` (B, L) selects."""
        rows, lengths = left_aligned(values.to(self.projection.weight.dtype), mask)
        return self.projection(self.lstm(rows, lengths)[1])


class RepresentationHead(nn.Module):
    """A representation F* = ReLU(W_1 Dropout(x) + b_1), and the sentiment w_3 ReLU(W_2 F* + b_2) + b_3 from it."""

    def __init__(self, input_size: int, size: int, dropout: float):
        super().__init__()
        self.representation = nn.Sequential(nn.Dropout(dropout), nn.Linear(input_size, size), nn.ReLU())
        self.regression = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 1))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the representation (B, size) and the sentiment (B,) of `values` (B, input_size)."""
        representation = self.representation(values)
        return representation, self.regression(representation).squeeze(-1)


class SelfMMRegressor(MultimodalRegressor):
    """Fuses one vector a modality; unimodal heads learn labels that are derived anew after each epoch.

    Text is the pooled text encoder, each other modality the last state of an LSTM over its words' rows.

    A modality's label y_s begins as the sample's label y. After each epoch it moves, see [`unimodal_labels`], by where
    the representations that the epoch's steps have recorded lie between those of positive and negative samples. Its
    weight in the loss is w_s = tanh|y_s - y|, so that nothing trains the unimodal heads in the first epoch. Samples
    that are evaluated have no such labels, and their loss is the task's alone.

    Args:
        config: The model's configuration.
    """

    title = "Self-MM (this package)"
    reference = (
        "Yu, Xu, Yuan and Wu (2021), *Learning Modality-Specific Representations with Self-Supervised Multi-Task "
        "Learning for Multimodal Sentiment Analysis*, AAAI"
    )
    Options = SelfMMOptions
    config_fields = frozenset({"pooling"})
    loss_terms = {"task": TASK_TERM, "unimodal": LossTerm("unimodal loss", "weighted sum of regression losses")}
    heads = frozenset({"regression"})
    has_unimodal_heads = True
    reads_word_starts = True
    predicts_one_number = True
    unchanged_by_first_step = ("unimodal_heads.",)

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        options, sizes = self.options, config.modality_sizes
        self.loss_weights = {"unimodal": options.unimodal_weight}
        self.encoders = nn.ModuleDict(
            {name: ModalityLSTM(size, options.modality_size) for name, size in sizes.items()}
        )
        input_sizes = {"text": config.hidden_size} | dict.fromkeys(sizes, options.modality_size)
        self.fusion = RepresentationHead(sum(input_sizes.values()), options.fusion_size, options.dropout)
        self.unimodal_heads = nn.ModuleDict(
            {
                name: RepresentationHead(size, options.unimodal_size, options.dropout)
                for name, size in input_sizes.items()
            }
        )

    @property
    def sample_columns(self) -> dict[str, int]:
        """The label, F* of all modalities and of each one, and the unimodal labels in the order of the modalities."""
        unimodal = {_column(name): self.options.unimodal_size for name in self.modality_names}
        return {
            "label": 1,
            "fused": self.options.fusion_size,
            **unimodal,
            "unimodal_labels": len(self.modality_names),
        }

    def update_sample_columns(self, columns: dict[str, Tensor], num_epochs: int) -> dict[str, Tensor]:
        """The unimodal labels for the epoch to come."""
        representations = [columns[_column(name)] for name in self.modality_names]
        labels, earlier = columns["label"].squeeze(1), columns["unimodal_labels"]
        assert isinstance(self.task, NumberTask)
        updated = unimodal_labels(
            columns["fused"], representations, labels, earlier, num_epochs + 1, self.task.ranges[0]
        )
        return {"unimodal_labels": updated}

    def modality_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of a modality's LSTM and its projection."""
        return list(self.encoders[name].parameters())

    def regress(self, inputs: RegressorInputs) -> Regression:
        """Predicts the sentiment from all modalities together and from each one alone."""
        encoded = {"text": self._pool(inputs.hidden, inputs.mask)}
        for name, encoder in self.encoders.items():
            values, present = self._normalize(name, inputs)
            encoded[name] = masked(encoder(values, present & inputs.word_starts), inputs.presence[name][:, None])
        fused, logits = self.fusion(torch.cat(list(encoded.values()), dim=-1))
        heads = {name: head(encoded[name]) for name, head in self.unimodal_heads.items()}
        regression = Regression(logits, unimodal_logits={name: prediction for name, (_, prediction) in heads.items()})
        if inputs.labels is not None:
            regression.losses = {
                "task": self._task_loss(logits, inputs),
                "unimodal": self._unimodal_loss(regression.unimodal_logits, inputs, inputs.labels),
            }
            unimodal = {
                _column(name): torch.where(inputs.presence[name][:, None], representation.float(), torch.nan)
                for name, (representation, _) in heads.items()
            }
            regression.sample_values = {"label": inputs.labels[:, None], "fused": fused.float(), **unimodal}
        return regression

    def _unimodal_loss(self, logits: dict[str, Tensor], inputs: RegressorInputs, labels: Tensor) -> Tensor:
        """The sum over modalities of mean w_s l(u_s, y_s), l the config's task loss; 0 without unimodal labels."""
        own = inputs.sample_values.get("unimodal_labels", labels.new_full((len(labels), len(logits)), torch.nan))
        losses = []
        for prediction, label, name in zip(logits.values(), own.unbind(dim=1), logits, strict=True):
            weight = torch.tanh((label - labels).abs()).nan_to_num(0.0)
            loss = TASK_LOSSES[self.config.task_loss](prediction.float(), label.nan_to_num(0.0), reduction="none")
            losses.append(sample_mean(torch.where(inputs.presence[name], weight * loss, 0.0), inputs.weights))
        return torch.stack(losses).sum()

    def _modality_errors(self, regression: Regression, inputs: RegressorInputs) -> dict[str, Tensor]:
        """As for any architecture; none in training as long as nothing trains the unimodal heads."""
        if self.training and "unimodal_labels" not in inputs.sample_values:
            return {}
        return super()._modality_errors(regression, inputs)


def unimodal_labels(
    fused: Tensor,
    representations: list[Tensor],
    labels: Tensor,
    earlier: Tensor,
    epoch: int,
    bounds: Range = SENTIMENT_RANGE,
) -> Tensor:
    """The label of each modality of each training sample in an epoch.

    With D the distance of a sample's representation to the mean of those of samples with a positive or negative label
    (of the modality itself: its own labels), alpha = (D_negative - D_positive) / D_positive says how positive it is.
    A modality's new label is the mean of y alpha_s / alpha_m and y + alpha_s - alpha_m, where m stands for all
    modalities together; only the second where alpha_m is almost 0. It is clipped to the range of labels, and the label
    in epoch n is (n - 1) / (n + 1) times the earlier one plus 2 / (n + 1) times the new one.

    Args:
        fused: (N, d), the representations of all modalities together, NaN where there is none.
        representations: (N, d_s) for each of M modalities, NaN where a sample lacks it.
        labels: (N,), y; NaN for a sample that was not seen yet.
        earlier: (N, M), the labels of the epoch before; NaN stands for y.
        epoch: n, counted from 1; above 1.
        bounds: The least and the greatest label.

    Returns:
        (N, M); the earlier labels where no new one can be told.
    """
    earlier = torch.where(earlier.isnan(), labels[:, None], earlier)
    of_all = relative_distances(fused, labels)
    is_usable = of_all.abs() >= SMALLEST_DISTANCE
    updated = []
    for representation, own in zip(representations, earlier.unbind(dim=1), strict=True):
        distances = relative_distances(representation, own)
        shifted = labels + distances - of_all
        scaled = torch.where(is_usable, labels * distances / torch.where(is_usable, of_all, 1.0), shifted)
        new = ((scaled + shifted) / 2).clip(*bounds)
        new = (epoch - 1) / (epoch + 1) * own + 2 / (epoch + 1) * new
        updated.append(torch.where(new.isfinite(), new, own))
    return torch.stack(updated, dim=1)


def relative_distances(representations: Tensor, labels: Tensor) -> Tensor:
    """alpha (N,) of each sample, see [`unimodal_labels`]; NaN where it is not known.

    Args:
        representations: (N, d), NaN where there is none.
        labels: (N,), positive, negative or 0.
    """
    known = ~representations.isnan().any(dim=1)
    to_positive, to_negative = (
        (representations - representations[known & chosen].mean(dim=0)).norm(dim=1)
        for chosen in (labels > 0, labels < 0)
    )
    return (to_negative - to_positive) / (to_positive + EPS)


def _column(name: str) -> str:
    return f"representation_{name}"


__all__ = [
    "ModalityLSTM",
    "RepresentationHead",
    "SelfMMOptions",
    "SelfMMRegressor",
    "relative_distances",
    "unimodal_labels",
]
