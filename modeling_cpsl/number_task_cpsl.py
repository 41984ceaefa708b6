"""Labels that are one number, as a sentiment is, or several: valence and arousal, or a sentiment and six emotions."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .task_cpsl import (
    SENTIMENT_NAME,
    SENTIMENT_RANGE,
    SIMS_CLASSES,
    SIMS_RANGE,
    Clippable,
    Task,
    checked_label,
    decode_sentiment,
    label_items,
    shown_label,
    sims_class,
)


# By the name that the config's `task_loss` gives it.
TASK_LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}

Range = tuple[float, float]
UNBOUNDED: Range = (-math.inf, math.inf)


@dataclass(frozen=True)
class NumberTask(Task):
    """One number or several, each with the range that its labels lie in.

    Attributes:
        ranges: The least and greatest label of each number.
    """

    ranges: tuple[Range, ...] = (SENTIMENT_RANGE,)

    problem_type = "regression"
    fewest_names = 1

    @property
    def is_one_number(self) -> bool:
        """See [`Task.is_one_number`]."""
        return len(self.names) == 1

    @property
    def is_sentiment(self) -> bool:
        """See [`Task.is_sentiment`]."""
        return self.ranges == (SENTIMENT_RANGE,)

    @property
    def is_sims(self) -> bool:
        """See [`Task.is_sims`]."""
        return self.ranges == (SIMS_RANGE,)

    @property
    def title(self) -> str:
        """See [`Task.title`]."""
        of_sentiment = self.is_sentiment or self.names == (SENTIMENT_NAME,)  # on whatever scale
        return "Multimodal sentiment regression" if of_sentiment else f"Regression of {', '.join(self.names)}"

    @property
    def unit(self) -> str:
        """See [`Task.unit`]."""
        return f"{self.names[0]} points" if self.is_one_number else f"mean over {len(self.names)} numbers"

    def logits(self, outputs: Tensor) -> Tensor:
        """See [`Task.logits`]."""
        return outputs.squeeze(-1) if self.is_one_number else outputs

    def label_tensor(self, labels: Tensor, size: int) -> Tensor:
        """(B,) float32 labels from (B,) or (B, 1), or (B, K); others would broadcast against other samples' logits."""
        if not self.is_one_number:
            self.check_shape(labels, (size, len(self.names)), f"{', '.join(self.names)} of each sample")
            return labels.float()
        if labels.shape == (size, 1):
            labels = labels.squeeze(-1)
        self.check_shape(labels, (size,), "one per sample")
        return labels.float()

    def checked_label(self, label: Any) -> float | list[float]:
        """See [`Task.checked_label`]: a number, or K of them in their order or by name."""
        if self.is_one_number:
            return checked_label(label, self.ranges[0])
        if isinstance(label, Mapping):
            if missing := [name for name in self.names if name not in label]:
                raise ValueError(f"the label has no {', '.join(missing)}; it needs {', '.join(self.names)}")
            label = [label[name] for name in self.names]
        values = label_items(label)
        if values is None or len(values) != len(self.names):
            raise ValueError(f"label {shown_label(label)} is not {len(self.names)} numbers: {', '.join(self.names)}")
        return [
            checked_label(value, bounds, f"label of {name}")
            for value, bounds, name in zip(values, self.ranges, self.names, strict=True)
        ]

    def losses(self, logits: Tensor, labels: Tensor, kind: str = "mse") -> Tensor:
        """See [`Task.losses`]; the mean over several numbers."""
        losses = TASK_LOSSES[kind](logits, labels, reduction="none")
        return losses if self.is_one_number else losses.mean(dim=-1)

    def predicted(self, logits: Tensor) -> Tensor:
        """See [`Task.predicted`]."""
        return logits.detach().float()

    def scores(self, logits: Tensor) -> Tensor:
        """See [`Task.scores`]."""
        return self.clip(self.predicted(logits))

    def clip(self, values: Clippable) -> Clippable:
        """Clips numbers, (...) or (..., K), to their ranges; NaN stays NaN."""
        if self.is_one_number:
            return values.clip(*self.ranges[0])
        low, high = (np.array(bounds, dtype=np.float32) for bounds in zip(*self.ranges, strict=True))
        if isinstance(values, Tensor):
            return values.clip(torch.from_numpy(low).to(values), torch.from_numpy(high).to(values))
        return values.clip(low, high)

    def distance(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """The absolute error; the mean over several numbers."""
        errors = (predicted - labels).abs()
        return errors if self.is_one_number else errors.mean(dim=-1)

    def divergence(self, logits: Tensor, others: Tensor) -> Tensor:
        """The squared difference; the mean over several numbers."""
        differences = (logits.float() - others.float()).square()
        return differences if self.is_one_number else differences.mean(dim=-1)

    def distillation_losses(self, logits: Tensor, teacher: Tensor, kind: str = "mse") -> Tensor:
        """The loss of a label, with what the teacher predicts in its place."""
        return self.losses(logits, teacher, kind)

    def ensemble_logits(self, logits: Tensor) -> Tensor:
        """The mean."""
        return logits.mean(dim=0)

    def conformity_errors(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The absolute error of each number."""
        return np.abs(np.asarray(scores, dtype=np.float64) - np.asarray(labels, dtype=np.float64))

    def region(self, scores: np.ndarray, quantiles: np.ndarray) -> dict[str, Any]:
        """The `interval` [low, high], clipped to the range; of several numbers by name."""
        low, high = self.clip(scores - quantiles), self.clip(scores + quantiles)
        if self.is_one_number:
            return {"interval": [float(low), float(high)]}
        pairs = np.stack([low, high], axis=-1).tolist()
        return {"interval": dict(zip(self.names, pairs, strict=True))}

    def results(self, logits: Tensor, *, in_words: bool = True) -> list[dict[str, Any]]:
        """`score`, clipped, and `prediction`, as it is; for scales whose points have names also the `label`.

        For a sentiment in [-3, 3] also `acc7_class`, the integer whose name the label is. Of several numbers both are
        dicts by name.
        """
        scores, predictions = self.scores(logits).cpu().numpy(), self.predicted(logits).cpu().numpy()
        results = [
            {"score": self.by_name(score), "prediction": self.by_name(prediction)}
            for score, prediction in zip(scores, predictions, strict=True)
        ]
        if in_words and self.is_sentiment:
            for result, decoded in zip(results, decode_sentiment(logits), strict=True):
                result |= {"label": decoded["label"], "acc7_class": decoded["acc7_class"]}
        elif in_words and self.is_sims:
            for result, place in zip(results, sims_class(scores), strict=True):
                result["label"] = SIMS_CLASSES[place]
        return results

    def scores_of(self, result: Mapping[str, Any]) -> Any:
        """See [`Task.scores_of`]."""
        return result["score"] if self.is_one_number else super().scores_of(result)

    def change(self, with_it: np.ndarray, without: np.ndarray) -> Any:
        """The difference; of several numbers by name."""
        return self.by_name(np.asarray(with_it - without))

    def sample_labels(self, label: Any) -> Any:
        """See [`Task.sample_labels`]."""
        return self.by_name(np.asarray(label, dtype=np.float64))


__all__ = ["TASK_LOSSES", "UNBOUNDED", "NumberTask", "Range"]
