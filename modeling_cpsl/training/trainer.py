"""Trainers: gradient modulation for any model, and CPSL's own. Here alone Trainer meets GradientModulator."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, has_length

from data_builders.columns import row_counts
from data_builders.files import replacing_files, write_errors

from ..encoding_cpsl import pooled_feature_bounds
from ..features_cpsl import collect_features
from ..modulation import GradientModulator
from .arguments import CPSLTrainingArguments
from .means import LossWatch, MeanTracker
from .metrics import METRICS, load_metric


MODULATOR_FILE = "modulator.pt"
LOG_FILE = "unlogged.pt"


class GradientModulationMixin:
    """Gradient modulation with the Conflict-aware Penalty for any `Trainer`: one modulation per optimizer step.

    Put it before `Trainer` and implement [`create_modulator`]. The model returns `modality_errors`, a dict of
    per-sample errors (B,) by modality (absolute errors, or 1 - probability of the true class), and where samples lack
    modalities also `modality_presence`, a dict of (B,) bool; the error of a modality that is not there is 0.
    """

    modulator: GradientModulator | None = None

    def create_modulator(self) -> GradientModulator | None:
        """Builds the modulator over `self.model`'s parameters, or None to train without.

        Called by `train` when the model is wrapped and on its device, which may have replaced its parameters.
        """
        raise NotImplementedError("return a GradientModulator over the parameters of self.model")

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Trainer's, and in training hands the batch's errors to the modulator."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training and self.modulator is not None:
            self.modulator.observe(*_pooled_errors(outputs))
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Trainer's, then modulates the accumulated and reduced gradients, before clipping, once an optimizer step."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self.accelerator.sync_gradients and self.modulator is not None:
            scaler = self.accelerator.scaler
            statistics = self.modulator.step(
                self.state.epoch or 0.0, grad_scale=1.0 if scaler is None else scaler.get_scale()
            )
            self.on_modulation(statistics)
        return loss

    def on_modulation(self, statistics: dict[str, Tensor]) -> None:
        """Called with the statistics of each modulation, see [`GradientModulator.step`]."""

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self.modulator = self.create_modulator()
        if self.modulator is not None and self.modulator.config.target == "update":
            self.modulator.attach(self.optimizer)
        if self.modulator is not None and resume_from_checkpoint is not None:
            self.modulator.load_state_dict(_load_state(resume_from_checkpoint, MODULATOR_FILE, self.args.device))
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and self.modulator is not None:
            torch.save(self.modulator.state_dict(), Path(output_dir) / MODULATOR_FILE)


class _LengthGroupedSampler(LengthGroupedSampler):
    """transformers', in an order of the seed and the epoch alone: the same on all ranks and after a restart."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class _EpochLogger(TrainerCallback):
    """Logs the epoch's means at its end, before the evaluation."""

    def __init__(self, trainer: "CPSLTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.accelerator.unwrap_model(self.trainer.model).forget_calibration()
        self.trainer.restore_unlogged_loss()
        # A checkpoint of an epoch's last step was written before that epoch's end was logged.
        if state.global_step and state.epoch == int(state.epoch):
            self.trainer.log_epoch_means()

    def on_epoch_begin(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        # On several processes Trainer's own call does not reach the sampler of an epoch resumed in its middle.
        if hasattr(kwargs["train_dataloader"], "set_epoch"):
            kwargs["train_dataloader"].set_epoch(int(state.epoch))

    def on_epoch_end(self, args: CPSLTrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        should_log = control.should_log
        self.trainer.log_epoch_means()
        # A log takes this back, but Trainer's own row is still to come.
        control.should_log = should_log


class CPSLTrainer(GradientModulationMixin, Trainer):
    """Trains a CPSL model (METHOD 7-9).

    One step is one step: min-max bounds, unimodal errors and losses are pooled over all micro-batches and ranks of an
    optimizer step, each micro-batch weighs its share of the step's samples, and a sample that the sampler repeated to
    fill the last batch is left out. Logged at each epoch's end, as means over its samples or steps, with the prefix
    `train_`: all losses and the modulation's statistics; `eval_` has the same losses and the metrics of METHOD 10.

    Args:
        model: A CPSL model; None with `model_init`.
        args: Training arguments.
        **kwargs: As for `Trainer`; `compute_metrics` defaults to METHOD 10's. For another loss, override
            [`compute_loss`] and call this one in it.

    Raises:
        ValueError: `args` are another class's, `compute_loss_func` is given, several devices without a launcher, no
            whole batch with `dataloader_drop_last`, a metric for the best model that is not computed, or a modality
            to modulate that the model does not have.
        NonFiniteLossError: In training, a loss is NaN or infinite.
    """

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
        kwargs.setdefault("compute_metrics", _sentiment_metrics)
        super().__init__(model=model, args=args, **kwargs)
        num_samples = len(self.train_dataset) if has_length(self.train_dataset) else float("inf")
        if args.dataloader_drop_last and num_samples < args.train_batch_size * args.world_size:
            raise ValueError(
                f"per_device_train_batch_size={args.per_device_train_batch_size} on {args.world_size} processes "
                f"leaves no step: dataloader_drop_last drops all {num_samples} samples"
            )
        if self.compute_metrics is _sentiment_metrics and not isinstance(self.eval_dataset, dict):
            _check_metric(args.metric_for_best_model, self.model.config)
        self._count: int | None = None
        self._weight: Tensor | None = None
        self._train_means, self._step_means, self._eval_means = MeanTracker(), MeanTracker(), MeanTracker()
        self._loss_watch = LossWatch()
        self.add_callback(_EpochLogger(self))

    def create_modulator(self) -> GradientModulator | None:
        """The modulator over the model's modality encoders: with GM, GE and CP off it only takes statistics."""
        args, model = self.args, self.accelerator.unwrap_model(self.model)
        names = list(model.config.modality_sizes) if args.modulated_modalities is None else args.modulated_modalities
        if not names:
            return None
        return GradientModulator(
            {name: model.modality_parameters(name) for name in names},
            args.modulation,
            seed=args.seed,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Any]:
        """Trainer's, and adds to each micro-batch what is pooled over the whole optimizer step."""
        try:
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        except ValueError as error:  # the collator's, which names the sample; loaders read up to a batch ahead
            raise ValueError(f"reading the batches of step {self.state.global_step}: {error}") from error
        counts = [len(batch["ids"]) for batch in batches]
        if batches:
            counts[-1] = self._num_real_samples(counts[-1])
            batches[-1] = _first_samples(batches[-1], counts[-1]) if counts[-1] else _without_modalities(batches[-1])
        if self.args.modality_dropout:
            for batch in batches:
                self._drop_modalities(batch)
        total = self.accelerator.reduce(torch.tensor(float(sum(counts)), device=self.args.device), reduction="sum")
        bounds = self._pool_feature_bounds(batches)
        for batch, count in zip(batches, counts, strict=True):
            batch["num_samples_in_batch"] = count
            # Trainer averages over micro-batches and DDP over ranks; so weighed, that is the average over samples.
            batch["weight"] = count * len(batches) * self.accelerator.num_processes / total
            if bounds:
                batch["feature_bounds"] = bounds
            if self.args.latent_noise == "sample" and self.model.config.ame:
                batch["latent_noise"] = self._sample_noise(batch)
        return batches, num_items

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """The objective of eq. 4, weighed in training by how much of the optimizer step the micro-batch is."""
        count = len(inputs["labels"]) if self._count is None else self._count
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        losses = {"loss": loss} | {f"{name}_loss": value for name, value in outputs.losses.items()}
        if "diversity_loss" in losses:
            losses["feature_entropy"] = -losses["diversity_loss"]
        (self._train_means if model.training else self._eval_means).update(losses, count)
        if model.training:
            errors = {f"error of {name}": error.sum() for name, error in outputs.modality_errors.items()}
            self._loss_watch.add(losses | errors, f"step {self.state.global_step}, samples {', '.join(self._ids)}")
            self._loss_watch.check()
        if self._weight is not None:
            loss = loss * self._weight
        return (loss, outputs) if return_outputs else loss

    def on_modulation(self, statistics: dict[str, Tensor]) -> None:
        """Keeps the step's statistics where they are logged every few steps."""
        if self.args.logging_strategy == "steps":
            self._step_means.update(statistics, 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's; where it logs every few steps, with the modulation's means over them."""
        if "loss" in logs:
            logs |= self._step_means.pop(self.accelerator)
        super().log(logs, start_time)

    def log_epoch_means(self) -> None:
        """Logs the means of all losses over the epoch's samples and of the modulation's statistics over its steps."""
        self._loss_watch.check(wait=True)
        means = self._train_means.pop(self.accelerator)
        if not means:
            return
        if self.modulator is not None:
            means |= {name: value.item() for name, value in self.modulator.pop_statistics().items()}
        self.log({f"train_{name}": value for name, value in means.items()})

    def restore_unlogged_loss(self) -> None:
        """Goes on with Trainer's sum of the losses since the last log, which it does not keep in a checkpoint."""
        loss, self._unlogged_loss = self._unlogged_loss, None
        if loss is not None:
            self._tr_loss += loss["sum"]
            self._total_loss_scalar -= loss["sum"].item()  # it is of the steps of this call alone
            self._globalstep_last_logged = loss["last_logged_step"]

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Trainer's, with the means of all losses over the samples among the metrics.

        With several processes the losses, not the metrics, also count the samples that fill up the last batch.
        """
        self._eval_means = MeanTracker()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        means = self._eval_means.pop(self.accelerator)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Trainer's draft, which `push_to_hub` writes, but never over a card that is more than such a draft."""
        card = Path(self.args.output_dir) / "README.md"
        if not card.exists() or "generated_from_trainer" in (ModelCard.load(card).data.tags or []):
            super().create_model_card(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        # What says something about the batch, and is no input of the model.
        self._ids = inputs.pop("ids", [])
        self._count, self._weight = inputs.pop("num_samples_in_batch", None), inputs.pop("weight", None)
        return inputs

    def _num_real_samples(self, size: int) -> int:
        """How many of the last micro-batch's samples are not repetitions that fill it up for all ranks."""
        is_last, loader = self.accelerator.gradient_state.end_of_dataloader, self.callback_handler.train_dataloader
        if self.accelerator.num_processes == 1 or not is_last or self.args.dataloader_drop_last:
            return size
        batches = getattr(loader.batch_sampler, "batch_sampler", None)  # those of all ranks
        drawn = self.train_dataset if batches is None else batches.sampler
        if not has_length(drawn):
            return size
        # Not gradient_state.remainder, which is lost in an epoch that is resumed in its middle.
        remainder = len(drawn) % loader.total_batch_size or loader.total_batch_size
        return min(max(remainder - self.accelerator.process_index * size, 0), size)

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length" or not has_length(train_dataset):
            return super()._get_train_sampler(train_dataset)
        if isinstance(train_dataset, Dataset):
            lengths = row_counts(train_dataset, "word_index").tolist()
        else:
            lengths = [len(row["word_index"]) for row in train_dataset]
        args = self.args
        return _LengthGroupedSampler(
            args.train_batch_size * args.gradient_accumulation_steps,
            lengths,
            args.seed if args.data_seed is None else args.data_seed,
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> None:
        """None, for the dataset's order whatever the training's: predictions stand beside its ids."""

    def _pool_feature_bounds(self, batches: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Minimum and maximum of each modality over the optimizer step; also tracked in the model's buffers."""
        config = self.model.config
        if config.feature_normalization == "none":
            return {}
        bounds = {
            name: pooled_feature_bounds(
                (collect_features(**batch)[name], batch["feature_mask"] & batch["modality_mask"][name][:, None])
                for batch in batches
            )
            for name in config.modality_sizes
        }
        self.accelerator.unwrap_model(self.model).multimodal.update_feature_bounds(bounds)
        return bounds

    def _sample_generator(self, sample_id: str, purpose: str) -> np.random.Generator:
        """A generator that depends on seed, step, sample and purpose, and not on how the step is cut into batches."""
        key = f"{self.args.seed}/{self.state.global_step}/{sample_id}/{purpose}".encode()
        return np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()))

    def _drop_modalities(self, batch: dict[str, Any]) -> None:
        """Takes modalities out of samples at random; where none would be left, the one with the largest draw stays."""
        config, device = self.model.config, batch["labels"].device
        names = [*(["text"] if config.use_text else []), *config.modality_sizes]
        given, everywhere = batch.get("modality_mask", {}), torch.ones_like(batch["labels"], dtype=torch.bool)
        present = torch.stack([given.get(name, everywhere) for name in names], dim=1)
        draws = [self._sample_generator(name, "modality_dropout").random(len(names)) for name in batch["ids"]]
        draws = torch.from_numpy(np.stack(draws)).to(device).masked_fill(~present, -1.0)
        kept = (draws >= self.args.modality_dropout) | (draws == draws.amax(dim=1, keepdim=True))
        batch["modality_mask"] = dict(zip(names, (kept & present).unbind(dim=1), strict=True))

    def _sample_noise(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """AME's noise, for each sample from (seed, step, id, modality) and the same whatever it is padded to."""
        shape = (batch["feature_mask"].shape[1], self.model.config.latent_size)
        noise = {}
        for name in self.model.config.modality_sizes:
            draws = []
            for sample_id in batch["ids"]:
                draws.append(self._sample_generator(sample_id, name).standard_normal(shape, dtype=np.float32))
            noise[name] = torch.from_numpy(np.stack(draws)).to(batch["feature_mask"].device)
        return noise

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self._train_means, self._step_means, self._unlogged_loss = MeanTracker(), MeanTracker(), None
        if resume_from_checkpoint is not None:
            state = _load_state(resume_from_checkpoint, LOG_FILE, self.args.device)
            self._train_means.load_state_dict(state["train_means"], self.accelerator)
            self._step_means.load_state_dict(state["step_means"], self.accelerator)
            self._unlogged_loss = state["loss"]
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        # The ranks go on from this mean, as they will when they resume.
        self._tr_loss.copy_(self.accelerator.reduce(self._tr_loss, reduction="mean"))
        state = {
            "train_means": self._train_means.state_dict(self.accelerator),
            "step_means": self._step_means.state_dict(self.accelerator),
            "loss": {"sum": self._tr_loss, "last_logged_step": self._globalstep_last_logged},
        }
        if self.args.should_save:
            torch.save(state, Path(output_dir) / LOG_FILE)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return super()._save(output_dir, state_dict=state_dict)
        with replacing_files(output_dir or self.args.output_dir) as folder:
            super()._save(str(folder), state_dict=state_dict)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        checkpoint = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with write_errors(checkpoint):
            if self.args.should_save:
                # What an earlier run left of this step would make a checkpoint that is cut short look whole.
                (checkpoint / TRAINER_STATE_NAME).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The file that says that a checkpoint is whole is written next, by one rank for all.
        self.accelerator.wait_for_everyone()


def _load_state(checkpoint: str, name: str, device: torch.device) -> dict[str, Any]:
    if not Path(checkpoint, name).is_file():
        raise ValueError(f"{checkpoint} has no {name}: no run goes on from a checkpoint of the model alone")
    # Each rank loads to its current device; torch knows no `cpu:0`, as gloo's ranks are called.
    return torch.load(Path(checkpoint) / name, map_location=device.type, weights_only=True)


def _sentiment_metrics(prediction: EvalPrediction) -> dict[str, float]:
    outputs = prediction.predictions
    predictions = outputs[0] if isinstance(outputs, tuple) else outputs
    return load_metric(keep_in_memory=True).compute(predictions=predictions, references=prediction.label_ids)


def _check_metric(metric: str | None, config: Any) -> None:
    losses = ["task", "unimodal"]
    if config.modality_sizes:
        losses += ["reconstruction", "diversity", *(["statistical"] if config.sl else [])]
    names = [*METRICS, "loss", *(f"{name}_loss" for name in losses)]
    if config.modality_sizes:
        names.append("feature_entropy")
    if metric is not None and metric.removeprefix("eval_") not in names:
        raise ValueError(f"metric_for_best_model={metric!r} is no metric; there are {', '.join(names)}")


def _pooled_errors(outputs: Any) -> tuple[dict[str, Tensor], dict[str, Tensor | int]]:
    """Sums of the per-sample errors by modality, and the number of samples that have it."""
    errors = outputs["modality_errors"]
    presence = outputs.get("modality_presence") or {}
    sums = {name: error.detach().sum() for name, error in errors.items()}
    counts = {name: presence[name].sum() if name in presence else len(error) for name, error in errors.items()}
    return sums, counts


def _first_samples(batch: Any, size: int) -> Any:
    """The first `size` samples of a batch of tensors, lists and dicts of them."""
    if isinstance(batch, dict):
        return {name: _first_samples(value, size) for name, value in batch.items()}
    return batch[:size]


def _without_modalities(batch: dict[str, Any]) -> dict[str, Any]:
    """One sample that has no modality and so counts nowhere: DDP needs every rank to run every step."""
    batch = _first_samples(batch, 1)
    nowhere = torch.zeros_like(batch["labels"], dtype=torch.bool)
    names = [*batch.get("modality_mask", {}), *(["text"] if "input_ids" in batch else [])]
    batch["modality_mask"] = dict.fromkeys(names, nowhere)
    return batch


__all__ = ["CPSLTrainer", "GradientModulationMixin"]
