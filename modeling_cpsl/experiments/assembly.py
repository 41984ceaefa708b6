"""From a recipe to a trainer: data, processor and model, put together and checked."""

import contextlib
import copy
import itertools
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from huggingface_hub.errors import HTTPError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DebertaV2Config,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from data_builders import features_are_normalized, load_aligned_dataset
from data_builders.columns import feature_extractors, modality_rows, modality_sizes, read_columns
from data_builders.cross_validation import cross_validation_splits, share_of_groups
from data_builders.files import broken_files_are_data_errors, check_path_or_hub_id, counted
from data_builders.leaks import leak_search

from ..architectures_cpsl import ARCHITECTURES
from ..configuration_cpsl import CPSLConfigMixin, check_tokenizer
from ..modeling_cpsl import CPSL_MODELS
from ..processing_cpsl import CPSLProcessor
from ..training.collation import CPSLDataCollator
from ..training.encoding import compute_feature_statistics, encode_dataset
from ..training.labels import balanced_class_weights
from ..training.trainer import CPSLTrainer
from .console import without_loading_reports
from .continuation import kept_and_new, kept_statistics, restart_bounds
from .data_arguments import DataArguments
from .label_formats import task_fields, task_of_fields
from .loading import NO_FOREIGN_CODE, check_claimed_size
from .recipe import Recipe
from .records import SAMPLE_BACKBONE_FOLDER, TrainingLog
from .sample_backbone import make_sample_backbone


logger = logging.getLogger(__name__)

# What `report_to` names that an extra of this package installs.
REPORTERS = ("tensorboard", "trackio", "wandb")


def load_data(arguments: DataArguments) -> DatasetDict | IterableDatasetDict:
    """Loads the splits with the modalities asked for; ValueError where there is nothing to train on."""
    if arguments.fold is not None and arguments.streaming:
        raise ValueError("fold: a stream cannot be cut into folds; leave --streaming or --fold out")
    if arguments.fold_seed is not None and arguments.fold_seed < 0:
        raise ValueError(f"fold_seed={arguments.fold_seed} must be at least 0")
    if arguments.train_share != 1 and arguments.streaming:
        raise ValueError("train_share: no part of a stream can be taken; leave --streaming or --train_share out")
    dataset = load_aligned_dataset(
        arguments.dataset,
        data_dir=arguments.data_dir,
        format=arguments.format,
        modalities=arguments.modality_names,
        labels=arguments.label_columns,
        label_kind=arguments.label_kind,
        label_range=arguments.label_range,
        labels_of_all_splits=arguments.fold is not None,
        feature_sequences=arguments.sequences_by_modality,
        streaming=arguments.streaming,
        group=arguments.fold_group,
    )
    if arguments.fold_and_number is not None:
        group, seed = arguments.fold_group, arguments.fold_seed
        dataset = cross_validation_splits(dataset, *arguments.fold_and_number, group=group, seed=seed)
    if not arguments.test_split:
        dataset.pop("test", None)
    if "train" not in dataset:
        raise ValueError(
            f"{arguments.dataset}: there is no train split, it has {', '.join(dataset)}; cut it anew with --fold 0/5"
        )
    for name, split in dataset.items():
        if next(read_columns(split, ["id"]), None) is None:
            raise ValueError(f"{arguments.dataset}: the {name} split is empty; give it samples or leave it out")
    if arguments.train_share != 1:
        dataset["train"] = share_of_groups(dataset["train"], arguments.train_share, group=arguments.fold_group)
    return dataset


def build_processor(
    arguments: DataArguments,
    dataset: DatasetDict | IterableDatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    trained: CPSLProcessor | None = None,
    *,
    word_starts: bool = False,
) -> CPSLProcessor:
    """The processor for this data, with the training split's feature statistics where they are needed.

    Args:
        arguments: How the data is prepared.
        dataset: The data.
        tokenizer: The text encoder's.
        trained: The processor of a CPSL model that is trained further, whose statistics are kept where they hold.
        word_starts: Whether the model reads one feature row a word.
    """
    train = dataset["train"]
    sizes, extractors = modality_sizes(train), feature_extractors(train)
    standardize = {"auto": not features_are_normalized(train.info.config_name), "true": True, "false": False}
    statistics = None
    if standardize[arguments.standardize_features]:
        statistics = {} if trained is None else kept_statistics(trained, sizes, extractors)
        for name in [name for name in sizes if name not in statistics]:
            if not any(map(len, modality_rows(train, name))):
                rest = [
                    other for other in ("text", *sizes) if other != name and (other != "text" or arguments.use_text)
                ]
                raise ValueError(
                    f"{arguments.dataset}: no training sample has {name} features; leave them out with --modalities "
                    f"{','.join(rest)}"
                )
            statistics[name] = compute_feature_statistics(modality_rows(train, name))
    return CPSLProcessor(
        tokenizer,
        modality_sizes=sizes,
        feature_statistics=statistics,
        max_length=arguments.max_length,
        use_text=arguments.use_text,
        feature_extractors=extractors,
        word_starts=word_starts,
    )


