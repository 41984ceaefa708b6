"""Boundaries that take what a training or a prediction has left: a recipe, a model, a checkpoint, a journal."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from boundaries import Boundary, file_content
from mutations import ODD_ARRAYS
from safetensors.numpy import load_file
from tiny_models import SAMPLE_WORDS, SIZES, make_model
from training_cases import make_trainer
from transformers import AutoTokenizer

from modeling_cpsl.experiments import prediction
from modeling_cpsl.experiments.assembly import build_model, load_backbone
from modeling_cpsl.experiments.prediction import predict_table
from modeling_cpsl.experiments.recipe import RECIPES, read_recipe
from modeling_cpsl.experiments.run import check_checkpoint
from modeling_cpsl.experiments.sample_backbone import make_sample_backbone
from modeling_cpsl.processing_cpsl import CPSLProcessor


def boundary(name):
    """The boundary of this name."""
    make = {"recipe": _recipe, "model": _model, "backbone": _backbone, "checkpoint": _checkpoint, "journal": _journal}
    return make[name]()


def _recipe():
    def read(folder):
        read_recipe(folder / "recipe.yaml", output_dir=str(folder))

    packaged = yaml.safe_load((RECIPES / "sample.yaml").read_text())
    return Boundary([{"recipe.yaml": packaged}, {"recipe.yaml": read_recipe("sample").resolved()}], read)


def _model_files():
    """A tiny model with all that a processor and a calibration can add."""
    with tempfile.TemporaryDirectory() as folder:
        backbone = make_sample_backbone(SAMPLE_WORDS, Path(folder, "backbone"), hidden_size=8)
        tokenizer = AutoTokenizer.from_pretrained(backbone)
        model = make_model(vocab_size=len(tokenizer), num_hidden_layers=1)
        model.set_calibration({"acoustic+text+visual": 0.5, "text": 1.0}, 0.9)
        statistics = {name: {"mean": [0.0] * size, "std": [1.0] * size} for name, size in SIZES.items()}
        processor = CPSLProcessor(tokenizer, SIZES, statistics, max_length=20, feature_extractors={"visual": "FACET"})
        for part in (model, processor):
            part.save_pretrained(Path(folder, "model"))
        files = [path for path in Path(folder, "model").iterdir() if path.suffix in (".json", ".safetensors")]
        return {path.name: _value(path) for path in files}


def _write(folder, files):
    for name, value in files.items():
        Path(folder, name).write_bytes(file_content(name, value))
    return folder


def _data():
    """A table of three utterances."""
    features = {name: np.ones((3, size)).tolist() for name, size in SIZES.items()}
    rows = [{"id": f"v_{k}", "words": ["great", "movie", f"x{k}"], **features} for k in range(3)]
    return f"{_write(tempfile.mkdtemp(), {'data.jsonl': rows})}/data.jsonl"


def _model():
    def read(folder):
        predict_table(str(folder), data, f"{folder}.jsonl", device="cpu", explain=True, num_samples=2)

    data = _data()
    return Boundary([_model_files()], read, tuple(ODD_ARRAYS))


def _journal():
    def read(folder):
        (out,) = (path for path in folder.iterdir() if path.stem == "out")
        predict_table(model, data, out, device="cpu")

    # The model is never damaged, and loading it takes most of a prediction.
    prediction.load_pipeline = functools.cache(prediction.load_pipeline)
    model, data = _write(tempfile.mkdtemp(), _model_files()), _data()
    out = Path(tempfile.mkdtemp(), "out.jsonl")
    predict_table(model, data, out, device="cpu")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    unknown = {"id", "split", "label", "error"}
    journal = [{name: value for name, value in row.items() if name not in unknown} for row in rows[:2]]
    folders = [
        {f"out.{suffix}": rows[1:], f"out.{suffix}.partial.jsonl": journal} for suffix in ("jsonl", "csv", "parquet")
    ]
    return Boundary(folders, read)


def _backbone():
    arguments = read_recipe("sample").model

    def read(folder):
        backbone, tokenizer, _ = load_backbone(str(folder), max_length=20)
        build_model(arguments, CPSLProcessor(tokenizer, SIZES), backbone, str(folder))

    return Boundary([_model_files()], read, tuple(ODD_ARRAYS))


def _checkpoint():
    def read(folder):
        trainer = make_trainer(run, **options, max_steps=3)
        check_checkpoint(str(folder), trainer, {})
        trainer.train(resume_from_checkpoint=str(folder))

    run = tempfile.mkdtemp()
    # of a model that has something to be remembered of each sample
    options = {"num_samples": 16, "per_device_train_batch_size": 4, "config_fields": {"architecture": "self_mm"}}
    make_trainer(run, **options, max_steps=2, save_strategy="steps", save_steps=2).train()
    checkpoint = Path(run, "run", "checkpoint-2")
    unread = {"training_args.bin", *(path.name for path in checkpoint.glob("*_cpsl.py"))}
    unread |= {path.name for path in checkpoint.glob("*token*")} | {"processor_config.json"}
    files = {path.name: _value(path) for path in checkpoint.iterdir() if path.name not in unread}
    return Boundary([files], read, (torch.zeros(3), torch.full((2,), torch.nan), torch.ones(2, dtype=torch.uint8)))


def _value(path):
    """What a file holds, as a structure that can be damaged."""
    read = {".json": lambda path: json.loads(path.read_text()), ".safetensors": load_file}
    return read.get(path.suffix, lambda path: torch.load(path, weights_only=False))(path)
