"""The fields of CPSL over the three text encoders' configurations."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from transformers import AutoConfig, BertConfig, DebertaV2Config, PreTrainedTokenizerFast

from data_builders.arrow_rows import row_features
from modeling_cpsl import CPSLBertConfig, CPSLConfig, CPSLMPNetConfig
from modeling_cpsl.configuration_cpsl import check_tokenizer
from modeling_cpsl.utterances_cpsl import UTTERANCE_FIELDS


CONFIGS = [CPSLConfig, CPSLBertConfig, CPSLMPNetConfig]
each_config = pytest.mark.parametrize("config_class", CONFIGS)
each_backbone = pytest.mark.parametrize("backbone", ["deberta", "bert", "mpnet"])

# Sections 3 and 4 of the paper, and the defaults that `docs/method.md` decides.
PAPER = {
    "modality_sizes": {"acoustic": 74, "visual": 47},
    "use_text": True,
    "ame": True,
    "sl": True,
    "sl_kind": "mean_variance",
    "modality_hidden_size": 256,
    "latent_size": 256,
    "fusion_size": 512,
    "fusion": "gated",
    "boosted_heads": 1,
    "residual_weight": 1.0,
    "encoder_dropout": 0.3,
    "classifier_dropout": 0.5,
    "pooling": "mean",
    "feature_normalization": "minmax_running",
    "task_loss": "mse",
    "reconstruction_weight": 1.0,
    "unimodal_weight": 0.5,
    "diversity_weight": 0.1,
    "statistical_weight": 0.1,
    "num_labels": 1,
}

# microsoft/deberta-v3-base, config.json.
DEBERTA_V3_BASE = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": 512,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "position_buckets": 256,
    "relative_attention": True,
    "share_att_key": True,
    "type_vocab_size": 0,
    "vocab_size": 128100,
}


@each_config
def test_defaults_are_the_papers(config_class):
    config = config_class()
    assert {name: getattr(config, name) for name in PAPER} == PAPER


def test_defaults_of_the_text_encoder_are_deberta_v3_base():
    config = CPSLConfig()
    assert {name: getattr(config, name) for name in DEBERTA_V3_BASE} == DEBERTA_V3_BASE
    assert isinstance(config, DebertaV2Config)


@each_config
def test_round_trip_through_json(config_class, tmp_path):
    fields = {"modality_sizes": {"visual": 3, "acoustic": 5, "timing": 6}, "ame": False, "sl": False, "fusion": "sum"}
    fields |= {
        "residual_weight": 0.25,
        "pooling": "cls",
        "latent_size": 8,
        "feature_normalization": "none",
        "sl_kind": "mmd",
    }
    config_class(**fields).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is config_class
    assert {name: getattr(config, name) for name in fields} == fields
    assert json.loads((tmp_path / "config.json").read_text())["modality_sizes"] == fields["modality_sizes"]


@pytest.mark.parametrize("order", [("visual", "timing", "acoustic"), ("timing", "acoustic", "visual")])
def test_modalities_are_ordered_by_name(order):
    config = CPSLConfig(modality_sizes={name: len(name) for name in order})
    assert list(config.modality_sizes) == ["acoustic", "timing", "visual"]


def test_the_default_sizes_are_not_shared():
    CPSLConfig().modality_sizes["acoustic"] = 1
    assert CPSLConfig().modality_sizes == PAPER["modality_sizes"]
    given = {"visual": 3, "acoustic": 5}
    CPSLConfig(modality_sizes=given).modality_sizes["acoustic"] = 1
    assert given == {"visual": 3, "acoustic": 5}


def test_no_modality_is_text_alone(tmp_path):
    CPSLConfig(modality_sizes={}).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).modality_sizes == {}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fusion": "tensor"}, ["fusion", "tensor", "gated"]),
        ({"pooling": "max"}, ["pooling", "max", "cls"]),
        ({"feature_normalization": "zscore"}, ["feature_normalization", "zscore", "minmax_running"]),
        ({"task_loss": "huber"}, ["task_loss", "huber", "smooth_l1"]),
        ({"modality_sizes": {"acoustic": 0}}, ["modality_sizes", "acoustic", "0"]),
        *(
            ({"modality_sizes": {name: 3}}, [f"'{name}'", "name of a modality"])
            for name in (
                "my voice",
                "a.b",
                "",
                "values",
                "train",
                "type",
                "input_ids",
                "word_index",
                *UTTERANCE_FIELDS,
            )
        ),
        ({"modality_sizes": {}, "use_text": False}, ["use_text", "modality_sizes"]),
        ({"use_text": False, "pooling": "cls"}, ["pooling", "use_text"]),
        ({"use_text": False, "pooling": "attention", "architecture": "late"}, ["pooling='attention'", "use_text"]),
        ({"concordance_weight": -0.1}, ["concordance_weight", "-0.1"]),
        (
            {"concordance_weight": 0.5, "problem_type": "single_label_classification", "id2label": {0: "a", 1: "b"}},
            ["concordance_weight=0.5", "numbers"],
        ),
        ({"concordance_weight": 0.5, "architecture": "late"}, ["concordance_weight=0.5", "architecture='late'"]),
        ({"latent_size": 0}, ["latent_size", "0"]),
        ({"num_labels": 7}, ["num_labels=7"]),
        ({"num_hidden_layers": 10_000}, ["num_hidden_layers=10000", "1000"]),
        ({"fusion_size": -1}, ["fusion_size", "-1"]),
        ({"modality_hidden_size": 0}, ["modality_hidden_size", "0"]),
        ({"encoder_dropout": 1.0}, ["encoder_dropout", "1.0"]),
        ({"classifier_dropout": -0.1}, ["classifier_dropout", "-0.1"]),
        ({"statistical_weight": -0.1}, ["statistical_weight", "-0.1"]),
        ({"unimodal_weight": float("nan")}, ["unimodal_weight", "nan"]),
        ({"diversity_weight": float("inf")}, ["diversity_weight", "inf"]),
        ({"residual_weight": float("nan")}, ["residual_weight", "nan"]),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(fields, words):
    with pytest.raises((ValueError, StrictDataclassError)) as caught:
        CPSLConfig(**fields)
    cause = caught.value.__cause__ or caught.value
    assert isinstance(cause, ValueError)
    assert "\n" not in str(cause)
    assert all(word in str(cause) for word in words)


def test_no_column_of_the_row_format_is_taken_for_a_modality():
    assert set(row_features({}, timed=True)) <= set(UTTERANCE_FIELDS)


@pytest.mark.parametrize(
    "fields",
    [{"ame": "yes"}, {"latent_size": "256"}, {"modality_sizes": {"acoustic": "74"}}, {"fusion": 3}, {"sl": 1.5}],
)
def test_a_wrong_type_is_refused(fields):
    with pytest.raises((ValueError, TypeError, StrictDataclassError), match=next(iter(fields))):
        CPSLConfig(**fields)


def test_a_token_without_an_embedding_is_refused(wordpiece_tokenizer):
    backend = json.loads(wordpiece_tokenizer.backend_tokenizer.to_str())
    vocabulary = backend["model"]["vocab"]
    check_tokenizer(wordpiece_tokenizer, len(vocabulary), "folder")
    vocabulary["movie"] = 999
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)))
    with pytest.raises(ValueError, match="folder: its tokenizer has 1000 entries and the text encoder"):
        check_tokenizer(tokenizer, len(vocabulary), "folder")


@each_backbone
def test_from_backbone_keeps_the_architecture(plain_config, make_config, backbone):
    task = {"num_labels": 2, "problem_type": "multi_label_classification", "architectures": ["Other"]}
    plain = plain_config(backbone, initializer_range=0.05, **task)
    config = type(make_config(backbone)).from_backbone(plain, latent_size=8, modality_sizes={"visual": 3})
    # BERT's config has a `classifier_dropout` too; ours is that of the task head and not the checkpoint's.
    not_kept = {"architectures", "classifier_dropout", "id2label", "label2id", "model_type", "num_labels"}
    not_kept |= {"problem_type", "transformers_version"}
    kept = {name: value for name, value in plain.to_dict().items() if name not in not_kept}
    assert {name: config.to_dict()[name] for name in kept} == kept
    assert (config.num_labels, config.latent_size, config.modality_sizes) == (1, 8, {"visual": 3})
    assert config.classifier_dropout == PAPER["classifier_dropout"]
    assert config.architectures is None
    assert config.model_type.startswith("cpsl")


def test_from_backbone_lets_a_field_of_the_encoder_be_set(plain_config):
    config = CPSLBertConfig.from_backbone(plain_config("bert"), hidden_dropout_prob=0.25)
    assert config.hidden_dropout_prob == 0.25


def test_from_backbone_refuses_another_architecture():
    with pytest.raises(ValueError, match=r"CPSLConfig does not extend BertConfig \(bert\)"):
        CPSLConfig.from_backbone(BertConfig())
