"""CPSLTrainer trains any model that meets TrainableModel, and relies on hooks of transformers that are listed here."""

import ast
import inspect
import math

import pytest
import torch
from torch import nn
from transformers import Trainer
from transformers.utils import ModelOutput

from modeling_cpsl import CPSLTrainer, CPSLTrainingArguments
from modeling_cpsl.modeling_cpsl import CPSLModelMixin
from modeling_cpsl.outputs_cpsl import CPSLOutput
from modeling_cpsl.training.contract import TrainableModel, TrainableOutput


SIZES = {"smell": 4, "touch": 3}
# The trainer and its mixins.
OWN_CLASSES = [each for each in CPSLTrainer.__mro__ if each.__module__.startswith("modeling_cpsl.")]


class LateFusion(nn.Module):
    """A plain module: no config, no text, no latent noise; its features are not normalised."""

    modality_names = list(SIZES)
    unimodal_names = list(SIZES)
    loss_names = ["task", "unimodal"]
    smallest_batch_size = 1
    normalized_modalities = []
    sample_columns = {}
    weakens_modalities = False
    most_heads = 1
    head_counts = {}

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(size, 5) for name, size in SIZES.items()})
        self.heads = nn.ModuleDict({name: nn.Linear(5, 1) for name in SIZES})
        self.prepared = 0

    def prepare_for_training(self):
        self.prepared += 1

    def modality_parameters(self, name):
        return list(self.encoders[name].parameters())

    def encoder_layers(self):
        return []

    def scale_loss(self, name, factor):
        raise AssertionError("no loss is scaled")

    def update_feature_bounds(self, bounds):
        raise AssertionError("there is no modality to normalise")

    def latent_noise_shapes(self, length):
        return {}

    def update_sample_columns(self, columns, num_epochs):
        raise AssertionError("there is nothing to remember")

    def forward(self, smell, touch, modality_mask, labels=None):
        unimodal = {}
        for name, values in {"smell": smell, "touch": touch}.items():
            prediction = self.heads[name](torch.tanh(self.encoders[name](values)))[:, 0]
            unimodal[name] = torch.where(modality_mask[name], prediction, 0.0)
        logits = sum(unimodal.values())
        if labels is None:
            return ModelOutput(logits=logits)
        losses = {
            "task": (logits - labels).square().mean(),
            "unimodal": sum((prediction - labels).square().mean() for prediction in unimodal.values()),
        }
        errors = {
            name: torch.where(modality_mask[name], (prediction - labels).abs(), 0.0)
            for name, prediction in unimodal.items()
        }
        return ModelOutput(
            loss=sum(losses.values()),
            logits=logits,
            losses=losses,
            modality_errors=errors,
            modality_presence=modality_mask,
        )


def make_rows(count):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(count):
        label = torch.rand((), generator=generator) * 6 - 3
        features = {name: label + torch.randn(size, generator=generator) for name, size in SIZES.items()}
        rows.append({"id": f"s{index}", "label": label, **features})
    return rows


def collate(rows):
    present = torch.ones(len(rows), dtype=torch.bool)
    return {
        "ids": [row["id"] for row in rows],
        "labels": torch.stack([row["label"] for row in rows]),
        "modality_mask": dict.fromkeys(SIZES, present),
        **{name: torch.stack([row[name] for row in rows]) for name in SIZES},
    }


def make_trainer(folder, **arguments):
    torch.manual_seed(0)
    options = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "metric_for_best_model": "corr",
        "modality_masking": "uniform",
        "modality_masking_options": {"probability": 0.1},
        "use_cpu": True,
        "disable_tqdm": True,
    }
    args = CPSLTrainingArguments(output_dir=str(folder), **options | arguments)
    rows = make_rows(30)
    return CPSLTrainer(LateFusion(), args, train_dataset=rows[:22], eval_dataset=rows[22:], data_collator=collate)


def without_times(log):
    rows = [{name: value for name, value in row.items() if not name.endswith(("_runtime", "_second"))} for row in log]
    return rows[:-1]  # the last one is of one call alone


