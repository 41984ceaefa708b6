"""A training from beginning to end: train, evaluate, calibrate, and leave the records of the run."""

import contextlib
import copy
import itertools
import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from accelerate.utils.memory import clear_device_cache
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HTTPError
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PredictionOutput
from transformers.utils.hub import hf_api

from data_builders.columns import read_columns
from data_builders.files import locked, replacing_files, write_errors

from ..class_task_cpsl import ClassTask
from ..configuration_cpsl import CPSLConfigMixin
from ..training.checkpoints import last_complete_checkpoint, link_equal_weights, resuming_from
from ..training.encoding import modality_sets
from ..training.labels import task_of_model
from ..training.task_metrics import confusion
from ..training.trainer import CPSLTrainer
from ..uncertainty_cpsl import DEFAULT_COVERAGE, conformal_quantiles
from . import plots, records
from .assembly import prepare
from .console import Console, quiet_libraries
from .decision import calibration_samples, fit_decision
from .members import (
    Member,
    describe_ensemble,
    ensemble_logits,
    ensemble_metrics,
    has_members,
    member_recipe,
    read_member,
    write_member,
)
from .model_card import write_model_card
from .prediction_tables import scores_and_labels
from .recipe import Recipe, read_recipe


logger = logging.getLogger(__name__)


def run(recipe: str | os.PathLike, **options: Any) -> dict[str, float]:
    """Trains and evaluates a model from a recipe, as `cpsl train` does.

    Args:
        recipe: A YAML file, or the name of a packaged recipe.
        **options: Options of `cpsl train`, which override the recipe's.

    Returns:
        The contents of `all_results.json`: every metric as `<split>_<name>`, and the times that were taken.

    Raises:
        ValueError: An option, the data or the text encoder does not fit, `output_dir` holds another run, or a loss
            became infinite or NaN.
        OSError: A file cannot be read or written.

    Example:
        ```python
        from modeling_cpsl.experiments.run import run

        results = run("sample", num_train_epochs=2, output_dir="outputs/short")
        print(results["test_mae"])
        ```
    """
    return run_recipe(read_recipe(recipe, **options))


def run_recipe(recipe: Recipe) -> dict[str, float]:
    """[`run`] for a recipe that has been read."""
    args = copy.copy(recipe.training)
    only_writer = contextlib.nullcontext() if args.process_index else locked(args.output_dir)
    with quiet_libraries(is_main_process=args.process_index == 0), _output_folder(Path(args.output_dir)), only_writer:
        if args.resume_from_checkpoint == "last" and _is_complete(recipe):
            if args.process_index == 0:
                print(f"{args.output_dir}: this run is complete, nothing was changed")
            return records.read_results(args.output_dir)
        checkpoint = starting_point(args.output_dir, args.resume_from_checkpoint)
        if checkpoint is None and args.resume_from_checkpoint == "last" and args.process_index == 0:
            print(f"{args.output_dir}: no complete checkpoint, the training starts anew")
        args.resume_from_checkpoint = checkpoint
        return _train(recipe._replace(training=args))


@contextlib.contextmanager
def _output_folder(path: Path) -> Iterator[None]:
    """Makes a run's folder, and removes what was made if the run is refused or fails before it leaves anything."""
    path = path.absolute()
    backbone = path / records.SAMPLE_BACKBONE_FOLDER
    had_backbone, made = backbone.exists(), [folder for folder in (path, *path.parents) if not folder.exists()]
    with write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # a folder that holds something stays
            if not had_backbone and os.listdir(path) == [backbone.name]:
                shutil.rmtree(backbone)
            for folder in made:
                folder.rmdir()
        raise


def _is_complete(recipe: Recipe) -> bool:
    folder = recipe.training.output_dir
    same_options = not _changed_options(records.read_resolved_config(folder), recipe.resolved())
    return same_options and Path(folder, records.RESULTS_FILE).is_file()


