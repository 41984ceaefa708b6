"""A small corpus and a tiny CPSL model that train in a second; shared by the trainer's tests and their processes."""

import functools
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import gather_object
from datasets import Array2D, Dataset, DatasetDict, Features, List, Value
from shared_run import built_once
from task_cases import relabelled
from tiny_models import fields_of
from transformers import AutoConfig, AutoTokenizer, set_seed

from data_builders.formats.sample import sample_splits
from modeling_cpsl import CPSLDataCollator, CPSLForSentimentRegression, CPSLProcessor
from modeling_cpsl.architectures_cpsl import ARCHITECTURES
from modeling_cpsl.experiments.assembly import label_fields
from modeling_cpsl.experiments.run import evaluate_splits
from modeling_cpsl.experiments.sample_backbone import make_sample_backbone
from modeling_cpsl.training.arguments import CPSLTrainingArguments
from modeling_cpsl.training.checkpoints import last_complete_checkpoint
from modeling_cpsl.training.encoding import encode_dataset
from modeling_cpsl.training.task_metrics import metrics_of
from modeling_cpsl.training.trainer import CPSLTrainer


SIZES = {"acoustic": 74, "visual": 47}
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "encoder_dropout": 0.0,
    "classifier_dropout": 0.0,
}


@functools.cache
def small_corpus(num_samples: int) -> DatasetDict:
    """The first utterances of the sample corpus in the row format, `num_samples` to train and 10 to validate on."""
    features = {"id": Value("string"), "words": List(Value("string")), "label": Value("float32")}
    features = Features(features | {name: Array2D((None, size), "float32") for name, size in SIZES.items()})
    splits = sample_splits(num_utterances=200)
    counts = {"train": num_samples, "validation": 10}
    return DatasetDict(
        {
            name: Dataset.from_list([{key: row[key] for key in features} for row in splits[name][:count]], features)
            for name, count in counts.items()
        }
    )


def small_backbone(num_samples: int) -> Path:
    """A text encoder of one layer whose tokenizer knows the words of the small corpus."""

    def build(folder):
        words = itertools.chain.from_iterable(small_corpus(num_samples)["train"]["words"])
        make_sample_backbone(words, folder / "backbone", hidden_size=16, num_hidden_layers=1)

    return built_once(f"small_backbone_{num_samples}", build) / "backbone"


@functools.cache
def encoded_corpus(
    num_samples: int,
    sizes: tuple[tuple[str, int], ...],
    use_text: bool,
    renamed: tuple[tuple[str, str], ...],
    labels: str,
) -> tuple[DatasetDict, CPSLProcessor]:
    """The small corpus ready to train on, and the processor that encoded it; mappings are given as pairs."""
    tokenizer = AutoTokenizer.from_pretrained(small_backbone(num_samples))
    processor = CPSLProcessor(tokenizer, modality_sizes=dict(sizes), use_text=use_text)
    corpus = relabelled(small_corpus(num_samples).rename_columns(dict(renamed)), labels)
    return encode_dataset(corpus, processor), processor


class RecordingTrainer(CPSLTrainer):
    """A CPSLTrainer that keeps the modulation's statistics and the samples of every step."""

    recorded = ()  # of a model whose modalities are not compared

    def on_modulation(self, statistics):
        super().on_modulation(statistics)
        self.__dict__.setdefault("recorded", []).append({name: value.item() for name, value in statistics.items()})

    def get_batch_samples(self, *args):
        batches, num_items = super().get_batch_samples(*args)
        micro_batches = [batch["micro_batch"] for batch in batches]
        samples = [name for micro_batch in micro_batches for name in micro_batch.ids[: micro_batch.num_samples]]
        self.__dict__.setdefault("samples", []).append(samples)
        return batches, num_items


