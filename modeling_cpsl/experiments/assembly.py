"""From a recipe to a trainer: data, processor and model, put together and checked."""

import itertools
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from datasets import DatasetDict, IterableDatasetDict
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from data_builders import features_are_normalized, load_aligned_dataset
from data_builders.columns import feature_extractors, modality_rows, modality_sizes, read_columns

from ..configuration_cpsl import CPSLConfigMixin
from ..modeling_cpsl import CPSL_MODELS
from ..processing_cpsl import CPSLProcessor
from ..training.checkpoints import last_complete_checkpoint
from ..training.collation import CPSLDataCollator
from ..training.encoding import compute_feature_statistics, encode_dataset
from ..training.trainer import CPSLTrainer
from .recipe import DataArguments, parse_arguments, recipe_of
from .records import TrainingLog
from .sample_backbone import make_sample_backbone


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
        if next(read_columns(split, ["id"]), None) is None:
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
    options = {option.name for option in fields(CPSLConfigMixin)} & asdict(arguments).keys()
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
                rows = (
                    row for table in read_columns(dataset["train"], ["words"]) for row in table["words"].to_pylist()
                )
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
            callbacks=[TrainingLog(config)],
        )
    except (ImportError, RuntimeError) as error:  # report_to or optim of a package that is not there
        raise ValueError(str(error)) from error
    except HTTPError as error:
        raise ValueError(f"push_to_hub: the repository cannot be made: {error}") from error
    if training_arguments.resume_from_checkpoint == "last":
        training_arguments.resume_from_checkpoint = last_complete_checkpoint(training_arguments.output_dir)
    return trainer, encoded, config
