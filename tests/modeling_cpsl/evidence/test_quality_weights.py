"""Weights of samples that were made of others: their formula, and the command from a model to a training by them."""

import numpy as np
import pytest
from prediction_cases import corpus, write_jsonl
from tiny_models import make_model, make_wordpiece_tokenizer

from cpsl import main
from data_builders import load_aligned_dataset
from modeling_cpsl import CPSLProcessor
from modeling_cpsl.architectures_cpsl import ARCHITECTURES
from modeling_cpsl.evidence.quality_weights import _predict, quality
from modeling_cpsl.experiments.loading import load_pipeline
from modeling_cpsl.training.sample_weights_mixin import weight_column


SIZES = {"acoustic": 74, "visual": 47}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and data of 30 training and 10 validation samples with many labels."""
    folder = tmp_path_factory.mktemp("quality")
    save_model(folder / "model")
    rows = [
        row | {"label": float(number % 4) - 2, "split": "train" if number % 4 else "validation"}
        for number, row in enumerate(corpus(40))
    ]
    write_jsonl(rows, folder / "data.jsonl")
    return folder


def save_model(path, architecture="cpsl"):
    model = make_model("bert", architecture=architecture, modality_sizes=SIZES, vocab_size=60)
    model.save_pretrained(path)
    word_starts = model.multimodal.reads_word_starts
    CPSLProcessor(make_wordpiece_tokenizer(), SIZES, word_starts=word_starts).save_pretrained(path)


def score(folder, out, *arguments, data="data.jsonl"):
    return main(["score_quality", str(folder / "model"), str(folder / data), str(out), "--device", "cpu", *arguments])


def test_quality_by_hand():
    scores = quality(np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 3.0]), error_scale=2.0, distance_scale=1.5)
    np.testing.assert_allclose(scores, [1, np.exp(-1 / 2), np.exp(-2)])


def test_the_command_makes_samples_and_weighs_them(folder, tmp_path, capsys):
    ways = ["word_drop", "frame_jitter", "voice_exchange"]
    assert score(folder, tmp_path / "out", "--augment", ",".join(ways)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("30 originals, and of them:") and all(f"| {way} | " in printed for way in ways)
    written = load_aligned_dataset(str(tmp_path / "out"))
    train = written["train"].to_pandas().set_index("id")
    made = train.index.str.contains("~")
    weights = weight_column(written["train"])
    assert made.sum() > 60 and (weights[~made] == 1).all()
    assert weights[made].mean() == pytest.approx(1, rel=1e-5) and weights[made].std() > 0.05
    assert (written["validation"].to_pandas()["weight"] == 1).all()
    # by an independent way: the weights of two samples are in the ratio of their qualities
    predictions, states = _predict(load_pipeline(str(folder / "model"), "cpu"), written["train"], 8)
    labels, places = train["label"].to_numpy(), {name: place for place, name in enumerate(train.index)}
    originals = np.array([places[name.partition("~")[0]] for name in train.index])
    same = [
        np.linalg.norm(states[one] - states[other])
        for one in np.flatnonzero(~made)
        for other in np.flatnonzero(~made)
        if one < other and labels[one] == labels[other]
    ]
    tau = np.abs(labels[~made] - np.median(labels[~made])).mean()
    distances = np.linalg.norm(states - states[originals], axis=1)
    expected = np.exp(-np.abs(predictions - labels) / tau - distances / np.median(same))
    np.testing.assert_allclose(weights[made], (expected / expected[made].mean())[made], rtol=1e-3)


def test_samples_made_before_are_told_by_their_ids(folder, tmp_path):
    assert score(folder, tmp_path / "made", "--augment", "frame_jitter") == 0
    assert score(folder, tmp_path / "again", data=tmp_path / "made") == 0
    one, other = (load_aligned_dataset(str(tmp_path / name))["train"] for name in ("made", "again"))
    assert one["id"][:] == other["id"][:]
    np.testing.assert_allclose(weight_column(one), weight_column(other), rtol=1e-5)


@pytest.mark.slow
def test_every_architecture_has_states_that_its_last_layer_reads(folder, tmp_path):
    split = load_aligned_dataset(str(folder / "data.jsonl"))["validation"]
    for architecture in ARCHITECTURES:
        save_model(tmp_path / architecture, architecture)
        predictions, states = _predict(load_pipeline(str(tmp_path / architecture), "cpu"), split, 8)
        assert len(predictions) == len(states) == 10 and states.std(axis=0).max() > 0, architecture


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no training sample was made of another one; give --augment word_drop,frame_jitter,voice_exchange"),
        (["--augment", "noise"], "--augment noise is not one of word_drop"),
    ],
)
def test_nothing_to_score_is_one_line(folder, tmp_path, capsys, arguments, message):
    assert score(folder, tmp_path / "out", *arguments) == 1
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()
