"""A trained model from its folder or the Hub, ready to predict; what is wrong with it is told on one line."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, pipeline

from data_builders.files import broken_files_are_data_errors, check_path_or_hub_id, counted

from ..configuration_cpsl import PIPELINE_TASK, CPSLConfigMixin
from ..pipeline_cpsl import MultimodalSentimentPipeline
from ..processing_cpsl import CPSLProcessor
from ..tasks_cpsl import task_of
from .console import without_loading_reports


# Without it, transformers asks on a terminal whether to run the code in a model's folder; no command needs any.
NO_FOREIGN_CODE = {"trust_remote_code": False}


def load_config(model: str) -> CPSLConfigMixin:
    """The configuration, which is read in no time, to refuse another kind of model before its weights are read."""
    check_path_or_hub_id(model)
    with _broken_models_are_errors(model):
        config = AutoConfig.from_pretrained(model, **NO_FOREIGN_CODE)
    if not isinstance(config, CPSLConfigMixin):
        raise ValueError(
            f"{model}: a model of type {config.model_type!r} and not of CPSL; train one with `cpsl train`"
        )
    return config


def check_sentiment(model: str, config: PreTrainedConfig, what: str) -> None:
    """ValueError where a model's labels are no sentiments, for what means sentiments."""
    if not task_of(config).is_sentiment:
        raise ValueError(
            f"{model}: its labels are no sentiments in [-3, 3], which {what} shows; `cpsl predict` gives predictions "
            "of any labels for a data set"
        )


def load_pipeline(model: str, device: str | None) -> MultimodalSentimentPipeline:
    """The pipeline of a model, which has all its weights and has scored an utterance: some damages show only then."""
    config = load_config(model)
    with _broken_models_are_errors(model), without_loading_reports():
        check_claimed_size(lambda: AutoModelForSequenceClassification.from_config(config), model)
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            model, output_loading_info=True, **NO_FOREIGN_CODE
        )
        if missing := sorted(info["missing_keys"]):  # transformers fills them with random numbers
            raise ValueError(f"its weights lack {counted(len(missing), 'tensor')}, the first is {missing[0]}")
        processor = CPSLProcessor.from_pretrained(model, **NO_FOREIGN_CODE)
        sentiment = pipeline(PIPELINE_TASK, model=loaded, processor=processor, device=device)
        features = {name: np.zeros((1, size)) for name, size in loaded.config.modality_sizes.items()}
        sentiment({"words": ["a"], **features}, explain=True)
    return sentiment


def check_claimed_size(make: Callable[[], torch.nn.Module], name_or_path: str) -> None:
    """Refuses a configuration of more parameters than a folder's weights have bytes, before they take memory.

    Args:
        make: Makes what the configuration describes; its parameters take no memory here.
        name_or_path: The folder; what comes from the Hub is not looked at.
    """
    weights = [path for path in Path(name_or_path).glob("*") if path.suffix in (".safetensors", ".bin")]
    with torch.device("meta"):
        claimed = sum(parameter.numel() for parameter in make().parameters())
    if weights and claimed > sum(path.stat().st_size for path in weights):
        raise ValueError(f"config.json claims {claimed:,} parameters, which the weights do not hold")


def _broken_models_are_errors(model: str) -> contextlib.AbstractContextManager[None]:
    way_out = "name the folder or Hub id of a CPSL model that `cpsl train` has finished, and a device that is there"
    return broken_files_are_data_errors(model, "CPSL model", way_out)


__all__ = ["NO_FOREIGN_CODE", "check_claimed_size", "check_sentiment", "load_config", "load_pipeline"]