def check_resumes_bit_for_bit(folder, **options):
    """Trains two epochs of two steps, and again from the checkpoint between them, to the same weights."""
    options |= {"num_train_epochs": 2, "num_samples": 16, "save_strategy": "epoch", "save_total_limit": None}
    whole, resumed = (make_trainer(folder, **options) for _ in range(2))
    whole.train()
    resumed.train(resume_from_checkpoint=str(Path(folder) / "run" / "checkpoint-2"))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name


def make_trainer(
    folder,
    num_samples=30,
    config_fields=None,
    trainer_class=RecordingTrainer,
    renamed=None,
    labels="sentiment",
    **arguments,
):
    """A trainer over the small corpus with `labels` of a kind; `config_fields` are the model's."""
    defaults = {
        "output_dir": str(Path(folder) / "run"),
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "seed": 3,
    }
    args = CPSLTrainingArguments(**{**defaults, **arguments})
    fields = config_fields or {}
    sizes = fields.get("modality_sizes", SIZES)
    pairs = tuple(sizes.items()), fields.get("use_text", True), tuple((renamed or {}).items()), labels
    encoded, processor = encoded_corpus(num_samples, *pairs)
    architecture = fields.get("architecture", "cpsl")
    processor.word_starts = ARCHITECTURES[architecture].reads_word_starts
    backbone = small_backbone(num_samples)
    small = {"modality_hidden_size": 12, "latent_size": 8, "fusion_size": 10, **NO_DROPOUT}
    small = fields_of(architecture, small)
    config = CPSLForSentimentRegression.config_class.from_backbone(
        AutoConfig.from_pretrained(backbone),
        **{"modality_sizes": sizes, **small, **label_fields(encoded["train"], args.class_weights), **fields},
    )
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(config, name, 0.0)
    set_seed(args.seed)
    return trainer_class(
        CPSLForSentimentRegression.from_pretrained(backbone, config=config),
        args,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        data_collator=CPSLDataCollator(processor),
        processing_class=processor,
    )


def train_and_record(folder, **options):
    """Trains and returns the weights and each step's modulation statistics."""
    trainer = make_trainer(folder, **options)
    trainer.train()
    weights = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
    return weights, trainer.recorded


def relative_distance(one, other):
    """Distance of two whole weight vectors over the length of the first."""
    one = torch.cat([value.double().flatten() for name, value in sorted(one.items()) if value.is_floating_point()])
    other = torch.cat([value.double().flatten() for name, value in sorted(other.items()) if value.is_floating_point()])
    return ((one - other).norm() / one.norm()).item()


def coefficients(steps):
    return np.array([[step["coefficient_acoustic"], step["coefficient_visual"]] for step in steps])


def run_and_record(folder, resume=False, **options):
    """One process's part of a training and an evaluation; what the first process has seen, None in the others."""
    trainer = make_trainer(folder, **options)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(trainer.args.output_dir) if resume else None)
    metrics = trainer.evaluate()
    evaluate_splits(trainer, {"eval": trainer.eval_dataset})  # writes the table of predictions
    samples = gather_object([trainer.samples])
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return None
    return {
        "weights": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "steps": trainer.recorded,
        "samples": [list(itertools.chain(*ranks)) for ranks in zip(*samples, strict=True)],
        "log": [row for row in trainer.state.log_history if not any("runtime" in name for name in row)],
        "metrics": metrics,
        "figures": {name: metrics[f"eval_{name}"] for name in metrics_of(trainer.model.task)},
        "num_processes": trainer.accelerator.num_processes,
    }


def main(folder, runs):
    """One process of a launch: makes the trainings that `runs` names, one after the other, and writes their records.

    Args:
        folder: Holds a folder for each training, and `records.pt` in the end.
        runs: JSON of `{name: options of make_trainer}`.
    """
    folder = Path(folder)
    records = {name: run_and_record(folder / name, **options) for name, options in json.loads(runs).items()}
    if None not in records.values():
        torch.save(records, folder / "records.pt")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
