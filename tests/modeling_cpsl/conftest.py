"""Tiny models over the three text encoders, and batches for them."""

import importlib
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from shared_run import built_once
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, DebertaV2Config, DebertaV2Tokenizer, MPNetConfig, PreTrainedTokenizerFast

from modeling_cpsl.configuration_cpsl import CPSLBertConfig, CPSLConfig, CPSLMPNetConfig
from modeling_cpsl.experiments.sample_backbone import make_sample_backbone
from modeling_cpsl.modeling_cpsl import (
    CPSLBertForSentimentRegression,
    CPSLForSentimentRegression,
    CPSLMPNetForSentimentRegression,
)


VOCAB_SIZE = 40
SIZES = {"acoustic": 5, "visual": 3}
CLASSES = {
    "deberta": (CPSLConfig, CPSLForSentimentRegression),
    "bert": (CPSLBertConfig, CPSLBertForSentimentRegression),
    "mpnet": (CPSLMPNetConfig, CPSLMPNetForSentimentRegression),
}
PLAIN_CONFIGS = {"deberta": DebertaV2Config, "bert": BertConfig, "mpnet": MPNetConfig}
TINY = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TINY_DEBERTA = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
}
NO_DROPOUT = {"encoder_dropout": 0.0, "classifier_dropout": 0.0}
SAMPLE_WORDS = ["this", "movie", "was", "really", "great", "but", "the", "wonderful", "ending", "felt", "terrible"]


def _plain_config(backbone, **fields):
    return PLAIN_CONFIGS[backbone](**TINY, **(TINY_DEBERTA if backbone == "deberta" else {}), **fields)


def _make_config(backbone="deberta", **fields):
    defaults = {"modality_sizes": SIZES, "modality_hidden_size": 11, "latent_size": 7, "fusion_size": 9, **NO_DROPOUT}
    return CLASSES[backbone][0].from_backbone(_plain_config(backbone), **{**defaults, **fields})


def _make_model(backbone="deberta", seed=0, **fields):
    config = _make_config(backbone, **fields)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pooling='cls'")
        model = CLASSES[backbone][1](config).eval()
    with torch.no_grad():  # biases of 0 would hide what a bias does where nothing else speaks
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def _make_batch(config, lengths=(8, 6, 3), seed=0, labels=True):
    """Right-padded inputs; features are standard normal everywhere, also where the mask is 0."""
    generator = torch.Generator().manual_seed(seed)
    size, length = len(lengths), max(lengths)
    attention_mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    input_ids = torch.randint(4, VOCAB_SIZE, (size, length), generator=generator)
    batch = {"attention_mask": attention_mask}
    if config.use_text:
        batch["input_ids"] = torch.where(attention_mask.bool(), input_ids, config.pad_token_id)
    extra = {}
    for name, feature_size in config.modality_sizes.items():
        values = torch.randn(size, length, feature_size, generator=generator)
        (batch if name in ("acoustic", "visual") else extra)[name] = values
    if extra:
        batch["extra_features"] = extra
    if labels:
        batch["labels"] = torch.rand(size, generator=generator) * 6 - 3
    return batch


@pytest.fixture(scope="session")
def plain_config():
    """`plain_config(backbone, **fields)`: the text encoder's own tiny configuration."""
    return _plain_config


@pytest.fixture(scope="session")
def make_config():
    """`make_config(backbone, **fields)`: a tiny CPSL configuration without dropout."""
    return _make_config


@pytest.fixture(scope="session")
def make_model():
    """`make_model(backbone, seed, **fields)`: a tiny CPSL model in evaluation mode, off its initial weights."""
    return _make_model


@pytest.fixture(scope="session")
def make_batch():
    """`make_batch(config, lengths, seed, labels)`: inputs for a tiny model."""
    return _make_batch


@pytest.fixture
def edited_model_class(tmp_path, monkeypatch, repository):
    """`edited_model_class(file, (old, new), ...)`: the DeBERTa model of a copy of the flat files with one edited."""

    def edit(file, *replacements):
        package = tmp_path / "edited_cpsl"
        package.mkdir()
        for path in (repository / "modeling_cpsl").glob("*_cpsl.py"):
            shutil.copy(path, package)
        source = (package / file).read_text()
        for old, new in replacements:
            assert source.count(old) == 1, old
            source = source.replace(old, new)
        (package / file).write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module("edited_cpsl.modeling_cpsl").CPSLForSentimentRegression

    yield edit
    for name in [name for name in sys.modules if name.split(".")[0] == "edited_cpsl"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def unigram_tokenizer(tmp_path_factory):
    """The sample corpus' kind of DeBERTa tokenizer over `sample_words`."""
    folder = make_sample_backbone(SAMPLE_WORDS, tmp_path_factory.mktemp("unigram") / "backbone", hidden_size=8)
    return DebertaV2Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def wordpiece_tokenizer():
    """A small lowercasing BERT tokenizer whose longer words fall into pieces."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "movie", "great", "the", "was", "end", "##ing", "terri"]
    pieces += ["##ble", "!", ",", "'", *"abcdefghijklmnopqrstuvw", *(f"##{letter}" for letter in "aeiouslnrt")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


@pytest.fixture(scope="session")
def trained_folder():
    """A saved DeBERTa CPSL model with its processor that has trained a little on the sample corpus."""
    from training_cases import make_trainer

    def build(folder):
        trainer = make_trainer(folder, num_samples=60, num_train_epochs=4)
        trainer.train()
        trainer.save_model(str(folder / "model"))

    return built_once("trained", build) / "model"


@pytest.fixture(scope="session")
def sample_words():
    return SAMPLE_WORDS


@pytest.fixture(scope="session")
def repository():
    return Path(__file__).parents[2]
