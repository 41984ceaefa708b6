"""Tiny models, tokenizers and a trained model for the tests of all rooms."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import tiny_models
from shared_run import built_once
from training_cases import make_trainer
from transformers import DebertaV2Tokenizer

from modeling_cpsl.experiments.sample_backbone import make_sample_backbone


@pytest.fixture(scope="session")
def plain_config():
    """`plain_config(backbone, **fields)`: the text encoder's own tiny configuration."""
    return tiny_models.plain_config


@pytest.fixture(scope="session")
def make_config():
    """`make_config(backbone, **fields)`: a tiny CPSL configuration without dropout."""
    return tiny_models.make_config


@pytest.fixture(scope="session")
def make_model():
    """`make_model(backbone, seed, **fields)`: a tiny CPSL model in evaluation mode, off its initial weights."""
    return tiny_models.make_model


@pytest.fixture(scope="session")
def make_batch():
    """`make_batch(config, lengths, seed, labels)`: inputs for a tiny model."""
    return tiny_models.make_batch


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
    folder = make_sample_backbone(
        tiny_models.SAMPLE_WORDS, tmp_path_factory.mktemp("unigram") / "backbone", hidden_size=8
    )
    return DebertaV2Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def wordpiece_tokenizer():
    """A small lowercasing BERT tokenizer whose longer words fall into pieces."""
    return tiny_models.make_wordpiece_tokenizer()


@pytest.fixture(scope="session")
def trained_folder():
    """A saved DeBERTa CPSL model with its processor that has trained a little on the sample corpus."""

    def build(folder):
        trainer = make_trainer(folder, num_samples=60, num_train_epochs=4)
        trainer.train()
        trainer.save_model(str(folder / "model"))

    return built_once("trained", build) / "model"


@pytest.fixture(scope="session")
def folder_of_kind():
    """`folder_of_kind(kind)`: as `trained_folder`, with labels of a kind in `task_cases`, and calibrated."""
    quantiles = {"number": 0.5, "class": 0.7, "classes": [0.6, 0.6, 0.6], "numbers": [1.0, 1.0]}

    def make(kind):
        def build(folder):
            trainer = make_trainer(folder, labels=kind, num_train_epochs=2)
            trainer.train()
            trainer.model.set_calibration(dict.fromkeys(("text", "acoustic+text+visual"), quantiles[kind]), 0.9)
            trainer.save_model(str(folder / "model"))

        return built_once(f"trained_{kind}", build) / "model"

    return make


@pytest.fixture(scope="session")
def sample_words():
    return tiny_models.SAMPLE_WORDS


@pytest.fixture(scope="session")
def repository():
    return Path(__file__).parents[2]
