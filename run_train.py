"""Train and evaluate CPSL: `python run_train.py RECIPE.yaml [--field value ...]`, or under `accelerate launch`.

A recipe is a YAML file of the options below; options on the command line override it.
"""

import argparse
import itertools
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from datasets import DatasetDict, IterableDatasetDict
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from data_builders import features_are_normalized, load_aligned_dataset
from modeling_cpsl import CPSLDataCollator, CPSLProcessor, CPSLTrainer, CPSLTrainingArguments, reporting
from modeling_cpsl.checkpoints import last_complete_checkpoint, replacing_files
from modeling_cpsl.collation import (
    compute_feature_statistics,
    encode_dataset,
    feature_extractors,
    modality_rows,
    modality_sets,
    modality_sizes,
)
from modeling_cpsl.configuration_cpsl import CPSLFields
from modeling_cpsl.model_card import write_model_card
from modeling_cpsl.modeling_cpsl import CPSL_MODELS
from modeling_cpsl.sample_backbone import make_sample_backbone
from modeling_cpsl.streaming import tables
from modeling_cpsl.training_args import is_better_if_greater
from modeling_cpsl.uncertainty_cpsl import DEFAULT_COVERAGE, conformal_half_widths


MODEL_CARD_TEMPLATE = Path(__file__).resolve().parent / "model_cards" / "template.md"
SWITCHES = ("ame", "gm", "ge", "cp", "sl")
# Options that belong to one start of a run and not to the recipe that repeats it; tokens are not shown at all.
NOT_REPEATED = ("resume_from_checkpoint", "hub_token")

# The rows of the paper's table 2 and what is on in each (METHOD 11).
ABLATIONS = {
    "A0": "",
    "A1": "ame",
    "A2": "ame gm",
    "A3": "ame gm ge",
    "A4": "ame gm ge cp",
    "A5": "ame gm ge sl",
    "A6": "ame gm ge cp sl",
    "B1": "ame",
    "B2": "gm",
    "B3": "sl",
    "B4": "gm ge",
    "B5": "gm cp",
    "C1": "gm ge cp",
    "C2": "ame sl",
    "C3": "ame gm",
    "C4": "ame gm ge sl",
    "C5": "ame gm cp sl",
}


