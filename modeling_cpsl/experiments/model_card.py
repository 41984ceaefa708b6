"""The card of a trained model: `README.md` with metadata, figures, data, limits, licences and a snippet that runs."""

import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import Dataset
from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.repocard import metadata_load
from transformers import AutoConfig

from data_builders.columns import feature_rows, read_columns
from data_builders.files import replacing_file

from ..architectures_cpsl import ARCHITECTURES
from ..class_task_cpsl import ClassTask
from ..number_task_cpsl import NumberTask
from ..processing_cpsl import CPSLProcessor
from ..task_cpsl import SENTIMENT_CLASSES, SENTIMENT_RANGE, Task
from ..tasks_cpsl import task_of
from ..training.encoding import modality_sets
from ..training.labels import label_values
from ..training.streaming import EncodedStream
from ..training.task_metrics import judging_metric, metrics_of
from . import records
from .label_texts import scales
from .plots import has_modulation
from .prediction_tables import scores_and_labels
from .recipe import SWITCHES, switched_on


logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
TEMPLATE = Path(__file__).with_name("model_card_template.md")
TAGS = ("cpsl", "multimodal", "sentiment-analysis", "multimodal-sentiment-analysis")
DATASET_NAMES = {"sample": "CPSL sample corpus (generated)", "mosi": "CMU-MOSI", "mosei": "CMU-MOSEI"}
UNKNOWN_LICENSE = "unknown"


def write_model_card(output_dir: str | os.PathLike, dataset: Mapping[str, Dataset | EncodedStream]) -> ModelCard:
    """Writes `README.md` into the folder of a finished run, from what the run left there and the data it used.

    The card shows no paths of this machine: of a path that is absolute or leads upwards only the last part is shown.
    A licence that neither the package nor the text encoder's own card states is given as unknown. The Hub is not
    asked for anything. A `README.md` that is not the card of a training run is left as it is, with a warning.

    Args:
        output_dir: The run's folder, with model, processor, results, resolved recipe, log, predictions and plots.
        dataset: The splits of the run, in the row format of `data_builders`.

    Returns:
        The card.

    Raises:
        OSError: `output_dir` lacks a file of a finished run, or the card cannot be written.
    """
    output_dir = Path(output_dir)
    card = _make_card(output_dir, dataset)
    path, own_tags = output_dir / CARD_FILE, (TAGS[0], "generated_from_trainer")
    if path.exists() and set(own_tags).isdisjoint(_tags(path)):
        logger.warning(
            "%s is not the model card of a training run: it was left as it is, and no card was written", path
        )
    else:
        with replacing_file(path) as temporary:
            card.save(temporary)
    return card


def _make_card(output_dir: Path, dataset: Mapping[str, Dataset | EncodedStream]) -> ModelCard:
    results, recipe = records.read_results(output_dir), records.read_resolved_config(output_dir)
    config, processor = AutoConfig.from_pretrained(output_dir), CPSLProcessor.from_pretrained(output_dir)
    encoder, shown = _encoder(recipe["model_name_or_path"]), records.without_paths(recipe)
    model_name = records.without_paths(str(output_dir.resolve()))
    data = {
        "type": Path(shown["dataset"]).name,
        "name": DATASET_NAMES.get(recipe["dataset"], Path(shown["dataset"]).name),
        "format": dataset["train"].info.config_name,
    }
    task = task_of(config)
    metrics = metrics_of(task)
    splits = {name: _split_facts(split, config.modality_sizes, task) for name, split in dataset.items()}
    scored = [split for split in dataset if f"{split}_{next(iter(metrics))}" in results]
    metadata = ModelCardData(
        model_name=model_name,
        base_model=encoder["hub_id"],
        language="en" if recipe["dataset"] in DATASET_NAMES else None,
        license=encoder["license"] if recipe["dataset"] == "sample" else UNKNOWN_LICENSE,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=[*(TAGS if task.is_sentiment else TAGS[:2]), *config.modality_sizes],
        metrics=sorted({metric.hub_type for metric in metrics.values()}),
        eval_results=_eval_results(results, scored, data, task) or None,
    )
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        architecture=ARCHITECTURES[config.architecture],
        classes=SENTIMENT_CLASSES,
        config=config,
        confusion_plot=records.CONFUSION_PLOT if (output_dir / records.CONFUSION_PLOT).is_file() else None,
        data=data,
        encoder=encoder,
        folder=recipe["hub_model_id"] or shown["output_dir"],
        interval=_interval(config, output_dir, dataset.get("test"), processor),
        judged_by=judging_metric(task, recipe["metric_for_best_model"]),
        label_columns=_label_columns(task),
        label_range=SENTIMENT_RANGE,
        metrics=metrics,
        modalities=_modalities(splits["train"], processor),
        modulation_plot=records.MODULATION_PLOT,
        modulated=has_modulation(records.read_log(output_dir)),
        name=model_name,
        names=list(config.modality_sizes),
        predicted=_predicted(task),
        parts=[SWITCHES[name] for name in switched_on(recipe, len(config.modality_sizes))],
        recipe=shown,
        recipe_yaml=yaml.safe_dump(
            {name: value for name, value in shown.items() if value is not None}, sort_keys=False
        ),
        results=results,
        scored=scored,
        splits=splits,
        task=task,
        training_plot=records.TRAINING_PLOT,
    )


