"""What holds for every architecture: a new one is tested here as soon as it is in the list."""

import numpy as np
import pytest
import torch
from tiny_models import CLASSES, SIZES, make_batch, make_config, make_model, make_wordpiece_tokenizer
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from modeling_cpsl import CPSLProcessor
from modeling_cpsl.architectures_cpsl import ARCHITECTURES
from modeling_cpsl.modeling_cpsl import default_feature_mask


pytestmark = pytest.mark.parametrize("architecture", ARCHITECTURES)
each_backbone = pytest.mark.parametrize("backbone", CLASSES)
# Subwords, features and labels of four utterances, so that losses over a batch have samples enough.
LENGTHS = (8, 6, 3, 7)


def whole_batch(config, **options):
    """A batch with the masks that a processor gives; every second feature token starts a word."""
    batch = make_batch(config, LENGTHS, **options)
    batch["feature_mask"] = default_feature_mask(batch["attention_mask"])
    if ARCHITECTURES[config.architecture].reads_word_starts:
        batch["word_starts"] = batch["feature_mask"] & (torch.arange(max(LENGTHS)) % 2 == 1)
    return batch


def in_eval(model, batch):
    with torch.no_grad():
        return model.eval()(**batch)


@each_backbone
def test_shapes(architecture, backbone):
    model = make_model(backbone, architecture=architecture)
    kind = ARCHITECTURES[architecture]
    output = in_eval(model, whole_batch(model.config))
    assert output.logits.shape == (4,)
    assert list(output.losses) == model.loss_names
    assert set(model.loss_names) <= set(kind.loss_terms)
    total = sum(model.multimodal.loss_weights.get(name, 1.0) * loss for name, loss in output.losses.items())
    assert_close(output.loss, total)
    assert (output.unimodal_logits is not None) == kind.has_unimodal_heads
    for logits in (output.unimodal_logits or {}).values():
        assert logits.shape == (4,)
    assert {*(output.modality_errors or {})} == {*model.unimodal_names}
    assert {*output.modality_presence} == {"text", *SIZES}


def test_a_weight_counts_a_sample_so_many_times(architecture):
    """Of losses that are means over samples; those over the batch count all alike."""
    model = make_model("deberta", architecture=architecture)
    batch = whole_batch(model.config)
    counts = torch.tensor([2, 0, 1, 3])
    repeated = {
        name: (
            {key: rows.repeat_interleave(counts, dim=0) for key, rows in value.items()}
            if isinstance(value, dict)
            else value.repeat_interleave(counts, dim=0)
        )
        for name, value in batch.items()
    }
    weighted = in_eval(model, {**batch, "sample_weight": counts.float()})
    several, plain = in_eval(model, repeated), in_eval(model, batch)
    for name, loss in weighted.losses.items():
        over_batch = architecture == "misa" and name in ("difference", "similarity")
        assert_close(loss, (plain if over_batch else several).losses[name], rtol=1e-4, atol=1e-5)
    assert_close(weighted.logits, plain.logits)
    nothing = in_eval(model, {**batch, "sample_weight": torch.zeros(4)})
    assert nothing.losses["task"] == 0 and nothing.loss.isfinite()


@each_backbone
def test_every_parameter_changes_in_one_step(architecture, backbone):
    model = make_model(backbone, architecture=architecture).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(**whole_batch(model.config)).loss.backward()
    optimizer.step()
    same = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    allowed = tuple(f"multimodal.{name}" for name in ARCHITECTURES[architecture].unchanged_by_first_step)
    # The softmax of attention does not depend on what a key adds to all scores.
    assert not {
        name for name in same if not name.endswith(("key.bias", "attn.k.bias")) and not name.startswith(allowed)
    }


@each_backbone
def test_new_parts_over_a_plain_encoder_get_initial_weights(architecture, backbone, plain_config, tmp_path):
    AutoModel.from_config(plain_config(backbone)).save_pretrained(tmp_path)
    config = make_config(backbone, architecture=architecture)
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        weights.append(CLASSES[backbone][1].from_pretrained(tmp_path, config=config).multimodal.state_dict())
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
        assert weight.isfinite().all() and weight.abs().max() < 10, name
        assert weight.dim() < 2 or weight.std() > 0, name


@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoModel])
def test_a_saved_model_is_the_same(architecture, auto_class, tmp_path):
    model = make_model(architecture=architecture)
    model.save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert type(loaded.multimodal) is ARCHITECTURES[architecture]
    assert loaded.config.architecture_options == model.config.architecture_options
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    batch = whole_batch(model.config)
    assert_close(in_eval(loaded, batch).logits, in_eval(model, batch).logits, rtol=0, atol=1e-6)


@each_backbone
@pytest.mark.parametrize("missing", ["text", *SIZES])
def test_a_missing_modality_has_no_say(architecture, backbone, missing):
    model = make_model(backbone, architecture=architecture)
    batch = whole_batch(model.config) | {"modality_mask": {missing: torch.tensor([True, False, False, True])}}
    name = "input_ids" if missing == "text" else missing
    other = batch | {name: batch[name].clone()}
    other[name][1:3] = 9 if missing == "text" else 7.5
    output, changed = in_eval(model, batch), in_eval(model, other)
    assert torch.equal(output.logits, changed.logits)
    for modality, logits in (output.unimodal_logits or {}).items():
        assert torch.equal(logits, changed.unimodal_logits[modality])
    absent = in_eval(
        model, {argument: value for argument, value in batch.items() if argument not in (name, "modality_mask")}
    )
    assert_close(output.logits[1:3], absent.logits[1:3], rtol=0, atol=1e-5)
    assert output.logits.isfinite().all()


@each_backbone
def test_padding_and_neighbours_do_not_change_a_prediction(architecture, backbone):
    model = make_model(backbone, architecture=architecture)
    batch = whole_batch(model.config, labels=False)
    together = in_eval(model, batch).logits
    unpacked = in_eval(model, batch | {"output_hidden_states": True}).logits
    assert_close(together, unpacked, rtol=0, atol=1e-5)
    for sample, length in enumerate(LENGTHS):
        alone = {name: value[sample : sample + 1, :length] for name, value in batch.items()}
        assert_close(in_eval(model, alone).logits[0], together[sample], rtol=0, atol=1e-5)


def test_predicts_through_its_saved_pipeline(architecture, tmp_path):
    tokenizer = make_wordpiece_tokenizer()
    model = make_model(architecture=architecture, vocab_size=len(tokenizer))
    model.set_calibration({"acoustic+text+visual": 0.5}, 0.9)
    reads_words = ARCHITECTURES[architecture].reads_word_starts
    processor = CPSLProcessor(tokenizer, SIZES, word_starts=reads_words)
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    sentiment = pipeline("multimodal-sentiment", model=str(tmp_path))
    rows = {name: np.random.default_rng(0).normal(size=(3, size)) for name, size in SIZES.items()}
    utterances = [{"words": ["terrible", "movie", "ending"], **rows}, {"words": ["the", "end"]}, rows]
    together = sentiment(utterances, batch_size=3)
    for utterance, prediction in zip(utterances, together, strict=True):
        assert prediction["score"] == pytest.approx(sentiment(utterance)["score"], abs=1e-5)
    score = in_eval(model, processor(**utterances[0])).logits.item()
    assert together[0]["score"] == pytest.approx(score, abs=1e-5)
    expected = [max(score - 0.5, -3), min(score + 0.5, 3)]
    assert together[0]["uncertainty"]["interval"] == pytest.approx(expected, abs=1e-5)
    assert ("word_starts" in processor(**utterances[0])) == reads_words
