"""A training from beginning to end: train, evaluate, calibrate, and leave the records of the run."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub.errors import HTTPError
from transformers.trainer import TRAINER_STATE_NAME

from data_builders.columns import read_columns
from data_builders.files import replacing_files

from ..configuration_cpsl import CPSLConfigMixin
from ..training.encoding import modality_sets
from ..training.trainer import CPSLTrainer
from ..uncertainty_cpsl import DEFAULT_COVERAGE, conformal_half_widths
from . import plots, records
from .assembly import prepare
from .model_card import write_model_card


def evaluate_splits(trainer: CPSLTrainer, dataset: dict[str, Any], output_dir: Path) -> dict[str, float]:
    """Metrics of METHOD 10 on validation and test where they exist; writes each split's predictions."""
    metrics: dict[str, float] = {}
    for name, split in dataset.items():
        if name == "train":
            continue
        result = trainer.predict(split, metric_key_prefix=name)
        metrics |= result.metrics
        if trainer.is_world_process_zero():
            predictions, unimodal_predictions = result.predictions[:2]
            records.write_predictions(
                [sample_id for table in read_columns(split, ["id"]) for sample_id in table["id"].to_pylist()],
                result.label_ids,
                predictions,
                unimodal_predictions,
                output_dir / f"predictions_{name}.parquet",
            )
    return metrics


def calibrate(trainer: CPSLTrainer, split: Any, output_dir: Path) -> None:
    """Fits the model's prediction intervals on the validation split, which trained no weight, and saves them."""
    validation = pd.read_parquet(output_dir / "predictions_validation.parquet")
    model = trainer.accelerator.unwrap_model(trainer.model)
    try:
        half_widths = conformal_half_widths(
            validation["prediction"].clip(-3, 3), validation["label"], modality_sets(split, trainer.processing_class)
        )
    except ValueError as error:
        print(f"the model has no prediction interval: {error}", file=sys.stderr)
        return
    model.set_calibration(half_widths, DEFAULT_COVERAGE)
    with replacing_files(output_dir) as folder:
        model.config.save_pretrained(folder)


def report(trainer: CPSLTrainer, metrics: dict[str, float], config: dict[str, Any], dataset: dict[str, Any]) -> None:
    """Calibrates, writes results, resolved recipe, plots and the model card, and prints the table."""
    output_dir, history = Path(trainer.args.output_dir), trainer.state.log_history
    if "validation" in dataset:
        calibrate(trainer, dataset["validation"], output_dir)
    records.write_resolved_config(config, output_dir)
    best_step = trainer.state.best_global_step
    plots.plot_training_dynamics(history, output_dir / "training_dynamics.png", best_step=best_step)
    if plots.has_modulation(history):
        modulated_epochs = range(trainer.args.modulation_start_epoch, trainer.args.last_modulated_epoch + 1)
        plots.plot_modulation(history, output_dir / "modulation.png", modulated_epochs=modulated_epochs)
    records.write_results(metrics, output_dir)
    write_model_card(output_dir, dataset)
    splits = [name for name in dataset if name != "train"]
    if splits:
        print(records.results_table(metrics, splits))
    print(f"model, results, predictions and plots are in {output_dir}")


def push(trainer: CPSLTrainer) -> None:
    """Uploads the run's folder; ValueError where that fails, when everything else is done."""
    try:
        trainer.push_to_hub()
    except (HTTPError, OSError, ValueError) as error:
        command = f"hf upload {trainer.hub_model_id} {trainer.args.output_dir} --exclude 'checkpoint-*'"
        raise ValueError(f"push_to_hub: {error}; the run itself is whole, push it with `{command}`") from error


def check_checkpoint(checkpoint: str, trainer: CPSLTrainer, config: dict[str, Any]) -> None:
    """Refuses to go on from a model of another shape, and warns of options that the run had otherwise."""
    if not Path(checkpoint, TRAINER_STATE_NAME).is_file():
        raise ValueError(f"resume_from_checkpoint {checkpoint}: no whole checkpoint; name a checkpoint-N, or `last`")
    model_config = trainer.model.config
    before = type(model_config).from_pretrained(checkpoint)
    for option in fields(CPSLConfigMixin):
        one, other = getattr(before, option.name), getattr(model_config, option.name)
        if one != other:
            raise ValueError(f"{checkpoint} was trained with {option.name}={one}, and this run has {other}")
    earlier = records.read_resolved_config(checkpoint)
    changed = [name for name in config if name in earlier and earlier[name] != config[name] and name != "output_dir"]
    if changed and trainer.is_world_process_zero():
        pairs = ", ".join(f"{name} {earlier[name]} -> {config[name]}" for name in changed)
        print(f"going on from {checkpoint} with other options than it was trained with: {pairs}", file=sys.stderr)


def run(arguments: Sequence[str]) -> None:
    """Trains, evaluates and reports."""
    trainer, dataset, config = prepare(arguments)
    if trainer.args.resume_from_checkpoint is not None:
        check_checkpoint(trainer.args.resume_from_checkpoint, trainer, config)
    train_metrics = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint).metrics
    trainer.save_model(_internal_call=True)  # without a push, which is for the end
    metrics = train_metrics | evaluate_splits(trainer, dataset, Path(trainer.args.output_dir))
    if trainer.is_world_process_zero():
        report(trainer, metrics, config, dataset)
    if trainer.args.push_to_hub:
        push(trainer)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def main(arguments: Sequence[str]) -> None:
    """Runs, and says in one line what went wrong where a user can put it right."""
    try:
        run(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"run_train.py: error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        print("run_train.py: interrupted; go on with --resume_from_checkpoint last", file=sys.stderr)
        sys.exit(130)
