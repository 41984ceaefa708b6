"""CPSL: multimodal sentiment regression with a Conflict-aware Penalty and a Statistical Loss (arXiv:2605.28575).

Importing this package registers its configurations, models, processor and pipeline with transformers, so that the Auto
classes and `pipeline("multimodal-sentiment")` know them. Everything else is imported when it is first used.

Exactly the files `*_cpsl.py` beside this one travel to the Hub with a model, for people who have transformers and not
this package. So they import the hard dependencies of transformers and each other (`from .losses_cpsl import ...`) and
nothing else, and whatever a saved model, processor or pipeline needs to run is in one of them.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor

from .configuration_cpsl import CPSLBertConfig, CPSLConfig, CPSLMPNetConfig
from .modeling_cpsl import (
    CPSL_MODELS,
    CPSLBertForSentimentRegression,
    CPSLForSentimentRegression,
    CPSLMPNetForSentimentRegression,
    CPSLOutput,
)
from .pipeline_cpsl import MultimodalSentimentPipeline  # this import registers the pipeline
from .processing_cpsl import CPSLProcessor


if TYPE_CHECKING:
    from .modulation import GradientModulator, modulation_coefficients
    from .training.arguments import CPSLTrainingArguments
    from .training.collation import CPSLDataCollator
    from .training.metrics import compute_sentiment_metrics
    from .training.modulation_mixin import GradientModulationMixin
    from .training.trainer import CPSLTrainer

# Training imports Trainer, datasets and more, which takes seconds: name -> module, imported when it is first used.
_LAZY_NAMES = {
    "CPSLDataCollator": ".training.collation",
    "CPSLTrainer": ".training.trainer",
    "CPSLTrainingArguments": ".training.arguments",
    "GradientModulationMixin": ".training.modulation_mixin",
    "GradientModulator": ".modulation",
    "compute_sentiment_metrics": ".training.metrics",
    "modulation_coefficients": ".modulation",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("cpsl")
    if name not in _LAZY_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY_NAMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_NAMES, "__version__"})


for _model in CPSL_MODELS.values():
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    AutoModel.register(_model.config_class, _model)
    AutoModelForSequenceClassification.register(_model.config_class, _model)
    AutoProcessor.register(_model.config_class, CPSLProcessor)
    # `save_pretrained` then puts the code beside the weights.
    _model.config_class.register_for_auto_class()
    _model.register_for_auto_class("AutoModelForSequenceClassification")
CPSLProcessor.register_for_auto_class()

__all__ = [
    "CPSLBertConfig",
    "CPSLBertForSentimentRegression",
    "CPSLConfig",
    "CPSLDataCollator",
    "CPSLForSentimentRegression",
    "CPSLMPNetConfig",
    "CPSLMPNetForSentimentRegression",
    "CPSLOutput",
    "CPSLProcessor",
    "CPSLTrainer",
    "CPSLTrainingArguments",
    "GradientModulationMixin",
    "GradientModulator",
    "MultimodalSentimentPipeline",
    "compute_sentiment_metrics",
    "modulation_coefficients",
]