def holds_run(output_dir: str | os.PathLike) -> bool:
    """Whether a folder holds a run, finished or not."""
    has_results = Path(output_dir, records.RESULTS_FILE).is_file()
    return has_results or last_complete_checkpoint(output_dir) is not None or has_members(output_dir)


def starting_point(output_dir: str, checkpoint: str | None) -> str | None:
    """The checkpoint that a run goes on from; None where it starts anew.

    Args:
        output_dir: The run's folder.
        checkpoint: What the run was asked to resume from; `last` for the latest one of the folder, if any.

    Raises:
        ValueError: The folder holds a run that is not resumed, or an experiment.
    """
    if records.is_experiment(output_dir):
        raise ValueError(f"output_dir {output_dir} holds an experiment or a search; name another one")
    latest = last_complete_checkpoint(output_dir)
    resumed = latest if checkpoint == "last" else checkpoint
    holds_run = latest or Path(output_dir, records.RESULTS_FILE).is_file()
    under_way = latest or has_members(output_dir)
    is_elsewhere = resumed is None or Path(resumed).resolve().parent != Path(output_dir).resolve()
    if (holds_run and is_elsewhere) or (under_way and checkpoint is None):
        way_out = ", or continue that run with --resume_from_checkpoint last" if under_way else ""
        raise ValueError(f"output_dir {output_dir} holds a run already; remove it or name another one{way_out}")
    return resumed


def _train(recipe: Recipe) -> dict[str, float]:
    options, members = recipe.resolved(), _train_members(recipe)
    trainer, dataset = prepare(recipe)
    task = task_of_model(trainer.unwrapped_model)
    if members:
        trainer.set_teacher(ensemble_logits(members, "train", task))
    with Console(trainer, options) as console:
        metrics = _trained(trainer, options)
        trainer.save_model(_internal_call=True)  # without the push, which comes last
        if trainer.is_world_process_zero() and trainer.state.best_model_checkpoint is not None:
            link_equal_weights(trainer.args.output_dir, trainer.state.best_model_checkpoint)
        if trainer.args.decision_weights:
            fit_decision(trainer, dataset["validation"], recipe.data.fold_group)
        metrics |= evaluate_splits(trainer, dataset)
        if members:
            metrics |= ensemble_metrics(members, dataset, task)
        if trainer.is_world_process_zero():
            write_records(trainer, metrics, options, dataset)
        judged = [name for name in dataset if name != "train"]
        console.report(metrics, judged)
        if members and trainer.is_world_process_zero():
            print(describe_ensemble(metrics, len(members), judged, task))
    if trainer.args.push_to_hub and trainer.is_world_process_zero():
        push(trainer)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return metrics


def _trained(trainer: CPSLTrainer, options: dict[str, Any]) -> dict[str, float]:
    """Trains, from the checkpoint if there is one; returns Trainer's metrics of a training."""
    checkpoint = trainer.args.resume_from_checkpoint
    if checkpoint is not None:
        check_checkpoint(checkpoint, trainer, options)
    return trainer.train(resume_from_checkpoint=checkpoint).metrics


def _train_members(recipe: Recipe) -> list[Member]:
    """The members that the run is distilled from; each is trained once, and where it was stopped goes on.

    Every process calls it; what is kept of a member is on the disk of the first one.
    """
    args = recipe.training
    if args.distillation_members and recipe.data.streaming:
        raise ValueError("distillation_members: what members predict for a stream is not kept; leave --streaming out")
    members, is_main = [], args.process_index == 0
    for number in range(args.distillation_members):
        own = member_recipe(recipe, number)
        folder = Path(own.training.output_dir)
        [member] = broadcast_object_list([read_member(folder) if is_main else None])
        if member is None:
            if is_main:
                print(f"member {number + 1} of {args.distillation_members}, with seed {own.training.seed}:")
            with _output_folder(folder):
                member = _train_member(own)
            clear_device_cache(garbage_collection=True)
        elif args.resume_from_checkpoint is None and (changed := _changed_options(member.options, own.resolved())):
            raise ValueError(
                f"output_dir {args.output_dir} holds members that were trained with other options ({changed[0]} "
                f"{member.options[changed[0]]}); remove it or name another one"
            )
        if args.local_process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)  # its weights have done their part
        members.append(member)
    return members


