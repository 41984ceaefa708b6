"""`CPSLTrainer`: hooks of transformers' `Trainer`, and nothing else."""

import contextlib
import dataclasses
import logging
import math
import operator
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, IntervalStrategy, TrainOutput, has_length

from data_builders.files import DataError, counted, replacing_files, write_errors

from ..modulation import GradientModulator
from ..tasks_cpsl import SENTIMENT
from . import optimizer_step
from .adaptive_modulation import AdaptiveModulationMixin
from .arguments import CPSLTrainingArguments
from .boosting import BoostingMixin
from .callbacks import EarlyStopping, EpochBoundaries, StepEnds
from .checkpoints import (
    check_training_state,
    last_complete_checkpoint,
    load_training_state,
    resuming_from,
)
from .coalitions import squared_coalition_errors
from .collation import CPSLDataCollator
from .contract import TrainableModel
from .distillation_mixin import DistillationMixin
from .embedding_rows import check_trained_rows, trained_rows
from .encoder_mixin import EncoderMixin
from .labels import LabelStatistics, check_one_number, task_of_model
from .learning_rate_mixin import LearningRateMixin
from .loss_watch import LossWatch
from .means import MeanTracker
from .metrics import is_better_if_greater, load_metric
from .optimizer_step import MicroBatch
from .rdrop_mixin import RDropMixin
from .resampling import ByDiscrepancy
from .resampling_mixin import ResamplingMixin
from .sample_policy_mixin import SamplePolicyMixin
from .sample_weights_mixin import SampleWeightsMixin
from .sampling import LongestFirst, in_data_order, longest_first, order_of
from .skill_mixin import SkillMixin
from .task_metrics import compute_task_metrics, judging_metric, metrics_of
from .weight_averaging_mixin import WeightAveragingMixin


logger = logging.getLogger(__name__)

# What a checkpoint keeps beside Trainer's own files.
MEANS_FILE = "running_means.pt"


