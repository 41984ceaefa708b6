"""`Trainer` with a choice of which samples an epoch draws."""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler, Subset
from transformers.trainer_utils import has_length

from .arguments import CPSLTrainingArguments
from .base import TrainableModelMixin
from .checkpoints import load_training_state, resuming_from
from .coalitions import sample_contributions
from .encoding import label_statistics
from .resampling import ByContribution, ByDiscrepancy, EpochSampler, effective_size
from .sample_table import SampleTable, sample_ids
from .sampling import EpochLengthGroupedSampler, longest_first, sample_lengths
from .unimodal_predictions import out_of_fold_errors


# What a checkpoint keeps beside Trainer's own files.
CONTRIBUTIONS_FILE = "contributions.pt"


class ResamplingMixin(TrainableModelMixin):
    """Draws the samples of an epoch as `resample` says, see [`Resampling`]; with `none` each of them once.

    Attributes:
        contributions: The table of the column `contributions` (M values a sample, in mean absolute deviations of the
            labels) where samples are drawn by it.
    """

    args: CPSLTrainingArguments
    contributions: SampleTable | None = None
    _epoch_sampler: EpochSampler | None = None
    _effective_samples: float | None = None

    def resampling_statistics(self) -> dict[str, float]:
        """What is logged of an epoch that was drawn by weights: its effective number of samples."""
        return {} if self._effective_samples is None else {"effective_samples": self._effective_samples}

    def update_sample_table(self, num_epochs: int) -> None:
        """Extends `SampleTableMixin.update_sample_table`: computes contributions for the next epoch if they are due.

        Args:
            num_epochs: Number of epochs that are done.
        """
        super().update_sample_table(num_epochs)
        if self._epoch_sampler is None:
            return
        self._effective_samples = effective_size(self._epoch_sampler.weights)
        rule, is_over = self.args.resampling, self.state.global_step >= self.state.max_steps
        if isinstance(rule, ByContribution) and rule.is_due(num_epochs) and not is_over:
            self._compute_contributions()
            self._weigh_samples()

    def _compute_contributions(self) -> None:
        """Evaluates each training sample with every coalition of its modalities; each rank does a part of them."""
        assert self.contributions is not None and isinstance(self.train_dataset, Dataset)
        args, dataset, model = self.args, self.train_dataset, self.unwrapped_model
        labels = label_statistics(dataset)
        order = longest_first(dataset) or list(range(len(dataset)))
        # Every rank has equally many, some a sample that another one has too.
        places = range(args.process_index, math.ceil(len(order) / args.world_size) * args.world_size, args.world_size)
        own = Subset(dataset, [order[min(place, len(order) - 1)] for place in places])
        for batch in DataLoader(own, args.per_device_eval_batch_size, collate_fn=self.data_collator):
            rows = self.contributions.indices(batch.pop("ids"))
            with self.accelerator.autocast():  # as the model's own forward runs
                values = sample_contributions(model, self._prepare_inputs(batch), labels.mean)
            self.contributions.record(rows, contributions=values / labels.deviation)
        self.contributions.exchange()

    def _weigh_samples(self) -> None:
        """Weighs the samples of the epochs to come."""
        rule, sampler = self.args.resampling, self._epoch_sampler
        assert sampler is not None
        if isinstance(rule, ByDiscrepancy):
            assert isinstance(self.train_dataset, Dataset)
            weights = rule.weights(out_of_fold_errors(self.train_dataset, self.unwrapped_model.modality_names))
        else:
            assert self.contributions is not None
            weights = rule.weights(self.contributions.column("contributions").double().cpu().numpy())
        # Processes whose weights differed in a last digit would draw different samples.
        sampler.weights = broadcast(torch.from_numpy(weights).to(self.args.device)).cpu().numpy()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        is_grouped = args.train_sampling_strategy == "group_by_length"
        if args.resample != "none":
            if not isinstance(train_dataset, Dataset):
                raise ValueError(
                    f"resample={args.resample}: a stream is read in its order, and no sample can be drawn more often; "
                    "leave --streaming or --resample out"
                )
            lengths = sample_lengths(train_dataset) if is_grouped else None
            self._epoch_sampler = EpochSampler(len(train_dataset), seed, lengths=lengths, batch_size=batch_size)
            return self._epoch_sampler
        if not is_grouped or not has_length(train_dataset):
            return super()._get_train_sampler(train_dataset)
        return EpochLengthGroupedSampler(batch_size, sample_lengths(train_dataset), seed)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self.contributions, self._effective_samples = None, None
        if isinstance(self.args.resampling, ByContribution):
            widths = {"contributions": len(self.unwrapped_model.modality_names)}
            self.contributions = SampleTable(sample_ids(self.train_dataset), widths, self.args.device)
            if resume_from_checkpoint is not None:
                state = load_training_state(resume_from_checkpoint, CONTRIBUTIONS_FILE, self.args.device)
                with resuming_from(resume_from_checkpoint):
                    self.contributions.load_state_dict(state)
        if self._epoch_sampler is not None:
            self._weigh_samples()
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.contributions is not None and self.args.should_save:
            torch.save(self.contributions.state_dict(), Path(output_dir) / CONTRIBUTIONS_FILE)


__all__ = ["ResamplingMixin"]