def _train_member(recipe: Recipe) -> Member:
    recipe.training.resume_from_checkpoint = last_complete_checkpoint(recipe.training.output_dir)
    options = recipe.resolved()
    trainer, dataset = prepare(recipe)
    with Console(trainer, options):
        _trained(trainer, options)
        logits = {name: _logits(_predict(trainer, split, name)) for name, split in dataset.items()}
    member = Member(options, {name: values.astype(np.float32) for name, values in logits.items()})
    if trainer.is_world_process_zero():
        write_member(member, Path(recipe.training.output_dir))
    trainer.accelerator.wait_for_everyone()
    return member


def _predict(trainer: CPSLTrainer, split: Any, name: str) -> PredictionOutput:
    ignored = [*trainer.model.config.keys_to_ignore_at_inference, "fusion_weights"]
    return trainer.predict(split, ignore_keys=ignored, metric_key_prefix=name)


def _logits(result: PredictionOutput) -> np.ndarray:
    # Of an architecture without predictions from one modality alone there is one array.
    return result.predictions[0] if isinstance(result.predictions, tuple) else result.predictions


def evaluate_splits(trainer: CPSLTrainer, dataset: dict[str, Any]) -> dict[str, float]:
    """The metrics of every split but the training's; each split's predictions are written."""
    metrics: dict[str, float] = {}
    for name, split in dataset.items():
        if name == "train":
            continue
        result = _predict(trainer, split, name)
        metrics |= result.metrics
        if trainer.is_world_process_zero():
            ids = [sample_id for table in read_columns(split, ["id"]) for sample_id in table["id"].to_pylist()]
            records.write_predictions(
                ids,
                result.label_ids,
                _logits(result),
                result.predictions[1] if isinstance(result.predictions, tuple) else {},
                trainer.args.output_dir,
                name,
                trainer.accelerator.unwrap_model(trainer.model).task,
            )
    return metrics


def write_records(
    trainer: CPSLTrainer, metrics: dict[str, float], options: dict[str, Any], dataset: dict[str, Any]
) -> None:
    """Calibrates the model, and writes resolved recipe, plots, results and the model card."""
    args, state = trainer.args, trainer.state
    folder, history = Path(args.output_dir), state.log_history
    if "validation" in dataset:
        calibrate(
            trainer, dataset["validation"], calibration_samples(args, dataset["validation"], options["fold_group"])
        )
    records.write_resolved_config(options, folder)
    task = trainer.accelerator.unwrap_model(trainer.model).task
    plots.plot_training_dynamics(history, folder / records.TRAINING_PLOT, best_step=state.best_global_step, task=task)
    if plots.has_modulation(history):
        config = args.modulation if trainer.modulator is None else trainer.modulator.config
        window = range(config.start_epoch, config.end_epoch + 1)
        modulated_epochs = window if args.gm or args.cp else None  # without them it only shows statistics
        plots.plot_modulation(history, folder / records.MODULATION_PLOT, modulated_epochs=modulated_epochs, task=task)
    judged = [name for name in dataset if name != "train"]
    if isinstance(task, ClassTask) and judged:
        split = "test" if "test" in judged else judged[0]
        counts = confusion(task, *scores_and_labels(records.read_predictions(folder, split), task))
        plots.plot_confusion(counts, task.names, folder / records.CONFUSION_PLOT, split=split)
    records.write_results(metrics, folder)
    write_model_card(folder, dataset)


