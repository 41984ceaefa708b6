"""Training arguments: transformers' own with the paper's recipe as defaults, and those of gradient modulation."""

import math
import re
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.training_args import ParallelMode

from data_builders.files import check_at_least_1

from ..modulation import RULES, CoefficientRule
from ..modulation.config import MODULATION_TARGETS, ModulationConfig
from .fine_tuning_arguments import FineTuningArguments
from .method_options import MethodOptions, check_method, chosen_method
from .metrics import is_better_if_greater
from .resampling import RESAMPLING, Resampling
from .sample_policies import POLICIES, SamplePolicy
from .sample_weights import SAMPLE_WEIGHTS, SampleWeights


LATENT_NOISES = ("batch", "sample")
CLASS_WEIGHTS = ("none", "balanced")

# The paper modulates in epochs 0-25 of 30; shorter and longer recipes scale the window.
WINDOW_FRACTION = 25 / 30

# The command line's name of each field of ModulationConfig.
MODULATION_OPTIONS = {
    "modulate": "gm",
    "penalize": "cp",
    "enhance": "ge",
    "alpha": "alpha",
    "penalty_factor": "penalty_factor",
    "start_epoch": "modulation_start_epoch",
    "end_epoch": "modulation_end_epoch",
    "target": "modulation_target",
}