def load_backbone(
    name_or_path: str, max_length: int
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, CPSLProcessor | None]:
    """The text encoder's configuration and tokenizer, and the processor if it is that of a CPSL model.

    Raises:
        ValueError: CPSL has no model over such an encoder, or a file of it cannot be read.
    """
    check_path_or_hub_id(name_or_path)
    with _broken_models_are_errors(name_or_path):
        backbone = AutoConfig.from_pretrained(name_or_path, **NO_FOREIGN_CODE)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **NO_FOREIGN_CODE)
        is_trained = isinstance(backbone, CPSLConfigMixin)
        trained = CPSLProcessor.from_pretrained(name_or_path, **NO_FOREIGN_CODE) if is_trained else None
    if _model_class(backbone) is None:
        raise ValueError(
            f"model_name_or_path {name_or_path}: CPSL has no model over a text encoder of model_type "
            f"{backbone.model_type!r}; choose one of {', '.join(CPSL_MODELS)}"
        )
    check_tokenizer(tokenizer, backbone.vocab_size, f"model_name_or_path {name_or_path}")
    longest = _longest_input(backbone)
    if max_length > longest:
        raise ValueError(
            f"max_length={max_length} is above the {longest} positions of {name_or_path}; give at most {longest}"
        )
    return backbone, tokenizer, trained


def _broken_models_are_errors(name_or_path: str) -> contextlib.AbstractContextManager[None]:
    way_out = "name the folder or Hub id of a text encoder, or get it again"
    return broken_files_are_data_errors(f"model_name_or_path {name_or_path}", "text encoder", way_out)


def _model_class(backbone: PreTrainedConfig) -> Any:
    """The CPSL class over a text encoder, plain or already in a CPSL model; None where there is none."""
    return next((model for model in CPSL_MODELS.values() if issubclass(model.config_class, type(backbone))), None)


def _longest_input(backbone: PreTrainedConfig) -> float:
    """Length in subwords that an encoder's position embeddings reach; DeBERTa-v3 has none."""
    if isinstance(backbone, DebertaV2Config) and not backbone.position_biased_input:
        return math.inf
    # MPNet counts positions from the one behind its padding's.
    return backbone.max_position_embeddings - (2 if isinstance(backbone, MPNetConfig) else 0)