def calibrate(trainer: CPSLTrainer, split: Any, samples: np.ndarray) -> None:
    """Fits the model's prediction intervals on samples of the validation split, which was not trained on; saves them.

    Args:
        trainer: The trainer of a run, which has left its predictions.
        split: The validation split.
        samples: Which of its samples are used, (N,) bool.
    """
    validation = records.read_predictions(trainer.args.output_dir, "validation")
    model = trainer.accelerator.unwrap_model(trainer.model)
    try:
        half_widths = conformal_quantiles(
            model.task.conformity_errors(*(values[samples] for values in scores_and_labels(validation, model.task))),
            [*itertools.compress(modality_sets(split, trainer.processing_class), samples)],
        )
    except ValueError as error:
        logger.warning("the model gets no prediction intervals: %s", error)
        return
    model.set_calibration(half_widths, DEFAULT_COVERAGE)
    with replacing_files(trainer.args.output_dir) as folder:
        model.config.save_pretrained(folder)


def push(trainer: CPSLTrainer) -> None:
    """Uploads what of the run's folder may be shared; ValueError where that fails, when everything else is done."""
    args, name = trainer.args, trainer.hub_model_id
    additions = [CommitOperationAdd(path, file) for path, file in records.shared_files(args.output_dir).items()]
    try:
        hf_api().create_commit(
            name, additions, commit_message="End of training", token=args.hub_token, revision=args.hub_revision
        )
    except (HTTPError, OSError, ValueError) as error:
        left_out = " ".join(f"--exclude '{pattern}'" for pattern in records.NOT_SHARED)
        command = f"hf upload {name} {shlex.quote(args.output_dir)} {left_out}"
        raise ValueError(f"push_to_hub: {error}; the run itself is complete, push it with `{command}`") from error


def check_checkpoint(checkpoint: str, trainer: CPSLTrainer, options: dict[str, Any]) -> None:
    """Refuses to resume from a model of another shape, and warns of options that differ from the earlier run's."""
    if not Path(checkpoint, TRAINER_STATE_NAME).is_file():
        raise ValueError(
            f"resume_from_checkpoint {checkpoint}: not a complete checkpoint; name a folder checkpoint-N, or `last`"
        )
    config = trainer.model.config
    with resuming_from(checkpoint):
        earlier_config = type(config).from_pretrained(checkpoint)
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        before = records.read_resolved_config(checkpoint)
        changed = _changed_options(before, options)
    for option in fields(CPSLConfigMixin):
        earlier, now = getattr(earlier_config, option.name), getattr(config, option.name)
        if earlier != now:
            raise ValueError(
                f"resume_from_checkpoint {checkpoint}: it was trained with {option.name}={earlier}, and this run has "
                f"{now}; give the same, or start anew in another output_dir"
            )
    pairs = ", ".join(
        [f"{name} {before[name]} -> {options[name]}" for name in changed] + _changed_processes(checkpoint)
    )
    if not pairs:
        return
    has_results = Path(trainer.args.output_dir, records.RESULTS_FILE).is_file()
    if has_results and state.global_step >= state.max_steps and not {"num_train_epochs", "max_steps"} & {*changed}:
        raise ValueError(
            f"resume_from_checkpoint {checkpoint}: that run is complete, and has other options ({pairs}); "
            "start anew in another output_dir"
        )
    logger.warning("resuming from %s with other options than it was trained with: %s", checkpoint, pairs)


def _changed_processes(checkpoint: str) -> list[str]:
    """Says if another number of processes resumes a checkpoint; each process has left its random numbers there."""
    before, now = len(list(Path(checkpoint).glob("rng_state*.pth"))), PartialState().num_processes
    # Machines that share no files have those of their own processes.
    return [] if before in (now, int(os.environ.get("LOCAL_WORLD_SIZE", now))) else [f"processes {before} -> {now}"]


def _changed_options(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The options of two runs that differ; where both are is none of them."""
    return [name for name in now if name in before and before[name] != now[name] and name != "output_dir"]


__all__ = [
    "calibrate",
    "check_checkpoint",
    "evaluate_splits",
    "holds_run",
    "push",
    "run",
    "run_recipe",
    "starting_point",
    "write_records",
]