@dataclass
class CPSLTrainingArguments(FineTuningArguments, TrainingArguments):
    """transformers' `TrainingArguments` with the paper's recipe as defaults, and the options of gradient modulation.

    The meaning of each field is its `help` text; [`ModulationConfig`] says more about those of gradient modulation.

    Raises:
        ValueError: A value is out of range, GE is on without GM, or an option of `TrainingArguments` is set that has
            no effect here or breaks the training.
    """

    balance: str = field(
        default="cpsl",
        metadata={
            "help": "How the modalities' gradients are balanced: CPSL's own rule, another one, or none.",
            "choices": list(RULES),
        },
    )
    balance_options: MethodOptions = field(
        default=None,
        metadata={"help": "Options of another rule than CPSL's, as in alpha=0.3 score=likelihood; in YAML a mapping."},
    )
    gm: bool = field(default=ModulationConfig.modulate, metadata={"help": "Gradient modulation (eq. 5)."})
    ge: bool = field(
        default=ModulationConfig.enhance,
        metadata={
            "help": "Gradient enhancement: noise on the modulated gradients, as in OGM-GE; with the balances cpsl, "
            "ogm, ogm_tanh and random."
        },
    )
    cp: bool = field(default=ModulationConfig.penalize, metadata={"help": "Conflict-aware penalty (eq. 6)."})
    alpha: float = field(default=ModulationConfig.alpha, metadata={"help": "alpha of eq. 5, at least 0."})
    penalty_factor: float = field(
        default=ModulationConfig.penalty_factor, metadata={"help": "eta of eq. 6, between 0 and 1."}
    )
    modulation_start_epoch: int = field(
        default=ModulationConfig.start_epoch, metadata={"help": "First epoch with modulation, counted from 0."}
    )
    modulation_end_epoch: int | None = field(
        default=None,
        metadata={"help": "Last epoch with modulation, included. Default: 25/30 of num_train_epochs."},
    )
    adaptive_window: bool = field(
        default=False,
        metadata={
            "help": "End the window of modulation earlier, as soon as the imbalance of validation skill has not "
            "fallen in two evaluations."
        },
    )
    adaptive_strength: bool = field(
        default=False,
        metadata={
            "help": "Scale the penalty of conflicts (CP) and the weight of the Statistical Loss by how much of the "
            "imbalance of validation skill is left."
        },
    )
    modulation_target: str = field(
        default=ModulationConfig.target,
        metadata={
            "help": "What the coefficient scales: gradient (as in the paper; Adam is invariant to a constant factor), "
            "or update, the step that the optimizer takes.",
            "choices": list(MODULATION_TARGETS),
        },
    )
    modulated_modalities: list[str] | None = field(
        default=None,
        metadata={
            "help": "Comma-separated modalities to modulate; `text` is the whole text encoder. Default: all but text."
        },
    )
    latent_noise: str = field(
        default="batch",
        metadata={
            "help": "How AME's noise is drawn: batch (from the device's generator, fast) or sample (from seed, step "
            "and sample id, so that it does not depend on how a step is cut into batches and ranks).",
            "choices": list(LATENT_NOISES),
        },
    )
    modality_masking: str = field(
        default="none",
        metadata={
            "help": "Which modalities are left out of training samples, or weakened: uniform (each with a "
            "probability, for a model that has to cope with missing modalities), or another way (docs/balance.md).",
            "choices": list(POLICIES),
        },
    )
    modality_masking_options: MethodOptions = field(
        default=None,
        metadata={"help": "Options of modality_masking, as in probability=0.3; in YAML a mapping."},
    )

    class_weights: str = field(
        default="none",
        metadata={
            "help": "What classes count by in the losses: all alike, or (balanced) a rare one as much as others.",
            "choices": list(CLASS_WEIGHTS),
        },
    )
    decision_weights: bool = field(
        default=False,
        metadata={
            "help": "After training, fit how the fused prediction and those from one modality alone are weighed, on "
            "half the validation groups (videos); intervals are then fitted on the other half."
        },
    )
    coalitions_every: int = field(
        default=0,
        metadata={
            "help": "In every so many-th epoch, also log the validation skill of each coalition of modalities: M "
            "modalities have 2^M - 1, and each costs an evaluation of what stands above the text encoder (with "
            "architecture mag, of everything). 0: never."
        },
    )
    resample: str = field(
        default="none",
        metadata={
            "help": "Which training samples an epoch draws more often: those from whose weaker modality there is more "
            "to learn (contribution), those that are rare in which modality predicts them better (discrepancy), or "
            "none (docs/balance.md).",
            "choices": list(RESAMPLING),
        },
    )
    resample_options: MethodOptions = field(
        default=None, metadata={"help": "Options of resample, as in start_epoch=2; in YAML a mapping."}
    )
    sample_weights: str = field(
        default="none",
        metadata={
            "help": "What training samples count by in the losses: none (all alike), column (the data's column "
            "weight), or weights that follow the training (docs/balance.md).",
            "choices": list(SAMPLE_WEIGHTS),
        },
    )
    sample_weights_options: MethodOptions = field(
        default=None, metadata={"help": "Options of sample_weights, as in strength=0.5; in YAML a mapping."}
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
    metric_for_best_model: str | None = field(
        default="mae", metadata={"help": "Validation metric that picks the best epoch."}
    )
    greater_is_better: bool | None = field(
        default=None,
        metadata={"help": "Whether a larger value of it is better. Default: no for mae and losses, else yes."},
    )
    # Trainer's filter syncs at each step and hides a NaN that ought to stop the run.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Leave NaN and inf losses out of the logs."})
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations without a better metric_for_best_model. Default: train to the end."
        },
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to resume from; `last`: the latest complete one in output_dir, if any."},
    )
    # Every save would upload the folder as it is, unfinished and with what is not to be shared.
    hub_strategy: str = field(default="end", metadata={"help": "When to push to the Hub: end, after everything."})
    # Every trainable parameter of a CPSL model takes part in every step.
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Look for parameters without a gradient at each step under DDP."}
    )
    # The collator reads columns that are not arguments of the model's forward.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Remove columns unknown to the model."})

    def __post_init__(self) -> None:
        self._check_refused()
        if self.modulated_modalities is not None:
            self.modulated_modalities = [name for names in self.modulated_modalities for name in names.split(",")]
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = is_better_if_greater(self.metric_for_best_model)
        super().__post_init__()
        if torch.distributed.is_initialized() and self.parallel_mode != ParallelMode.DISTRIBUTED:
            raise ValueError(
                f"{torch.distributed.get_world_size()} processes were launched for GPUs, and this machine has none; "
                "launch them with modeling_cpsl/recipes/accelerate/two_cpu_processes.yaml and --use_cpu"
            )
        if self.mixed_precision == "fp16" and self.device.type == "cpu":
            raise ValueError("fp16 has no effect on a CPU, which would train in fp32; leave it out")
        # Pinning without an accelerator does nothing but warn.
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False
        if self.latent_noise not in LATENT_NOISES:
            raise ValueError(f"latent_noise={self.latent_noise!r} must be one of {', '.join(LATENT_NOISES)}")
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(f"class_weights={self.class_weights!r} must be one of {', '.join(CLASS_WEIGHTS)}")
        self.check_fine_tuning()
        self._check_modality_masking()
        check_method(self, "sample_weights", SAMPLE_WEIGHTS)
        if self.max_steps == 0 or self.max_steps < -1:  # -1 stands for none
            raise ValueError(f"max_steps={self.max_steps} must be above 0; leave it out to train for num_train_epochs")
        if self.max_steps <= 0 and not self.num_train_epochs > 0:
            raise ValueError(f"num_train_epochs={self.num_train_epochs:g} leaves no step; it must be above 0")
        sizes = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        check_at_least_1(**{name: getattr(self, name) for name in sizes})
        if self.coalitions_every < 0 or (self.coalitions_every and self.eval_strategy != IntervalStrategy.EPOCH):
            raise ValueError(
                f"coalitions_every={self.coalitions_every} must be at least 0, and above 0 needs eval_strategy=epoch"
            )
        self._check_early_stopping()
        self._check_resampling()
        self._check_modulation()

    @property
    def modulation(self) -> ModulationConfig:
        """The options of gradient modulation; the end of the window follows the number of epochs."""
        options = {name: getattr(self, option) for name, option in MODULATION_OPTIONS.items()}
        return ModulationConfig(**options | {"end_epoch": self.last_modulated_epoch})

    @property
    def balance_rule(self) -> CoefficientRule:
        """The rule that `balance` names, without what it may have kept of former steps."""
        if self.balance == "cpsl":
            return self.modulation.conflict_aware()
        return chosen_method(self, "balance", RULES)

    @property
    def sample_policy(self) -> SamplePolicy:
        """The policy that `modality_masking` names, without what it may have kept of former steps."""
        return chosen_method(self, "modality_masking", POLICIES)

    @property
    def resampling(self) -> Resampling:
        """How `resample` weighs samples."""
        return chosen_method(self, "resample", RESAMPLING)

    @property
    def sample_weighting(self) -> SampleWeights:
        """The way to weigh samples that `sample_weights` names."""
        return chosen_method(self, "sample_weights", SAMPLE_WEIGHTS)

    @property
    def last_modulated_epoch(self) -> int:
        """`modulation_end_epoch`, or its default for the epochs of this run."""
        if self.modulation_end_epoch is not None:
            return self.modulation_end_epoch
        return math.floor(WINDOW_FRACTION * self.num_train_epochs)

    def _check_refused(self) -> None:
        reasons = {
            "remove_unused_columns": "the collator reads columns that are not arguments of the model's forward",
            "prediction_loss_only": "the metrics need the predictions",
            "label_smoothing_factor": "the losses are the model's own",
            "batch_eval_metrics": "the metrics need all predictions at once",
            "deepspeed": "modulation reads gradients that DeepSpeed keeps to itself; FSDP shards a model too",
        }
        for name, reason in reasons.items():
            if getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)} is not supported: {reason}; leave it out")
        if self.hub_strategy != "end":
            raise ValueError(f"hub_strategy={self.hub_strategy} is not supported: the push comes last; leave it out")
        if self.train_sampling_strategy == "batch_rebalance":
            raise ValueError(
                "train_sampling_strategy=batch_rebalance is not supported: its batches have different sizes, so that "
                "the samples that only fill up the last one cannot be identified; use group_by_length"
            )
        strategies = IntervalStrategy(self.eval_strategy).value, SaveStrategy(self.save_strategy).value
        if self.load_best_model_at_end and strategies[1] != "best" and len({*strategies}) > 1:
            raise ValueError(
                f"load_best_model_at_end needs the same eval_strategy and save_strategy, and these are "
                f"{' and '.join(strategies)}; set both to the same, or load_best_model_at_end to false"
            )
        if not math.isfinite(self.num_train_epochs):
            raise ValueError(f"num_train_epochs={self.num_train_epochs} must be a finite number")

    def _check_early_stopping(self) -> None:
        patience = self.early_stopping_patience
        if patience is None:
            return
        if patience < 1:
            raise ValueError(
                f"early_stopping_patience={patience} must be at least 1; leave it out to train to the end"
            )
        if self.eval_strategy == IntervalStrategy.NO or self.metric_for_best_model is None:
            raise ValueError(
                f"early_stopping_patience={patience} needs evaluations and a metric to judge them by; set "
                "eval_strategy to epoch and metric_for_best_model to mae"
            )

    def _check_balance(self) -> None:
        names_of_cpsl = ("modulate", "penalize", "alpha", "penalty_factor")
        if self.balance == "cpsl":
            if self.balance_options is not None:
                names = [MODULATION_OPTIONS[name] for name in names_of_cpsl]
                raise ValueError(
                    f"balance_options are those of another rule; the options of balance=cpsl are {', '.join(names)}"
                )
            return
        check_method(self, "balance", RULES)
        for name in names_of_cpsl:
            option, default = MODULATION_OPTIONS[name], getattr(ModulationConfig, name)
            if getattr(self, option) != default:
                raise ValueError(
                    f"{option}={getattr(self, option)} is an option of balance=cpsl and has no effect with "
                    f"balance={self.balance}; leave it out, or set balance_options"
                )
        if RULES[self.balance].needs_update_target and self.modulation_target != "update":
            raise ValueError(
                f"balance={self.balance} needs modulation_target=update: a gradient of 0 does not stop an optimizer "
                "with momentum or weight decay"
            )

    def _check_modality_masking(self) -> None:
        check_method(self, "modality_masking", POLICIES)
        first_epoch = self.sample_policy.first_epoch
        if self.max_steps <= 0 and 0 < self.num_train_epochs <= first_epoch:
            raise ValueError(
                f"modality_masking={self.modality_masking} begins in epoch {first_epoch:g}, counted from 0, and this "
                f"run has {self.num_train_epochs:g}; give --modality_masking_options start_epoch=N with a smaller N"
            )

    def _check_resampling(self) -> None:
        check_method(self, "resample", RESAMPLING)
        start_epoch = self.resampling.start_epoch
        if self.max_steps <= 0 and 0 < self.num_train_epochs <= start_epoch:
            raise ValueError(
                f"resample={self.resample} begins in epoch {start_epoch} and this run has {self.num_train_epochs:g}; "
                "give --resample_options start_epoch=N with a smaller N"
            )

    def _check_modulation(self) -> None:
        self._check_balance()
        if self.freeze_encoder and "text" in (self.modulated_modalities or ()):
            raise ValueError("modulated_modalities: text has no gradient with freeze_encoder; leave one of them out")
        balances = self.gm or self.cp if self.balance == "cpsl" else self.balance_rule.balances
        if balances and self.max_steps <= 0 and self.modulation_start_epoch >= self.num_train_epochs:
            raise ValueError(
                f"modulation_start_epoch={self.modulation_start_epoch} must be below num_train_epochs="
                f"{self.num_train_epochs:g}; set --balance none to train without modulation"
            )
        if self.adaptive_window and not (balances and self.eval_strategy != IntervalStrategy.NO):
            raise ValueError(
                "adaptive_window=True needs evaluations, and modulation that it can end; set eval_strategy to epoch "
                "and balance to another one than none, or leave it out"
            )
        if self.adaptive_strength and self.eval_strategy == IntervalStrategy.NO:
            raise ValueError("adaptive_strength=True needs evaluations; set eval_strategy to epoch, or leave it out")
        try:
            _ = self.modulation
        except ValueError as error:
            message = re.sub(r"\w+(?==)", lambda name: MODULATION_OPTIONS.get(name[0], name[0]), str(error))
            raise ValueError(message) from None


__all__ = ["CPSLTrainingArguments"]
