"""What people make of a Trainer works with CPSLTrainer: losses, samplers, loaders and models of their own."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler
from training_cases import RecordingTrainer, make_trainer
from transformers import TrainingArguments
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS, HyperParamSearchBackendBase
from transformers.trainer_utils import HPSearchBackend

from modeling_cpsl import CPSLTrainer


class PenaltyTrainer(RecordingTrainer):
    """Adds a term of its own to the loss, whose gradient with respect to the head's bias is 1."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        _, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        loss = self.accelerator.unwrap_model(model).multimodal.out_proj.bias.sum()
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_loss_of_ones_own_is_averaged_over_micro_batches(tmp_path, steps):
    sizes = {"per_device_train_batch_size": 8 // steps, "gradient_accumulation_steps": steps}
    options = {"num_samples": 8, "num_train_epochs": 1, "max_grad_norm": 0.0, "config_fields": {"modality_sizes": {}}}
    trainer = make_trainer(tmp_path, trainer_class=PenaltyTrainer, optim="sgd", learning_rate=1.0, **sizes, **options)
    trainer.args.lr_scheduler_type, trainer.args.warmup_steps = "constant", 0
    before = trainer.model.multimodal.out_proj.bias.item()
    trainer.train()
    assert trainer.model.multimodal.out_proj.bias.item() == pytest.approx(before - 1.0)


class OtherLossTrainer(RecordingTrainer):
    """Calls the model itself, as transformers' documentation shows it."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        loss = (outputs.logits - inputs["labels"]).abs().mean()
        return (loss, outputs) if return_outputs else loss


def test_a_loss_instead_of_ours(tmp_path):
    options = {"num_train_epochs": 1, "config_fields": {"modality_sizes": {}}}
    trainer = make_trainer(tmp_path, trainer_class=OtherLossTrainer, **options)
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.evaluate()["eval_mae"] > 0
    with pytest.raises(ValueError, match="override compute_loss"):
        CPSLTrainer(trainer.model, trainer.args, compute_loss_func=torch.nn.functional.l1_loss)


class DrawingTrainer(RecordingTrainer):
    """Draws more samples than there are."""

    def _get_train_sampler(self, train_dataset=None):
        return WeightedRandomSampler(torch.ones(len(self.train_dataset)), 48)


class LoadingTrainer(DrawingTrainer):
    """Has a loader as PyTorch makes it."""

    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, 8, sampler=self._get_train_sampler(), collate_fn=self.data_collator)


@pytest.mark.parametrize("trainer_class", [DrawingTrainer, LoadingTrainer])
def test_every_sample_that_a_sampler_of_ones_own_draws_is_used(tmp_path, trainer_class):
    trainer = make_trainer(tmp_path, trainer_class=trainer_class, num_samples=30, num_train_epochs=1)
    trainer.train()
    assert [len(samples) for samples in trainer.samples] == [8] * 6


def test_a_model_may_be_made_for_each_training(tmp_path):
    one = make_trainer(tmp_path, num_train_epochs=1)
    parts = {"train_dataset": one.train_dataset, "data_collator": one.data_collator}
    trainer = CPSLTrainer(args=one.args, model_init=lambda: copy.deepcopy(one.model), **parts)
    trainer.train()
    weights = [model.multimodal.dense.weight for model in (one.model, trainer.model)]
    assert trainer.state.global_step == 4 and not torch.equal(*weights)
    with pytest.raises(ValueError, match="args are TrainingArguments; CPSLTrainer needs CPSLTrainingArguments"):
        CPSLTrainer(one.model, TrainingArguments(output_dir=str(tmp_path), use_cpu=True))


class GridSearch(HyperParamSearchBackendBase):
    """Looks at one model, as far as the trainer sees a search."""

    name = "grid"

    @staticmethod
    def is_available():
        return True

    def default_hp_space(self, trial):
        return {}

    def run(self, trainer, n_trials, direction, **kwargs):
        metrics = trainer.evaluate()
        return direction, trainer.compute_objective(metrics), metrics


@pytest.mark.parametrize(
    ("options", "direction", "metric"),
    [
        ({}, "minimize", "eval_mae"),
        ({"metric_for_best_model": "eval_corr"}, "maximize", "eval_corr"),
        ({"metric_for_best_model": None}, "minimize", "eval_loss"),
    ],
)
def test_a_search_optimises_the_metric_that_picks_the_best_model(tmp_path, monkeypatch, options, direction, metric):
    monkeypatch.setitem(ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, GridSearch)
    one = make_trainer(tmp_path, **options)
    parts = {name: getattr(one, name) for name in ("args", "train_dataset", "eval_dataset", "data_collator")}
    trainer = CPSLTrainer(model_init=lambda: copy.deepcopy(one.model), **parts)
    found, objective, metrics = trainer.hyperparameter_search(backend="optuna", n_trials=1)
    assert (found, objective) == (direction, metrics[metric])
    assert trainer.hyperparameter_search(None, lambda metrics: 7.0, 1, backend="optuna")[:2] == ("minimize", 7.0)
