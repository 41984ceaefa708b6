"""CPSL: multimodal sentiment regression with a Conflict-aware Penalty and a Statistical Loss (arXiv:2605.28575)."""

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoProcessor

from .configuration_cpsl import CPSLBertConfig, CPSLConfig, CPSLMPNetConfig
from .modeling_cpsl import (
    CPSLBertForSentimentRegression,
    CPSLForSentimentRegression,
    CPSLMPNetForSentimentRegression,
    CPSLOutput,
)
from .modulation import GradientModulator, modulation_coefficients
from .pipeline_cpsl import MultimodalSentimentPipeline
from .processing_cpsl import CPSLProcessor
from .training.arguments import CPSLTrainingArguments
from .training.collation import CPSLDataCollator
from .training.metrics import compute_sentiment_metrics
from .training.trainer import CPSLTrainer, GradientModulationMixin


for _model in (CPSLForSentimentRegression, CPSLBertForSentimentRegression, CPSLMPNetForSentimentRegression):
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    AutoModelForSequenceClassification.register(_model.config_class, _model)
    AutoProcessor.register(_model.config_class, CPSLProcessor)
    # `save_pretrained` then puts the code beside the weights, for those who have transformers and not this package.
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