class CPSLTrainer(
    AdaptiveModulationMixin,
    BoostingMixin,
    SkillMixin,
    ResamplingMixin,
    SamplePolicyMixin,
    SampleWeightsMixin,
    LearningRateMixin,
    WeightAveragingMixin,
    EncoderMixin,
    RDropMixin,
    DistillationMixin,
    Trainer,
):
    """Trains a CPSL model, or any other one that meets [`TrainableModel`].

    **A step does not depend on how it is split** into micro-batches and ranks: each sample of an optimizer step counts
    once and with the same weight (one that the sampler repeated to fill up an epoch's last batch not at all), and the
    min-max bounds, the unimodal errors and thereby the modulation's coefficients, and the modalities that a policy
    leaves out are those of the whole step. Losses that are statistics of a batch, a concordance and those of
    MISA, are the exception: they are those of each micro-batch.

    Whether two ways of splitting a step give the same *weights* depends on what the forward pass draws at random. With
    all dropout probabilities 0 and `latent_noise="sample"` nothing that it draws depends on the split: then the
    coefficients agree to 1e-6 and the trained weights to 1e-5 of their length, as the tests show for accumulation and
    two processes. With dropout, which is on by default, or with `latent_noise="batch"`, each micro-batch draws from
    its device's generator, and two splits differ like two seeds of these draws: the samples, their weights and the
    bounds are the same, and the coefficients are the same function of errors and gradients that differ. A run that is
    resumed with the same split continues bit for bit on a CPU. `docs/method.md` says more (section 9).

    Logged at the end of each epoch, as means over its samples or steps, with the prefix `train_`: all losses and the
    modulation's statistics. Evaluation has the same losses with the prefix `eval_`, the metrics of the task, see
    [`metrics_of`], and the skill of each modality, see [`SkillMixin`].

    Args:
        model: What is trained; None with `model_init`.
        args: Training arguments.
        **kwargs: As for `Trainer`; `compute_metrics` defaults to [`compute_task_metrics`]. For another loss, override
            [`compute_loss`] and call this one in it.

    Raises:
        ValueError: `args` are of another class, `compute_loss_func` is given, several devices without a launcher,
            fewer samples than one batch with `dataloader_drop_last`, a metric for the best model that is not computed,
            or a modality to modulate that the model does not have.
        NonFiniteLossError: In training, a loss is NaN or infinite.
    """

    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None
    data_collator: Any

    def __init__(self, model: torch.nn.Module | None = None, args: CPSLTrainingArguments | None = None, **kwargs: Any):
        if not isinstance(args, CPSLTrainingArguments):
            raise ValueError(f"args are {type(args).__name__}; CPSLTrainer needs CPSLTrainingArguments")
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func would leave the model without labels; override compute_loss instead")
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs but one process would train with nn.DataParallel; start it with "
                "`accelerate launch`, or show it one GPU with CUDA_VISIBLE_DEVICES=0"
            )
        has_own_metrics = kwargs.setdefault("compute_metrics", self._task_metrics) != self._task_metrics
        super().__init__(model=model, args=args, **kwargs)
        self._fit_to_task()
        if (smallest := self.unwrapped_model.smallest_batch_size) > args.per_device_train_batch_size:
            raise ValueError(
                f"per_device_train_batch_size={args.per_device_train_batch_size}: losses of this model are statistics "
                f"of a batch and need at least {smallest} samples; give a larger one"
            )
        batch_size, dataset = args.train_batch_size * args.world_size, self.train_dataset
        if args.dataloader_drop_last and has_length(dataset) and len(dataset) < batch_size:
            raise ValueError(
                f"per_device_train_batch_size={args.per_device_train_batch_size} on "
                f"{counted(args.world_size, 'process')} leaves no step: dataloader_drop_last drops all "
                f"{counted(len(dataset), 'sample')}; leave it out, or train with smaller batches"
            )
        if not has_own_metrics and not isinstance(self.eval_dataset, dict):
            _check_metric(args.metric_for_best_model, self.unwrapped_model)
        self._train_means = {period: MeanTracker() for period in ("run", "epoch", "log")}
        self._eval_means = MeanTracker()
        self._loss_watch = LossWatch()
        self.add_callback(StepEnds(self.average_weights))
        self.add_callback(EpochBoundaries(self.log_epoch_means, self.update_sample_table))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStopping(args.early_stopping_patience))

    def _fit_to_task(self) -> None:
        """Has labels checked as those of the model, and the best model picked by one of their metrics."""
        args, task = self.args, task_of_model(self.unwrapped_model)
        of_one_number = {
            f"sample_weights={args.sample_weights}": args.sample_weighting.adapts,
            f"resample={args.resample}": isinstance(args.resampling, ByDiscrepancy),
            "decision_weights": args.decision_weights,
        }
        check_one_number(task, [option for option, is_given in of_one_number.items() if is_given])
        if isinstance(self.data_collator, CPSLDataCollator) and self.data_collator.task is None:
            self.data_collator = dataclasses.replace(self.data_collator, task=task)
        metric = args.metric_for_best_model
        if metric is not None and metric != judging_metric(task, metric):
            args.metric_for_best_model = judging_metric(task, metric)
            args.greater_is_better = is_better_if_greater(args.metric_for_best_model)

    def _task_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        outputs, task = prediction.predictions, task_of_model(self.unwrapped_model)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        if task == SENTIMENT:
            return load_metric(keep_in_memory=True).compute(predictions=logits, references=prediction.label_ids)
        return compute_task_metrics(task, logits, prediction.label_ids)

    def create_modulator(self) -> GradientModulator | None:
        """The modulator over the model's modality encoders: where nothing is balanced it only takes statistics."""
        args, num_epochs, names = self.args, self.state.num_train_epochs, self.args.modulated_modalities
        rule, model = args.balance_rule, self.unwrapped_model
        judged = model.modality_names if "contributions" in rule.needs else model.unimodal_names
        if not judged:
            if names:
                raise ValueError(
                    f"modulated_modalities={','.join(names)}: the model has no predictions from one modality alone, "
                    "by which modulation compares modalities; leave it out"
                )
            if rule.balances:
                logger.warning("nothing is modulated: the model has no predictions from one modality alone to compare")
            return None
        if names is None:
            names = [name for name in judged if name != "text" and model.modality_parameters(name)]
        if not names:
            return None
        if rule.balances and args.modulation_start_epoch >= num_epochs:
            logger.warning(
                "modulation_start_epoch=%d: this run has no such epoch, so nothing is modulated",
                args.modulation_start_epoch,
            )
        groups = {name: model.modality_parameters(name) for name in names}
        scale = (self.training_labels or LabelStatistics()).deviation
        return GradientModulator(groups, args.modulation, rule=rule, likelihood_scale=scale, seed=args.seed)

    def coalition_errors(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[tuple[str, ...], Tensor]:
        """See [`GradientModulationMixin.coalition_errors`]."""
        labels = self.training_labels or LabelStatistics()
        return squared_coalition_errors(self.unwrapped_model, inputs, labels.constant)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Extends `Trainer.train`: only a complete checkpoint is resumed from, and True finds the latest such one.

        An error before the first step after a resume names the checkpoint.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir) or True
        elif resume_from_checkpoint:
            resume_from_checkpoint = os.fspath(resume_from_checkpoint)
        checkpoint = resume_from_checkpoint if isinstance(resume_from_checkpoint, str) else None
        step = 0 if checkpoint is None else check_training_state(checkpoint)
        with (
            resuming_from(checkpoint, is_under_way=lambda: self.state.global_step > step),
            contextlib.ExitStack() as self._until_trained,
        ):
            self._until_trained.callback(self._tidy_up)
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        return output._replace(training_loss=output.metrics["train_loss"])

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Any]:
        """Extends `Trainer.get_batch_samples`: adds to each micro-batch what is decided for the whole step."""
        try:
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        except ValueError as error:  # the collator's, which names the sample; loaders read up to a batch ahead
            raise DataError(f"reading the batches of step {self.state.global_step}: {error}") from error
        args, model, step = self.args, self.unwrapped_model, self.state.global_step
        if args.dataloader_drop_last:
            counts = [len(batch["ids"]) for batch in batches]
        else:
            loader = self.callback_handler.train_dataloader
            counts = optimizer_step.drop_repetitions(batches, loader, self.train_dataset, self.accelerator)
        self.apply_policy(batches)
        if bounds := optimizer_step.step_feature_bounds(batches, model.normalized_modalities):
            model.update_feature_bounds(bounds)
            for batch in batches:
                batch["feature_bounds"] = bounds
        if args.latent_noise == "sample":
            for batch in batches:
                if shapes := model.latent_noise_shapes(batch["feature_mask"].shape[1]):
                    batch["latent_noise"] = optimizer_step.sample_noise(batch, shapes, args.seed, step)
        totals = self.weigh_samples(batches, counts)
        weights = optimizer_step.step_weights(totals, self.accelerator, args.device)
        for batch, count, total, weight in zip(batches, counts, totals, weights, strict=True):
            batch["micro_batch"] = MicroBatch(batch.pop("ids"), count, total, weight)
        return batches, num_items

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Extends `GradientModulationMixin.training_step`: keeps the micro-batch's data for [`compute_loss`]."""
        self._micro_batch = inputs.pop("micro_batch")
        try:
            loss = super().training_step(model, inputs, *args, **kwargs)
        finally:
            self._micro_batch = None
        # The loss of a step is the sum of those of its micro-batches.
        self._train_means["log"].update({"loss": loss}, count=float(self.accelerator.sync_gradients))
        return loss

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """The model's loss, weighted in a training step by the micro-batch's share of the optimizer step's samples."""
        micro_batch = self._micro_batch
        count = len(inputs["labels"]) if micro_batch is None else micro_batch.total_weight
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        losses = {"loss": loss} | _logged_losses(outputs["losses"])
        if model.training:
            self._train_means["run"].update({"loss": loss}, count)
        (self._train_means["epoch"] if model.training else self._eval_means).update(losses, count)
        if micro_batch is not None:
            modality_errors = outputs.get("modality_errors") or {}
            errors = {f"error of {name}": error.sum() for name, error in modality_errors.items()}
            self._loss_watch.add(
                losses | errors, f"step {self.state.global_step}, samples {', '.join(micro_batch.ids)}"
            )
            self._loss_watch.check()
            loss = loss * micro_batch.weight
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> tuple:
        """Extends `Trainer.prediction_step`: removes the samples' ids, which are not an input of the model."""
        inputs = {name: value for name, value in inputs.items() if name != "ids"}
        return super().prediction_step(model, inputs, *args, **kwargs)

    def on_modulation(self, statistics: dict[str, Tensor]) -> None:
        """Keeps the step's statistics for the log, if training is logged every few steps."""
        super().on_modulation(statistics)
        if self.args.logging_strategy == IntervalStrategy.STEPS:
            self._train_means["log"].update(statistics)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Extends `Trainer.log`: the row of several steps has their mean loss and, if kept, mean statistics.

        The last row of a training has the mean loss over all samples of the run.
        """
        # Trainer's own means start anew at a restart, because their sums are not saved in a checkpoint.
        if "train_runtime" in logs:
            logs |= {f"train_{name}": mean for name, mean in self._train_means["run"].pop(self.accelerator).items()}
        if "loss" in logs:
            logs |= self._train_means["log"].pop(self.accelerator)
        super().log(logs, start_time)

    def log_epoch_means(self) -> None:
        """Logs the means of all losses over the epoch's samples and of the modulation's statistics over its steps."""
        self._loss_watch.check(wait=True)
        means = self._train_means["epoch"].pop(self.accelerator)
        if not means:
            return
        means |= self.resampling_statistics()
        if self.args.adaptive_strength:
            means["adaptive_strength"] = self.strength
        if self.modulator is not None:
            statistics = {name: value.item() for name, value in self.modulator.pop_statistics().items()}
            means |= {name: value for name, value in statistics.items() if not math.isnan(value)}
        self.log({f"train_{name}": value for name, value in means.items()})

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Extends `Trainer.evaluation_loop`: adds the means of all losses over the samples to the metrics.

        With several processes the losses, unlike the metrics, also count the samples that fill up the last batch.
        Samples are read in order of length; predictions and labels are returned in the data set's.
        """
        self._eval_means = MeanTracker()
        order, compute_metrics = order_of(dataloader), self.compute_metrics
        if order is not None and compute_metrics is not None:
            self.compute_metrics = lambda prediction: compute_metrics(in_data_order(prediction, order))
        try:
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        finally:
            self.compute_metrics = compute_metrics
        if order is not None:
            output = in_data_order(output, order)
        means = self._eval_means.pop(self.accelerator)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    def hyperparameter_search(
        self,
        hp_space: Callable | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Extends `Trainer.hyperparameter_search`: the objective is `metric_for_best_model` unless one is given."""
        if compute_objective is None:
            metric = f"eval_{(self.args.metric_for_best_model or 'loss').removeprefix('eval_')}"
            compute_objective = operator.itemgetter(metric)
            direction = direction or ("maximize" if self.args.greater_is_better else "minimize")
        return super().hyperparameter_search(hp_space, compute_objective, n_trials, direction or "minimize", **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Extends `Trainer.create_model_card`: never overwrites a card that is not Trainer's own draft."""
        card = Path(self.args.output_dir) / "README.md"
        if not card.exists() or "generated_from_trainer" in (ModelCard.load(card).data.tags or []):
            super().create_model_card(*args, **kwargs)

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _get_eval_sampler(self, eval_dataset: Any) -> LongestFirst | None:
        return longest_first(eval_dataset) if self.args.eval_do_concat_batches else None

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self.unwrapped_model.prepare_for_training()
        self._train_means = {name: MeanTracker() for name in self._train_means}
        if resume_from_checkpoint is not None:
            state = load_training_state(resume_from_checkpoint, MEANS_FILE, self.args.device)
            for name, means in self._train_means.items():
                means.load_state_dict(state[name], self.accelerator)
            check_trained_rows(self.model, state["embedding_rows"])
        return prepared

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _tidy_up(self) -> None:
        """Does what `Trainer` does after a training, for one that failed too."""
        self.is_in_train = False
        if (noise_of_embeddings := getattr(self, "neftune_hook_handle", None)) is not None:
            noise_of_embeddings.remove()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = {name: means.state_dict(self.accelerator) for name, means in self._train_means.items()}
        if self.args.should_save:
            state["embedding_rows"] = trained_rows(self.model)
            torch.save(state, Path(output_dir) / MEANS_FILE)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return super()._save(output_dir, state_dict=state_dict)
        # Trainer pickles its arguments beside the model, token and all. Nothing reads them.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            with replacing_files(output_dir or self.args.output_dir) as folder:
                super()._save(str(folder), state_dict=state_dict)
                (folder / TRAINING_ARGS_NAME).unlink()
        finally:
            self.args.hub_token = token

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        checkpoint = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with write_errors(checkpoint):
            if self.args.should_save:
                # A file of an earlier run at this step would make an incomplete checkpoint look complete.
                (checkpoint / TRAINER_STATE_NAME).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The file that says that a checkpoint is complete is written next, by one rank for all.
        self.accelerator.wait_for_everyone()


def _check_metric(metric: str | None, model: TrainableModel) -> None:
    names = [*metrics_of(task_of_model(model)), "loss", *_logged_losses(dict.fromkeys(model.loss_names, 0.0))]
    if metric is not None and metric.removeprefix("eval_") not in names:
        raise ValueError(f"metric_for_best_model={metric!r} is not a metric; choose one of {', '.join(names)}")


def _logged_losses(losses: dict[str, Any]) -> dict[str, Any]:
    """Losses by the names that they are logged under; the diversity loss also as the entropy that it negates."""
    logged = {f"{name}_loss": value for name, value in losses.items()}
    return logged | ({"feature_entropy": -losses["diversity"]} if "diversity" in losses else {})


__all__ = ["CPSLTrainer"]
