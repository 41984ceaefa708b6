"""Tiny models over the three text encoders, batches for them, and a tokenizer."""

import dataclasses
import warnings

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, DebertaV2Config, MPNetConfig, PreTrainedTokenizerFast

from modeling_cpsl.architectures_cpsl import ARCHITECTURES
from modeling_cpsl.configuration_cpsl import CPSLBertConfig, CPSLConfig, CPSLMPNetConfig
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
# Options of architectures, where they have one of that name.
SMALL_OPTIONS = {"size": 10, "hidden_size": 9, "bottleneck_size": 6, "num_layers": 1, "num_heads": 2}
SAMPLE_WORDS = ["this", "movie", "was", "really", "great", "but", "the", "wonderful", "ending", "felt", "terrible"]


def plain_config(backbone, **fields):
    """The text encoder's own tiny configuration."""
    return PLAIN_CONFIGS[backbone](**TINY, **(TINY_DEBERTA if backbone == "deberta" else {}), **fields)


def fields_of(architecture, fields):
    """Those of some fields of CPSL that an architecture reads too, and its own options, small and without dropout."""
    peer = ARCHITECTURES[architecture]
    names = [option.name for option in dataclasses.fields(peer.Options)]
    options = {name: 0.0 for name in names if name.endswith("dropout")}
    options |= {name: value for name, value in SMALL_OPTIONS.items() if name in names}
    read = {name: value for name, value in fields.items() if name in peer.config_fields}
    return read | {"architecture": architecture, "architecture_options": options}


def make_config(backbone="deberta", *, architecture="cpsl", **fields):
    """A tiny CPSL configuration, or that of another architecture, without dropout."""
    small = {"modality_hidden_size": 11, "latent_size": 7, "fusion_size": 9, **NO_DROPOUT}
    defaults = fields_of(architecture, small)
    return CLASSES[backbone][0].from_backbone(
        plain_config(backbone), **{"modality_sizes": SIZES, **defaults, **fields}
    )


def make_model(backbone="deberta", seed=0, **fields):
    """A tiny CPSL model in evaluation mode, off its initial weights."""
    config = make_config(backbone, **fields)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pooling='cls'")
        model = CLASSES[backbone][1](config).eval()
    with torch.no_grad():  # biases of 0 would hide what a bias does where nothing else speaks
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def make_batch(config, lengths=(8, 6, 3), seed=0, labels=True):
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


def make_wordpiece_tokenizer():
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
