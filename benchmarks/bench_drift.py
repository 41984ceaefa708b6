"""How far `cpsl export` moves the predictions of a trained model on its validation split, with and without `--int8`.

`python benchmarks/bench_drift.py [--run FOLDER] [--quick] [--json OUT]`. FOLDER is what `cpsl train` has left, with
the data of its recipe in place; without one, the model has random weights and utterances have random labels.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from measuring import parse_arguments, report
from setting import as_dataset, make_cpsl, make_processor, make_utterances

from modeling_cpsl import CPSLDataCollator, compute_sentiment_metrics
from modeling_cpsl.experiments.assembly import load_data
from modeling_cpsl.experiments.export import export_model
from modeling_cpsl.experiments.loading import load_pipeline
from modeling_cpsl.experiments.recipe import read_recipe
from modeling_cpsl.experiments.records import CONFIG_FILE
from modeling_cpsl.training.encoding import encode_dataset


BATCH_SIZE = 32


def load_run(folder: Path) -> tuple[Any, Any, Any]:
    """The model of a run, its processor and its encoded validation split."""
    sentiment = load_pipeline(str(folder), device="cpu")
    dataset = load_data(read_recipe(folder / CONFIG_FILE).data)
    return sentiment.model, sentiment.processor, encode_dataset(dataset, sentiment.processor)["validation"]


def make_random(folder: Path) -> tuple[Any, Any, Any]:
    """A model with random weights, a processor, and utterances."""
    return make_cpsl(quick=True).eval(), make_processor(folder / "tokenizer"), as_dataset(make_utterances(32))


def as_flat(batch: dict[str, Any], model: Any) -> dict[str, np.ndarray]:
    """A batch as the inputs of an exported model."""
    names = ["attention_mask", "feature_mask", *model.config.modality_sizes]
    given = batch | batch.get("extra_features", {})
    inputs = {name: given[name].numpy() for name in names + ["input_ids"] * model.config.use_text}
    present = batch.get("modality_mask", {})
    everyone = torch.ones(len(batch["labels"]), dtype=torch.bool)
    return inputs | {f"has_{name}": present.get(name, everyone).numpy() for name in model.modality_names}


def main() -> None:
    """Measures and reports."""
    options = parse_arguments(__doc__, files=("run",))
    folder = Path(tempfile.mkdtemp(prefix="bench-drift-"))
    model, processor, split = make_random(folder) if options.run is None else load_run(options.run)
    as_extracted = copy.copy(processor)  # an exported model standardises the features itself
    as_extracted.feature_statistics = {}
    files = {"exported": folder / "model.onnx", "exported, int8": folder / "int8.onnx"}
    for name, file in files.items():
        export_model(model, processor, file, int8="int8" in name)
    sessions = {name: onnxruntime.InferenceSession(file) for name, file in files.items()}

    predictions: dict[str, list[np.ndarray]] = {name: [] for name in ("ours", *sessions)}
    labels = []
    for start in range(0, len(split), BATCH_SIZE):
        rows = [split[index] for index in range(start, min(start + BATCH_SIZE, len(split)))]
        batch = CPSLDataCollator(processor)(rows)
        labels.append(batch.pop("labels").numpy())
        with torch.no_grad():
            predictions["ours"].append(model(**batch).logits.numpy())
        inputs = as_flat(CPSLDataCollator(as_extracted)(rows), model)
        for name, session in sessions.items():
            predictions[name].append(session.run(["logits"], inputs)[0])

    rows = {}
    for name, values in predictions.items():
        metrics = compute_sentiment_metrics(np.concatenate(values), np.concatenate(labels))
        difference = np.abs(np.concatenate(values) - np.concatenate(predictions["ours"]))
        rows[name] = {metric: metrics[metric] for metric in ("mae", "corr", "acc2_nonzero", "acc7")}
        rows[name] |= {"mean_difference": float(difference.mean()), "largest_difference": float(difference.max())}
    change = rows["exported, int8"]["mae"] - rows["ours"]["mae"]
    report(f"Predictions of {len(split)} utterances", rows, {"mae_change": abs(change)}, options.json)


if __name__ == "__main__":
    main()
