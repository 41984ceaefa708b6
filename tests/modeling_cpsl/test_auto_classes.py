"""With the package imported, the Auto classes give its classes, also from a folder that brings the code along."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoProcessor, pipeline

import modeling_cpsl
from modeling_cpsl.modeling_cpsl import CPSL_MODELS


CLASSES = {
    "deberta": (modeling_cpsl.CPSLConfig, modeling_cpsl.CPSLForSentimentRegression),
    "bert": (modeling_cpsl.CPSLBertConfig, modeling_cpsl.CPSLBertForSentimentRegression),
    "mpnet": (modeling_cpsl.CPSLMPNetConfig, modeling_cpsl.CPSLMPNetForSentimentRegression),
}
SIZES = {"acoustic": 5, "visual": 3}


def test_every_backbone_is_covered():
    assert {model for _, model in CLASSES.values()} == set(CPSL_MODELS.values())


@pytest.mark.parametrize("backbone", CLASSES)
@pytest.mark.parametrize("trust_remote_code", [None, True, False])
def test_a_saved_folder_gives_the_package_s_classes(
    make_model, unigram_tokenizer, tmp_path, backbone, trust_remote_code
):
    config_class, model_class = CLASSES[backbone]
    model = make_model(backbone, vocab_size=len(unigram_tokenizer))
    processor = modeling_cpsl.CPSLProcessor(unigram_tokenizer, SIZES)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    config, loaded, loaded_processor = (
        auto_class.from_pretrained(tmp_path, trust_remote_code=trust_remote_code)
        for auto_class in (AutoConfig, AutoModelForSequenceClassification, AutoProcessor)
    )
    assert type(config) is config_class and config.modality_sizes == SIZES
    assert type(loaded) is model_class and not loaded.training
    assert type(loaded_processor) is modeling_cpsl.CPSLProcessor
    inputs = {"text": "this movie was great", "acoustic": torch.randn(4, 5), "visual": torch.randn(4, 3)}
    with torch.no_grad():
        expected, found = model(**processor(**inputs)).logits, loaded(**loaded_processor(**inputs)).logits
    assert_close(found, expected, rtol=0, atol=1e-6)  # equal weights at other addresses may be summed in another order
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert type(AutoModelForSequenceClassification.from_config(config)) is model_class


@pytest.mark.parametrize("trust_remote_code", [None, True, False])
def test_a_saved_pipeline_is_the_package_s_and_needs_no_trust(
    make_model, unigram_tokenizer, tmp_path, trust_remote_code
):
    model = make_model(vocab_size=len(unigram_tokenizer))
    processor = modeling_cpsl.CPSLProcessor(unigram_tokenizer, SIZES)
    saved = modeling_cpsl.MultimodalSentimentPipeline(model=model, processor=processor)
    saved.save_pretrained(tmp_path)
    loaded = pipeline("multimodal-sentiment", model=str(tmp_path), trust_remote_code=trust_remote_code)
    assert type(loaded) is modeling_cpsl.MultimodalSentimentPipeline
    assert loaded("this movie was great") == saved("this movie was great")
