"""Training arguments: transformers' own, with the paper's recipe as defaults and the switches of METHOD 8."""

import math
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ..modulation.modulator import check_modulation_arguments


LATENT_NOISES = ("batch", "sample")

# The paper modulates in epochs 0-25 of 30; shorter and longer recipes scale the window.
WINDOW_FRACTION = 25 / 30


def is_better_if_greater(metric: str) -> bool:
    """Whether a metric is to be large, which its name tells."""
    return not any(kind in metric for kind in ("mae", "loss", "error"))


@dataclass
class CPSLTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with the paper's recipe (METHOD 9) and gradient modulation (METHOD 8).

    Each field's meaning is its `help` text.

    Raises:
        ValueError: A value is out of range, GE is on without GM, or an option of `TrainingArguments` is set that has
            no effect here or breaks the training.
    """

    gm: bool = field(default=True, metadata={"help": "Gradient modulation (eq. 5)."})
    ge: bool = field(
        default=True, metadata={"help": "Gradient enhancement: noise on the modulated gradients, as in OGM-GE."}
    )
    cp: bool = field(default=True, metadata={"help": "Conflict-aware Penalty (eq. 6)."})
    alpha: float = field(default=1.0, metadata={"help": "alpha of eq. 5, at least 0."})
    penalty_factor: float = field(default=0.5, metadata={"help": "eta of eq. 6, in (0, 1)."})
    modulation_start_epoch: int = field(default=0, metadata={"help": "First epoch with modulation, from 0."})
    modulation_end_epoch: int | None = field(
        default=None,
        metadata={"help": "Last epoch with modulation, included. Default: 25/30 of num_train_epochs."},
    )
    modulation_target: str = field(
        default="gradient",
        metadata={
            "help": "What c_m scales: gradient (the paper; Adam is invariant to a constant factor), or update, the "
            "step that the optimizer takes.",
            "choices": ["gradient", "update"],
        },
    )
    modulated_modalities: list[str] | None = field(
        default=None,
        metadata={"help": "Modalities to modulate; `text` is the whole text encoder. Default: all but text."},
    )
    latent_noise: str = field(
        default="batch",
        metadata={
            "help": "How AME's noise is drawn: batch (from the device's generator, fast) or sample (from seed, step "
            "and sample id, so that it does not depend on how a step is cut into batches and ranks).",
            "choices": list(LATENT_NOISES),
        },
    )
    modality_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Probability that a training sample goes without a modality, text included; each keeps at least "
            "one. For a model that is to serve clips that lack some."
        },
    )

    num_train_epochs: float = field(default=30.0, metadata={"help": "Number of training epochs."})
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of AdamW."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warmup steps; below 1 a fraction of all steps."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay, off on biases and norms."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, steps or epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best one."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best epoch's model."})
    metric_for_best_model: str | None = field(default="mae", metadata={"help": "Validation metric of the best epoch."})
    greater_is_better: bool | None = field(
        default=None,
        metadata={"help": "Whether that metric is to be large. Default: no for a mae, loss or error, else yes."},
    )
    # Trainer's filter syncs at each step and hides a NaN that ought to stop the run.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Leave NaN and inf losses out of the logs."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to go on from; `last`: the latest complete one in output_dir, if there is one."},
    )
    # Every trainable parameter of a CPSL model takes part in every step.
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Look for parameters without a gradient at each step under DDP."}
    )
    # The collator reads columns that are no argument of the model's forward.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Remove columns the model does not take."})

    def __post_init__(self) -> None:
        self._check_refused()
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = is_better_if_greater(self.metric_for_best_model)
        super().__post_init__()
        if self.mixed_precision == "fp16" and self.device.type == "cpu":
            raise ValueError("fp16 has no effect on a CPU, which would train in fp32; use bf16 or leave it out")
        # Pinning without an accelerator does nothing but warn.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        if self.latent_noise not in LATENT_NOISES:
            raise ValueError(f"latent_noise={self.latent_noise!r} is none of {', '.join(LATENT_NOISES)}")
        if not 0.0 <= self.modality_dropout < 1.0:
            raise ValueError(f"modality_dropout={self.modality_dropout} must be in [0, 1)")
        if self.max_steps <= 0 and not self.num_train_epochs > 0:
            raise ValueError(f"num_train_epochs={self.num_train_epochs:g} leaves no step; it must be above 0")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        self._check_modulation()

    @property
    def last_modulated_epoch(self) -> int:
        """`modulation_end_epoch`, or its default for the epochs of this run."""
        if self.modulation_end_epoch is not None:
            return self.modulation_end_epoch
        return math.floor(WINDOW_FRACTION * self.num_train_epochs)

    def _check_refused(self) -> None:
        reasons = {
            "remove_unused_columns": "the collator reads columns that are no argument of the model's forward",
            "prediction_loss_only": "the metrics need the predictions",
            "label_smoothing_factor": "sentiment is a number and no class",
        }
        for name, reason in reasons.items():
            if getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)} cannot be: {reason}; leave it out")
        if self.train_sampling_strategy == "batch_rebalance":
            raise ValueError(
                "train_sampling_strategy=batch_rebalance cannot be: its batches of any size do not tell which samples "
                "only fill up the last one; use group_by_length"
            )
        if not math.isfinite(self.num_train_epochs):
            raise ValueError(f"num_train_epochs={self.num_train_epochs} must be a finite number")

    def _check_modulation(self) -> None:
        if (self.gm or self.cp) and self.max_steps <= 0 and self.modulation_start_epoch >= self.num_train_epochs:
            raise ValueError(
                f"modulation_start_epoch={self.modulation_start_epoch} lies outside the {self.num_train_epochs:g} "
                "epochs of this run; set --no_gm --no_ge --no_cp to train without modulation"
            )
        if not 0 <= self.modulation_start_epoch <= self.last_modulated_epoch:
            raise ValueError(
                f"modulation_start_epoch={self.modulation_start_epoch} and modulation_end_epoch="
                f"{self.last_modulated_epoch} are no window: it needs 0 <= start <= end"
            )
        if self.ge and not self.gm:
            raise ValueError("ge=True needs gm=True: the noise of GE makes up for what GM damps; set --no_ge too")
        check_modulation_arguments(
            modulate=self.gm,
            penalize=self.cp,
            enhance=self.ge,
            alpha=self.alpha,
            penalty_factor=self.penalty_factor,
            start_epoch=self.modulation_start_epoch,
            end_epoch=self.last_modulated_epoch,
            target=self.modulation_target,
        )


__all__ = ["CPSLTrainingArguments"]