def build_model(
    arguments: Any,
    processor: CPSLProcessor,
    backbone: PreTrainedConfig,
    name_or_path: str,
    task: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The CPSL model over a checkpoint's text encoder, with what else of it fits, and transformers' loading report.

    Args:
        arguments: The options of the model.
        processor: The processor of the data.
        backbone: The checkpoint's configuration.
        name_or_path: The checkpoint.
        task: What the labels are, see [`label_fields`].

    Raises:
        ValueError: The checkpoint does not hold all of the text encoder.
    """
    model_class = _model_class(backbone)
    options = {option.name for option in fields(CPSLConfigMixin)} & asdict(arguments).keys()
    config = model_class.config_class.from_backbone(
        backbone,
        modality_sizes=processor.modality_sizes,
        use_text=processor.use_text,
        **{name: getattr(arguments, name) for name in options},
        **task,
        **_special_tokens(processor.tokenizer),
    )
    with _broken_models_are_errors(name_or_path), without_loading_reports():
        check_claimed_size(lambda: model_class(config).base_model, name_or_path)
        # An fp16 checkpoint would otherwise make the new modules fp16 too.
        model, info = model_class.from_pretrained(
            name_or_path, config=config, dtype="float32", ignore_mismatched_sizes=True, output_loading_info=True
        )
    _check_encoder_weights(model, info, name_or_path)
    return model, info


def label_fields(train: Dataset | IterableDataset, class_weights: str) -> dict[str, Any]:
    """The fields of a configuration that say what the labels of a training split are, and what classes count by."""
    named = task_fields(train.features)
    if class_weights == "none":
        return named
    return named | {"class_weights": balanced_class_weights(train, task_of_fields(named))}


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokenizer's special tokens, which Trainer would otherwise copy into the configuration with a warning."""
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {name: token for name, token in tokens.items() if token is not None}


def _check_encoder_weights(model: PreTrainedModel, info: dict[str, Any], name_or_path: str) -> None:
    """Looks at the text encoder's part of transformers' loading report: the rest is new and cannot be there.

    transformers fills what a checkpoint lacks with random numbers: an encoder that silently was not pretrained.
    """
    prefix = f"{model.base_model_prefix}."
    not_loaded = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    unfit = sorted(name for name in not_loaded if name.startswith(prefix))
    if unfit and model.config.use_text:
        raise ValueError(
            f"model_name_or_path {name_or_path}: its weights lack {counted(len(unfit), 'tensor')} of the text encoder "
            f"or have them in another size, the first is {unfit[0]}; get the complete checkpoint of a text encoder"
        )
    # A pretraining head is not needed, but layers that the encoder does not have are a sign of a wrong config.json.
    unused = sorted(name for name in info["unexpected_keys"] if name.removeprefix(prefix).startswith("encoder."))
    if unused:
        logger.warning(
            "model_name_or_path %s: its config.json describes a smaller text encoder than its weights, which "
            "leaves out %s; the first is %s", name_or_path, counted(len(unused), "tensor"), unused[0],
        )  # fmt: skip


def prepare(recipe: Recipe) -> tuple[CPSLTrainer, dict[str, Any]]:
    """From a recipe to a trainer and the encoded splits.

    Raises:
        ValueError: The data, the text encoder or an option does not fit.
    """
    arguments = copy.copy(recipe.training)  # changes made for this data must not reach the saved recipe
    set_seed(arguments.seed)
    with arguments.main_process_first(desc="data"):
        dataset = load_data(recipe.data)
        name_or_path = recipe.model.model_name_or_path
        if name_or_path == "sample":
            name_or_path = os.path.join(arguments.output_dir, SAMPLE_BACKBONE_FOLDER)
            if arguments.process_index == 0 and arguments.resume_from_checkpoint is None:
                shutil.rmtree(name_or_path, ignore_errors=True)  # a run that failed left the words of other data
            if arguments.local_process_index == 0:  # one process of a machine writes; the others read
                make_sample_backbone(_words(dataset["train"]), name_or_path)
        backbone, tokenizer, trained = load_backbone(name_or_path, recipe.data.max_length)
        word_starts = ARCHITECTURES[recipe.model.architecture].reads_word_starts
        processor = build_processor(recipe.data, dataset, tokenizer, trained, word_starts=word_starts)
        seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
        with leak_search() as leaks:
            encoded = encode_dataset(dataset, processor, seed=seed, on_names=leaks.add)
            for message in leaks.messages():  # of a stream; of other data its builder says it
                logger.warning("%s: %s", recipe.data.data_dir or recipe.data.dataset, message)
    if recipe.data.streaming:  # a stream is read in order, and is already shuffled
        arguments.train_sampling_strategy = "sequential"
        if recipe.training.train_sampling_strategy == "group_by_length":
            logger.warning(
                "train_sampling_strategy=group_by_length has no effect on a stream: it is read in its order"
            )
    if "validation" not in encoded:
        if arguments.early_stopping_patience is not None:
            raise ValueError(
                f"early_stopping_patience={arguments.early_stopping_patience}: {recipe.data.dataset} has no "
                "validation split to judge by; leave it out, or cut one with --fold 0/5"
            )
        if arguments.decision_weights:
            raise ValueError(
                f"decision_weights: {recipe.data.dataset} has no validation split to fit them on; leave it out, or "
                "cut one with --fold 0/5"
            )
        arguments.eval_strategy, arguments.load_best_model_at_end = "no", False
    task = label_fields(dataset["train"], arguments.class_weights)
    model, info = build_model(recipe.model, processor, backbone, name_or_path, task)
    if trained is not None:
        restart_bounds(model, processor, trained)
        if arguments.process_index == 0:
            print(f"trained further: {name_or_path}; {kept_and_new(model, processor, backbone, trained, info)}")
    try:
        trainer = CPSLTrainer(
            model,
            arguments,
            train_dataset=encoded["train"],
            eval_dataset=encoded.get("validation"),
            data_collator=CPSLDataCollator(processor),
            processing_class=processor,
            callbacks=[TrainingLog(recipe.resolved())],
        )
    except (ImportError, RuntimeError) as error:  # report_to or optim names a package that is not installed
        wanted = " ".join(f"'cpsl[{name}]'" for name in REPORTERS if name in arguments.report_to)
        message = str(error).rstrip(". ")
        raise ValueError(f"{message}; pip install {wanted}" if wanted else message) from error
    except HTTPError as error:
        raise ValueError(f"push_to_hub: the repository cannot be made: {error}") from error
    return trainer, encoded


def _words(split: Dataset | IterableDataset) -> Iterator[str]:
    for table in read_columns(split, ["words"]):
        yield from itertools.chain.from_iterable(table["words"].to_pylist())


__all__ = ["build_model", "build_processor", "label_fields", "load_backbone", "load_data", "prepare"]