def _eval_results(
    results: dict[str, float], splits: Iterable[str], data: dict[str, str], task: Task
) -> list[EvalResult]:
    """One result for each metric and split; what could not be computed is left out."""
    return [
        EvalResult(
            task_type="text-classification",
            task_name=task.title,
            dataset_type=data["type"],
            dataset_name=data["name"],
            dataset_config=data["format"],
            dataset_split=split,
            metric_type=metric.hub_type,
            metric_name=name,
            metric_value=round(results[f"{split}_{name}"], 4),
        )
        for split in splits
        for name, metric in metrics_of(task).items()
        if math.isfinite(results[f"{split}_{name}"])
    ]


def _encoder(name_or_path: str) -> dict[str, str | None]:
    """The text encoder's name, its id if it came from the Hub, and the licence that its own card states."""
    if name_or_path == "sample":
        return {"name": "sample", "hub_id": None, "license": "apache-2.0"}
    is_folder = Path(name_or_path).is_dir()
    card = Path(name_or_path, CARD_FILE) if is_folder else try_to_load_from_cache(name_or_path, CARD_FILE)
    stated = _metadata(card).get("license") if isinstance(card, str | Path) else None
    return {
        "name": records.without_paths(str(Path(name_or_path).resolve())) if is_folder else name_or_path,
        "hub_id": None if is_folder else name_or_path,
        "license": stated if isinstance(stated, str) else UNKNOWN_LICENSE,
    }


def _tags(card: Path) -> list[str]:
    tags = _metadata(card).get("tags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _metadata(card: str | Path) -> dict[str, Any]:
    """The metadata of anybody's card, which may be missing, broken or without metadata."""
    try:
        return metadata_load(card) or {}
    except Exception:  # whatever PyYAML raises on it
        return {}


def _modalities(train_facts: dict[str, Any], processor: CPSLProcessor) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "size": size,
            "extractor": records.without_paths(processor.feature_extractors.get(name)),
            "standardized": name in processor.feature_statistics,
            "of_utterance": train_facts["of_utterance"][name],
        }
        for name, size in processor.modality_sizes.items()
    ]


def _split_facts(split: Dataset | EncodedStream, modalities: Iterable[str], task: Task) -> dict[str, Any]:
    """What the card says of a split, from one pass over it."""
    num_samples, videos, num_words = 0, set(), 0
    missing, of_utterance = dict.fromkeys(modalities, 0), dict.fromkeys(modalities, True)
    for table in read_columns(split, ["video_id", "words", *modalities]):
        num_samples += len(table)
        videos |= set(table["video_id"].to_pylist())
        num_words += sum(map(len, table["words"].to_pylist()))
        for name in modalities:
            for rows in feature_rows(table[name]):
                missing[name] += not len(rows)
                of_utterance[name] = of_utterance[name] and bool((rows == rows[:1]).all())
    return {
        "samples": num_samples,
        "videos": len(videos),
        "words": num_words,
        "labels": _label_cells(label_values(split, task), task),
        "missing": missing,
        "of_utterance": of_utterance,
    }


def _predicted(task: Task) -> str:
    """What is predicted, in words: numbers with their ranges, or classes."""
    if isinstance(task, NumberTask):
        return ", ".join(f"{scale.name} from {scale.span}" if scale.span else scale.name for scale in scales(task))
    return f"{'one' if isinstance(task, ClassTask) else 'any'} of {', '.join(task.names)}"


def _label_columns(task: Task) -> list[str]:
    """What is said of the labels of each split."""
    if task.is_sentiment:
        return ["label, mean ± deviation", "labelled 0"]
    return [f"{name}, mean ± deviation" if isinstance(task, NumberTask) else name for name in task.names]


def _label_cells(labels: np.ndarray, task: Task) -> list[str]:
    """That of one split: means of numbers, or how many samples have a class."""
    if not isinstance(task, NumberTask):
        return [str(round(share * len(labels))) for share in task.constant(labels)]
    columns = labels.astype(np.float64).reshape(len(labels), -1).T
    cells = [f"{np.mean(column):.2f} ± {np.std(column):.2f}" for column in columns]
    return [*cells, str(int((labels == 0).sum()))] if task.is_sentiment else cells


def _interval(config: Any, output_dir: Path, test: Any, processor: CPSLProcessor) -> dict[str, Any] | None:
    """The calibrated intervals and the share of test labels in them; None for a model that was not calibrated."""
    if config.interval_half_widths is None:
        return None
    task, quantiles = task_of(config), config.interval_half_widths
    interval = {
        "regions": {name: _region_text(task, np.atleast_1d(values)) for name, values in quantiles.items()},
        "coverage": config.interval_coverage,
    }
    if test is not None:
        # A sample with a set of modalities that was not calibrated has no interval.
        sets = modality_sets(test, processor)
        rows = np.array([name in quantiles for name in sets], dtype=bool)
        interval["num_samples"] = int(rows.sum())
        if rows.any():
            scores, labels = scores_and_labels(records.read_predictions(output_dir, "test"), task)
            own = np.array([quantiles[name] for name in sets if name in quantiles])
            interval["measured"] = float(np.mean(task.covered(scores[rows], labels[rows], own)))
    return interval


def _region_text(task: Task, quantiles: np.ndarray) -> str:
    if isinstance(task, NumberTask):
        names = [""] if task.is_one_number else [f"{name} " for name in task.names]
        return ", ".join(f"{name}± {value:.3f}" for name, value in zip(names, quantiles, strict=True))
    return ", ".join(f"p ≥ {1 - value:.3f}" for value in quantiles)


__all__ = ["CARD_FILE", "write_model_card"]
