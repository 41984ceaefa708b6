"""`Trainer` with a choice of which samples an epoch draws."""

import math
from typing import Any

import torch
from accelerate.utils import broadcast
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler, Subset
from transformers.trainer_utils import has_length

from .arguments import CPSLTrainingArguments
from .coalitions import sample_contributions
from .labels import label_statistics, task_of_model
from .resampling import ByContribution, ByDiscrepancy, ContributionSchedule, EpochSampler, effective_size
from .sample_table_mixin import SampleTableMixin
from .sampling import EpochLengthGroupedSampler, longest_first, sample_lengths
from .streaming import EncodedStream
from .unimodal_predictions import out_of_fold_errors


class ResamplingMixin(SampleTableMixin):
    """Draws the samples of an epoch as `resample` says, see [`Resampling`]; with `none` each of them once.

    Where something goes by the contributions of modalities, samples drawn or masked, they are the column
    `contributions` of the sample table: M values a sample, in mean absolute deviations of the labels.
    """

    args: CPSLTrainingArguments
    _epoch_sampler: EpochSampler | None = None
    _effective_samples: float | None = None

    @property
    def sample_columns(self) -> dict[str, int]:
        """See [`SampleTableMixin.sample_columns`]."""
        own = {"contributions": len(self.unwrapped_model.modality_names)} if self._schedules else {}
        return super().sample_columns | own

    @property
    def _schedules(self) -> list[ContributionSchedule]:
        methods = (self.args.resampling, self.args.sample_policy)
        return [method for method in methods if isinstance(method, ContributionSchedule)]

    def resampling_statistics(self) -> dict[str, float]:
        """What is logged of an epoch that was drawn by weights: its effective number of samples."""
        return {} if self._effective_samples is None else {"effective_samples": self._effective_samples}

    def update_sample_table(self, num_epochs: int) -> None:
        """Extends `SampleTableMixin.update_sample_table`: computes contributions for the next epoch if they are due.

        Args:
            num_epochs: Number of epochs that are done.
        """
        super().update_sample_table(num_epochs)
        if self._epoch_sampler is not None:
            self._effective_samples = effective_size(self._epoch_sampler.weights)
        is_over = self.state.global_step >= self.state.max_steps
        if not is_over and any(schedule.is_due(num_epochs) for schedule in self._schedules):
            self._compute_contributions()
            if isinstance(self.args.resampling, ByContribution):
                self._weigh_samples()

    def _compute_contributions(self) -> None:
        """Evaluates each training sample with every coalition of its modalities; each rank does a part of them."""
        args, dataset, model, table = self.args, self.train_dataset, self.unwrapped_model, self.sample_table
        assert table is not None and isinstance(dataset, Dataset | EncodedStream)
        labels = label_statistics(dataset, task_of_model(model))
        order = longest_first(dataset) or list(range(len(dataset)))
        # Every rank has equally many, some a sample that another one has too.
        places = range(args.process_index, math.ceil(len(order) / args.world_size) * args.world_size, args.world_size)
        own = Subset(dataset, [order[min(place, len(order) - 1)] for place in places])
        for batch in DataLoader(own, args.per_device_eval_batch_size, collate_fn=self.data_collator):
            rows = table.indices(batch.pop("ids"))
            with self.accelerator.autocast():  # as the model's own forward runs
                values = sample_contributions(model, self._prepare_inputs(batch), labels.constant)
            table.record(rows, contributions=values / labels.deviation)
        table.exchange()

    def _weigh_samples(self) -> None:
        """Weighs the samples of the epochs to come."""
        rule, sampler = self.args.resampling, self._epoch_sampler
        assert sampler is not None
        if isinstance(rule, ByDiscrepancy):
            assert isinstance(self.train_dataset, Dataset)
            weights = rule.weights(out_of_fold_errors(self.train_dataset, self.unwrapped_model.modality_names))
        else:
            assert self.sample_table is not None
            weights = rule.weights(self.sample_table.column("contributions").double().cpu().numpy())
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
        self._effective_samples = None
        if self._epoch_sampler is not None:
            self._weigh_samples()
        return prepared


__all__ = ["ResamplingMixin"]