def test_another_model_is_trained_evaluated_and_resumed(tmp_path):
    trainer = make_trainer(tmp_path, save_total_limit=None)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert trainer.model.prepared == 1
    assert all(not torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    epochs = [row for row in trainer.state.log_history if "train_task_loss" in row]
    assert len(epochs) == 3 and epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    for row in epochs:
        assert row["train_loss"] == pytest.approx(row["train_task_loss"] + row["train_unimodal_loss"], rel=1e-5)
        assert {f"train_{kind}_{name}" for kind in ("coefficient", "error", "grad_norm") for name in SIZES} <= {*row}
        assert all(math.isfinite(value) for value in row.values())
    evaluations = [row for row in trainer.state.log_history if "eval_corr" in row]
    assert trainer.state.best_metric == max(row["eval_corr"] for row in evaluations)
    predicted = trainer.predict(trainer.eval_dataset)
    assert predicted.metrics.keys() >= {"test_mae", "test_unimodal_loss"}

    resumed = make_trainer(tmp_path, save_total_limit=None)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert without_times(resumed.state.log_history) == without_times(trainer.state.log_history)


def test_what_another_model_lacks_is_refused_by_its_names(tmp_path):
    with pytest.raises(ValueError, match=r"'statistical_loss' is not a metric; choose one of mae, .*, unimodal_loss$"):
        make_trainer(tmp_path, metric_for_best_model="statistical_loss")


def members(protocol):
    return {name for name in {*vars(protocol), *protocol.__annotations__} if not name.startswith("_")}


def test_the_cpsl_model_meets_the_contract():
    for name in members(TrainableModel):
        assert name in vars(CPSLModelMixin), name
        ours, stated = (inspect.getattr_static(owner, name) for owner in (CPSLModelMixin, TrainableModel))
        assert type(ours) is type(stated), name
        if inspect.isfunction(ours):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(stated).parameters), name
    assert members(TrainableOutput) <= {*CPSLOutput.__dataclass_fields__}


def trainers_code():
    """All nodes of the syntax trees of the trainers' modules."""
    for module in dict.fromkeys(inspect.getmodule(each) for each in OWN_CLASSES):
        yield from ast.walk(ast.parse(inspect.getsource(module)))


def test_the_trainer_touches_nothing_else_of_the_model():
    """`self.model` is only unwrapped, and of what comes out only the contract's members are used."""
    attributes = [node for node in trainers_code() if isinstance(node, ast.Attribute)]
    of_model = {
        node.attr
        for node in attributes
        if (isinstance(node.value, ast.Attribute) and node.value.attr in ("model", "unwrapped_model"))
        or (isinstance(node.value, ast.Name) and node.value.id == "model")
    }
    assert of_model - {"training"} <= members(TrainableModel)


# What our trainers override or call of transformers' Trainer, with the parameters that they rely on. The private ones
# may change in any release.
HOOKS = {
    "_prepare_inputs": "inputs",
    "_get_dataloader": "dataset description batch_size sampler_fn is_training dataloader_key",
    "_get_eval_sampler": "eval_dataset",
    "_get_output_dir": "trial",
    "_get_train_sampler": "train_dataset",
    "_finalize_training": "trial num_train_samples start_time",
    "_load_from_checkpoint": "resume_from_checkpoint model",
    "_maybe_log_save_evaluate": "tr_loss grad_norm model trial epoch ignore_keys_for_eval start_time learning_rate",
    "_prepare_for_training": "max_steps train_dataloader resume_from_checkpoint",
    "_save": "output_dir state_dict",
    "_save_checkpoint": "model trial",
    "_save_optimizer_and_scheduler": "output_dir",
    "_save_rng_state": "output_dir",
    "_run_epoch": "model epoch train_dataloader steps_in_epoch num_update_steps_per_epoch trial ignore_keys_for_eval "
    "start_time resume_from_checkpoint epochs_trained steps_trained_in_current_epoch",
    "add_callback": "callback",
    "compute_loss": "model inputs return_outputs num_items_in_batch",
    "create_optimizer": "model",
    "create_model_card": "language license tags model_name finetuned_from tasks dataset_tags dataset dataset_args",
    "evaluation_loop": "dataloader description prediction_loss_only ignore_keys metric_key_prefix",
    "get_batch_samples": "epoch_iterator num_batches device",
    "hyperparameter_search": "hp_space compute_objective n_trials direction backend hp_name kwargs",
    "log": "logs start_time",
    "prediction_step": "model inputs prediction_loss_only ignore_keys",
    "train": "resume_from_checkpoint trial ignore_keys_for_eval",
    "training_step": "model inputs num_items_in_batch",
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_of_transformers_has_the_signature_that_we_rely_on(name):
    assert list(inspect.signature(getattr(Trainer, name)).parameters)[1:] == HOOKS[name].split()


def test_every_hook_of_transformers_is_listed():
    owners = ("self", "trainer")
    called = {
        node.attr
        for node in trainers_code()
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id in owners)
            or (isinstance(node.value, ast.Attribute) and node.value.attr in owners)
            or (isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name))  # super()
        )
    }
    overridden = {name for each in OWN_CLASSES for name in vars(each)}
    used = {name for name in called | overridden if callable(getattr(Trainer, name, None))}
    assert {name for name in used if not name.startswith("__")} == HOOKS.keys()