@dataclass
class DataArguments:
    """Where the data comes from and how it is prepared."""

    _argument_group_name = "data"

    dataset: str = field(
        default="sample",
        metadata={"help": "`sample` (made on the spot), `mosi`, `mosei`, or a file or folder of a known format."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Where the files of `mosi` and `mosei` are."})
    modalities: str | None = field(
        default=None,
        metadata={
            "help": "Comma-separated: text, acoustic, visual, timing (from word times) or any that the data has. "
            "Default: text and all that the data has."
        },
    )
    feature_sequences: list[str] | None = field(
        default=None,
        metadata={"help": "modality=NAME pairs that say which computational sequence is which modality."},
    )
    standardize_features: str = field(
        default="auto",
        metadata={
            "help": "Standardise feature columns with the training split's statistics; auto: where the source has "
            "not normalised them.",
            "choices": ["auto", "true", "false"],
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read samples while they are used, without a cache and, from Parquet, in constant memory; they "
            "are shuffled in a buffer. The data is read once more before training, to count it."
        },
    )
    max_length: int = field(default=50, metadata={"help": "Longest input in subwords, special tokens included."})


def _command_line_type(annotation: Any) -> Any:
    return float if annotation == float | int else annotation


# What the data or a calibration decides is no option of the command line.
DECIDED_FIELDS = ("modality_sizes", "use_text", "interval_half_widths", "interval_coverage")
ModelArguments = make_dataclass(
    "ModelArguments",
    [
        (
            "model_name_or_path",
            str,
            field(
                default="microsoft/deberta-v3-base",
                metadata={"help": "DeBERTa-v2/v3, BERT or MPNet: folder or Hub id; `sample` is a small random one."},
            ),
        ),
        (
            "ablation",
            str | None,
            field(
                default=None,
                metadata={"help": f"Row of the paper's table 2, sets {' '.join(SWITCHES)}.", "choices": [*ABLATIONS]},
            ),
        ),
        *(
            (option.name, _command_line_type(option.type), field(default=option.default, metadata=option.metadata))
            for option in fields(CPSLFields)
            if option.name not in DECIDED_FIELDS
        ),
    ],
    namespace={"_argument_group_name": "model"},
)


def parse_arguments(arguments: Sequence[str]) -> tuple[DataArguments, Any, CPSLTrainingArguments]:
    """Reads a recipe and options; raises ValueError for what is in the recipe and no option."""
    CPSLTrainingArguments._argument_group_name = "training"
    parser = HfArgumentParser((DataArguments, ModelArguments, CPSLTrainingArguments), description=__doc__)
    parser.usage = "run_train.py [RECIPE.yaml] [--field value ...]"
    recipe: list[str] = []
    if arguments and not arguments[0].startswith("-"):
        recipe, arguments = _recipe_options(arguments[0], parser), arguments[1:]
    return parser.parse_args_into_dataclasses(args=[*_with_ablation(recipe), *_with_ablation(arguments)])


def _with_ablation(options: Sequence[str]) -> list[str]:
    """An ablation's switches stand before the other options of its source, which override them."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--ablation")
    row = parser.parse_known_args(options)[0].ablation
    if row not in ABLATIONS:
        return [*options]
    switched_on = ABLATIONS[row].split()
    switches = [(f"--{switch}", json.dumps(switch in switched_on)) for switch in SWITCHES]
    return [*itertools.chain(*switches), *options]


def _recipe_options(path: str, parser: HfArgumentParser) -> list[str]:
    """A recipe's entries as command line options, so that one parser converts and checks both."""
    try:
        recipe = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a readable YAML recipe: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: a recipe is a YAML mapping of options to values")
    known = {action.dest: action for action in parser._actions}
    options: list[str] = []
    for name, value in recipe.items():
        if name == "versions":
            continue
        if name not in known:
            raise ValueError(f"{path}: {name!r} is no option; see run_train.py --help")
        if value is None and known[name].default is not None:
            raise ValueError(f"{path}: {name} cannot be null; leave it out for {known[name].default}, or give a value")
        if value is None or value == []:
            continue
        if value is False and name.endswith("_strategy"):  # YAML's word for `no`
            value = "no"
        if isinstance(value, list) and known[name].nargs is None:
            value = ",".join(map(str, value))
        if isinstance(value, list):
            options += [f"--{name}", *map(str, value)]
        else:
            options += [f"--{name}", json.dumps(value) if isinstance(value, dict | bool) else str(value)]
    return options


def load_data(arguments: DataArguments) -> tuple[DatasetDict | IterableDatasetDict, bool]:
    """Loads the splits with the modalities asked for; says whether the model reads text."""
    names = None if arguments.modalities is None else [name.strip() for name in arguments.modalities.split(",")]
    use_text = names is None or "text" in names
    pairs = [pair.partition("=") for pair in arguments.feature_sequences or []]
    for name, _, sequence in pairs:
        if not name or not sequence:
            raise ValueError(f"feature_sequences: {name or sequence!r} is no modality=NAME, such as acoustic=COVAREP")
    dataset = load_aligned_dataset(
        arguments.dataset,
        data_dir=arguments.data_dir,
        modalities=None if names is None else [name for name in names if name != "text"],
        feature_sequences={name: sequence for name, _, sequence in pairs} or None,
        streaming=arguments.streaming,
    )
    if "train" not in dataset:
        raise ValueError(f"{arguments.dataset}: there is no train split; it has {', '.join(dataset)}")
    for name, split in dataset.items():
        if next(tables(split), None) is None:
            raise ValueError(f"{arguments.dataset}: the {name} split is empty; give it samples or leave it out")
    return dataset, use_text


def build_processor(
    arguments: DataArguments,
    dataset: DatasetDict | IterableDatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    use_text: bool,
) -> CPSLProcessor:
    """The processor for this data, with the training split's feature statistics where they are needed."""
    train = dataset["train"]
    sizes = modality_sizes(train)
    standardize = {"auto": not features_are_normalized(train.info.config_name), "true": True, "false": False}
    statistics = None
    if standardize[arguments.standardize_features]:
        statistics = {name: compute_feature_statistics(modality_rows(train, name)) for name in sizes}
    return CPSLProcessor(
        tokenizer,
        modality_sizes=sizes,
        feature_statistics=statistics,
        max_length=arguments.max_length,
        use_text=use_text,
        feature_extractors=feature_extractors(train),
    )


def load_backbone(name_or_path: str, max_length: int) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The text encoder's configuration and tokenizer; ValueError for what CPSL does not stand on."""
    try:
        backbone, tokenizer = AutoConfig.from_pretrained(name_or_path), AutoTokenizer.from_pretrained(name_or_path)
    except (ValueError, OSError) as error:
        raise ValueError(f"model_name_or_path {name_or_path}: {error}") from error
    if backbone.model_type not in CPSL_MODELS:
        raise ValueError(
            f"{name_or_path}: model_type {backbone.model_type!r} is no text encoder that CPSL stands on "
            f"({', '.join(CPSL_MODELS)})"
        )
    # Where its files are missing, transformers makes a tokenizer that knows no word.
    if not backbone.vocab_size / 2 < len(tokenizer) <= backbone.vocab_size:
        raise ValueError(
            f"model_name_or_path {name_or_path}: its tokenizer has {len(tokenizer)} entries and the text encoder "
            f"{backbone.vocab_size}; put the encoder's own tokenizer files there"
        )
    longest = _longest_input(backbone)
    if max_length > longest:
        raise ValueError(f"max_length={max_length} is above the {longest} positions of {name_or_path}")
    return backbone, tokenizer


def _longest_input(backbone: PreTrainedConfig) -> float:
    """Length in subwords that an encoder's position embeddings reach; DeBERTa-v3 has none."""
    if backbone.model_type == "deberta-v2" and not backbone.position_biased_input:
        return math.inf
    # MPNet counts positions from behind its padding's.
    return backbone.max_position_embeddings - (2 if backbone.model_type == "mpnet" else 0)


def build_model(
    arguments: Any, processor: CPSLProcessor, backbone: PreTrainedConfig, name_or_path: str
) -> PreTrainedModel:
    """The CPSL model over the checkpoint's text encoder; ValueError where that is not all in the checkpoint."""
    model_class = CPSL_MODELS[backbone.model_type]
    options = {option.name for option in fields(CPSLFields)} & asdict(arguments).keys()
    config = model_class.config_class.from_backbone(
        backbone,
        modality_sizes=processor.modality_sizes,
        use_text=processor.use_text,
        **{name: getattr(arguments, name) for name in options},
    )
    # An fp16 checkpoint would otherwise make the new modules fp16 too.
    try:
        model, info = model_class.from_pretrained(
            name_or_path, config=config, dtype="float32", ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (OSError, SafetensorError) as error:
        raise ValueError(f"model_name_or_path {name_or_path}: its weights cannot be read: {error}") from error
    # transformers fills what a checkpoint lacks with random numbers: an encoder that silently was not pretrained.
    unfit = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    unfit = sorted(name for name in unfit if name.startswith(f"{model.base_model_prefix}."))
    if unfit and processor.use_text:
        raise ValueError(
            f"model_name_or_path {name_or_path}: {len(unfit)} tensors of the text encoder are missing in its weights "
            f"or have another size, the first is {unfit[0]}; get the whole checkpoint of a {backbone.model_type}"
        )
    return model


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
            reporting.write_predictions(
                [sample_id for table in tables(split, ["id"]) for sample_id in table["id"].to_pylist()],
                result.label_ids,
                predictions,
                unimodal_predictions,
                output_dir / f"predictions_{name}.parquet",
            )
    return metrics


def calibrate(trainer: CPSLTrainer, split: Any, output_dir: Path) -> None:
    """Fits the model's prediction intervals on the validation split, which trained no weight, and saves them."""
    validation = pd.read_parquet(output_dir / "predictions_validation.parquet")
    config = trainer.accelerator.unwrap_model(trainer.model).config
    try:
        config.interval_half_widths = conformal_half_widths(
            validation["prediction"].clip(-3, 3), validation["label"], modality_sets(split, trainer.processing_class)
        )
    except ValueError as error:
        print(f"the model has no prediction interval: {error}", file=sys.stderr)
        return
    config.interval_coverage = DEFAULT_COVERAGE
    with replacing_files(output_dir) as folder:
        config.save_pretrained(folder)


def report(trainer: CPSLTrainer, metrics: dict[str, float], config: dict[str, Any], dataset: dict[str, Any]) -> None:
    """Calibrates, writes results, resolved recipe, plots and the model card, and prints the table."""
    output_dir, history = Path(trainer.args.output_dir), trainer.state.log_history
    if "validation" in dataset:
        calibrate(trainer, dataset["validation"], output_dir)
    reporting.write_resolved_config(config, output_dir)
    reporting.plot_training_dynamics(history, output_dir / "training_dynamics.png")
    if reporting.has_modulation(history):
        reporting.plot_modulation(history, output_dir / "modulation.png")
    reporting.write_results(metrics, output_dir)
    write_model_card(output_dir, dataset, MODEL_CARD_TEMPLATE)
    splits = [name for name in dataset if name != "train"]
    if splits:
        print(reporting.results_table(metrics, splits))
    print(f"model, results, predictions and plots are in {output_dir}")


def recipe_of(
    data_arguments: DataArguments, model_arguments: Any, training_arguments: CPSLTrainingArguments
) -> dict[str, Any]:
    """The options as they were given; what follows from others is None, to follow them in a repetition too."""
    options = asdict(data_arguments) | asdict(model_arguments) | training_arguments.to_dict()
    metric = options["metric_for_best_model"]
    if metric is not None and options["greater_is_better"] == is_better_if_greater(metric):
        options["greater_is_better"] = None
    return {name: value for name, value in options.items() if name not in NOT_REPEATED}


def push(trainer: CPSLTrainer) -> None:
    """Uploads the run's folder; ValueError where that fails, when everything else is done."""
    try:
        trainer.push_to_hub()
    except (HTTPError, OSError, ValueError) as error:
        command = f"hf upload {trainer.hub_model_id} {trainer.args.output_dir} --exclude 'checkpoint-*'"
        raise ValueError(f"push_to_hub: {error}; the run itself is whole, push it with `{command}`") from error


def prepare(arguments: Sequence[str]) -> tuple[CPSLTrainer, dict[str, Any], dict[str, Any]]:
    """From arguments to a trainer, the encoded data and the resolved recipe."""
    data_arguments, model_arguments, training_arguments = parse_arguments(arguments)
    set_seed(training_arguments.seed)
    with training_arguments.main_process_first(desc="data"):
        dataset, use_text = load_data(data_arguments)
        name_or_path = model_arguments.model_name_or_path
        if name_or_path == "sample":
            name_or_path = os.path.join(training_arguments.output_dir, "sample_backbone")
            if training_arguments.local_process_index == 0:  # another would write what this one already reads
                rows = (row for table in tables(dataset["train"], ["words"]) for row in table["words"].to_pylist())
                make_sample_backbone(itertools.chain.from_iterable(rows), name_or_path)
        backbone, tokenizer = load_backbone(name_or_path, data_arguments.max_length)
        processor = build_processor(data_arguments, dataset, tokenizer, use_text)
        seed = training_arguments.seed if training_arguments.data_seed is None else training_arguments.data_seed
        encoded = encode_dataset(dataset, processor, seed=seed)
    config = recipe_of(data_arguments, model_arguments, training_arguments)
    if data_arguments.streaming:  # it is read forward, and shuffled already
        training_arguments.train_sampling_strategy = "sequential"
    if "validation" not in encoded:
        training_arguments.eval_strategy, training_arguments.load_best_model_at_end = "no", False
        print("no validation split: the last epoch's model is kept instead of the best one's", file=sys.stderr)
    model = build_model(model_arguments, processor, backbone, name_or_path)
    try:
        trainer = CPSLTrainer(
            model,
            training_arguments,
            train_dataset=encoded["train"],
            eval_dataset=encoded.get("validation"),
            data_collator=CPSLDataCollator(processor),
            processing_class=processor,
            callbacks=[reporting.TrainingLog(config)],
        )
    except (ImportError, RuntimeError) as error:  # report_to or optim of a package that is not there
        raise ValueError(str(error)) from error
    except HTTPError as error:
        raise ValueError(f"push_to_hub: the repository cannot be made: {error}") from error
    if training_arguments.resume_from_checkpoint == "last":
        training_arguments.resume_from_checkpoint = last_complete_checkpoint(training_arguments.output_dir)
    return trainer, encoded, config


def check_checkpoint(checkpoint: str, trainer: CPSLTrainer, config: dict[str, Any]) -> None:
    """Refuses to go on from a model of another shape, and warns of options that the run had otherwise."""
    if not Path(checkpoint, TRAINER_STATE_NAME).is_file():
        raise ValueError(f"resume_from_checkpoint {checkpoint}: no whole checkpoint; name a checkpoint-N, or `last`")
    model_config = trainer.model.config
    before = type(model_config).from_pretrained(checkpoint)
    for option in fields(CPSLFields):
        one, other = getattr(before, option.name), getattr(model_config, option.name)
        if one != other:
            raise ValueError(f"{checkpoint} was trained with {option.name}={one}, and this run has {other}")
    earlier = reporting.read_resolved_config(checkpoint)
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


if __name__ == "__main__":
    main(sys.argv[1:])
