"""Labels that are one of several classes, such as an emotion, or several classes at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .task_cpsl import Task, label_items, shown_label


@dataclass(frozen=True)
class ClassTask(Task):
    """One of K classes."""

    problem_type = "single_label_classification"

    @property
    def title(self) -> str:
        """See [`Task.title`]."""
        return f"Classification into {len(self.names)} classes"

    def label_tensor(self, labels: Tensor, size: int) -> Tensor:
        """(B,) int64, the numbers of classes, from (B,) or (B, 1)."""
        if labels.shape == (size, 1):
            labels = labels.squeeze(-1)
        self.check_shape(labels, (size,), "the number of a class per sample")
        return labels.long()

    def checked_label(self, label: Any) -> int:
        """See [`Task.checked_label`]: the number of a class, from that or its name."""
        if isinstance(label, str) and label in self.names:
            return self.names.index(label)
        value = _whole_number(label)
        if value is None or not 0 <= value < len(self.names):
            raise ValueError(
                f"label {shown_label(label)} is none of the classes {', '.join(self.names)}; correct it or leave the "
                "sample out"
            )
        return value

    def label_array(self, labels: Sequence[Any]) -> np.ndarray:
        """See [`Task.label_array`]: (B,) int64."""
        return np.array(labels, dtype=np.int64)

    def losses(self, logits: Tensor, labels: Tensor, kind: str = "mse") -> Tensor:
        """The cross-entropy, times the weight of the label's class."""
        weights = logits.new_tensor(self.weights) if self.weights else None
        return F.cross_entropy(logits, labels, weight=weights, reduction="none")

    def predicted(self, logits: Tensor) -> Tensor:
        """See [`Task.predicted`]."""
        return logits.detach().float().softmax(dim=-1)

    def distance(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """1 - p of the label."""
        return 1 - predicted.expand(len(labels), -1).gather(1, labels[:, None]).squeeze(1)

    def divergence(self, logits: Tensor, others: Tensor) -> Tensor:
        """The mean of the two Kullback-Leibler divergences."""
        return _symmetric_divergence(logits.float().log_softmax(-1), others.float().log_softmax(-1))

    def distillation_losses(self, logits: Tensor, teacher: Tensor, kind: str = "mse") -> Tensor:
        """The Kullback-Leibler divergence from the teacher, who has learnt what classes count by."""
        targets = teacher.log_softmax(dim=-1)
        return F.kl_div(logits.log_softmax(dim=-1), targets, reduction="none", log_target=True).sum(dim=-1)

    def ensemble_logits(self, logits: Tensor) -> Tensor:
        """The logarithms of the mean probabilities."""
        return logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))

    def constant(self, labels: np.ndarray) -> np.ndarray:
        """See [`Task.constant`]."""
        return np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(self.names)) / max(len(labels), 1)

    def conformity_errors(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """1 - p of the label (least ambiguous sets, Sadinle, Lei and Wasserman, 2019)."""
        return 1.0 - np.asarray(scores, dtype=np.float64)[np.arange(len(labels)), np.asarray(labels, dtype=np.int64)]

    def region(self, scores: np.ndarray, quantiles: np.ndarray) -> dict[str, Any]:
        """The `set` of those classes for which 1 - p is at most the quantile, and the likeliest one, likely first."""
        order = np.argsort(-scores, kind="stable")
        kept = [place for rank, place in enumerate(order) if rank == 0 or 1.0 - scores[place] <= quantiles]
        return {"set": [self.names[place] for place in kept]}

    def results(self, logits: Tensor, *, in_words: bool = True) -> list[dict[str, Any]]:
        """`label`, the likeliest class, `score`, its probability, and `probabilities` of all by name."""
        scores = self.scores(logits).cpu().numpy()
        return [
            {
                "label": self.names[int(row.argmax())],
                "score": float(row.max()),
                "probabilities": self.by_name(row),
            }
            for row in scores
        ]

    def covered(self, scores: np.ndarray, labels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
        """See [`Task.covered`]; the likeliest class always is in the set."""
        return super().covered(scores, labels, quantiles) | (np.asarray(scores).argmax(axis=-1) == labels)

    def scores_of(self, result: Mapping[str, Any]) -> Any:
        """See [`Task.scores_of`]."""
        return [result["probabilities"][name] for name in self.names]

    def change(self, with_it: np.ndarray, without: np.ndarray) -> float:
        """By how much the probability of the class that is predicted with it changes."""
        place = int(with_it.argmax())
        return float(with_it[place] - without[place])

    def sample_labels(self, label: Any) -> str:
        """See [`Task.sample_labels`]."""
        return self.names[int(label)]


@dataclass(frozen=True)
class LabelSetTask(Task):
    """Several of K classes at once, or none of them."""

    problem_type = "multi_label_classification"

    @property
    def title(self) -> str:
        """See [`Task.title`]."""
        return f"Classification into any of {len(self.names)} classes"

    def label_tensor(self, labels: Tensor, size: int) -> Tensor:
        """(B, K) float32, 1 for each class that the sample has and 0 for the others."""
        self.check_shape(labels, (size, len(self.names)), f"0 or 1 for each of {', '.join(self.names)}")
        return labels.float()

    def checked_label(self, label: Any) -> list[float]:
        """See [`Task.checked_label`]: 0 or 1 for each class, from names or numbers of those that the sample has."""
        single = ClassTask(self.names)
        given = label_items(label)
        if given is None:
            raise ValueError(f"label {shown_label(label)} is not a list of classes among {', '.join(self.names)}")
        present = {single.checked_label(one) for one in given}
        return [float(place in present) for place in range(len(self.names))]

    def losses(self, logits: Tensor, labels: Tensor, kind: str = "mse") -> Tensor:
        """The binary cross-entropy, a mean over classes; a weight counts where the sample has the class."""
        weights = logits.new_tensor(self.weights) if self.weights else None
        losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
        return losses.mean(dim=-1)

    def predicted(self, logits: Tensor) -> Tensor:
        """See [`Task.predicted`]."""
        return logits.detach().float().sigmoid()

    def distance(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """1 - p of having the class, or not having it, as the label says; the mean over classes."""
        return (predicted - labels).abs().mean(dim=-1)

    def divergence(self, logits: Tensor, others: Tensor) -> Tensor:
        """The mean of the two Kullback-Leibler divergences of having each class or not; the mean over classes."""
        both = (torch.stack([values, -values], dim=-1).float() for values in (logits, others))
        return _symmetric_divergence(*map(F.logsigmoid, both)).mean(dim=-1)

    def distillation_losses(self, logits: Tensor, teacher: Tensor, kind: str = "mse") -> Tensor:
        """The binary cross-entropy with the teacher's probabilities, who has learnt what classes count by."""
        losses = F.binary_cross_entropy_with_logits(logits, teacher.sigmoid(), reduction="none")
        return losses.mean(dim=-1)

    def ensemble_logits(self, logits: Tensor) -> Tensor:
        """log p - log(1 - p) of the mean probabilities p."""
        return F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)

    def conformity_errors(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """1 - p of what the label says, for each class."""
        return np.abs(np.asarray(scores, dtype=np.float64) - np.asarray(labels, dtype=np.float64))

    def region(self, scores: np.ndarray, quantiles: np.ndarray) -> dict[str, Any]:
        """The `set` by class of what it may be: [True], [False], or both; what is likelier always is in it."""
        has, lacks = 1.0 - scores <= quantiles, scores <= quantiles
        return {
            "set": {
                name: [value for value, kept in ((True, yes or p >= 0.5), (False, no or p < 0.5)) if kept]
                for name, yes, no, p in zip(self.names, has, lacks, scores, strict=True)
            }
        }

    def results(self, logits: Tensor, *, in_words: bool = True) -> list[dict[str, Any]]:
        """`label`, the classes whose probability is at least 1/2, and `score`, the probabilities of all by name."""
        scores = self.scores(logits).cpu().numpy()
        return [{"label": self._names_of(row >= 0.5), "score": self.by_name(row)} for row in scores]

    def covered(self, scores: np.ndarray, labels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
        """See [`Task.covered`]; what is likelier always is in the set."""
        return super().covered(scores, labels, quantiles) | ((np.asarray(scores) >= 0.5) == (np.asarray(labels) > 0.5))

    def change(self, with_it: np.ndarray, without: np.ndarray) -> Any:
        """By how much the probability of each class changes, by name."""
        return self.by_name(with_it - without)

    def sample_labels(self, label: Any) -> list[str]:
        """See [`Task.sample_labels`]."""
        return self._names_of(label)

    def _names_of(self, present: Any) -> list[str]:
        return [name for name, has in zip(self.names, present, strict=True) if has]


def _symmetric_divergence(logs: Tensor, others: Tensor) -> Tensor:
    """The mean of KL(p || q) and KL(q || p) over the last dimension, from log p and log q."""
    return ((logs.exp() - others.exp()) * (logs - others)).sum(dim=-1) / 2


def _whole_number(value: Any) -> int | None:
    try:
        return int(value) if int(value) == value else None
    except (TypeError, ValueError, OverflowError):
        return None


__all__ = ["ClassTask", "LabelSetTask"]
