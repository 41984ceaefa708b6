"""Labels of each kind in each architecture: shapes, missing modalities and saved models."""

import numpy as np
import pytest
import torch
from task_cases import CLASSES, NUMBERS, SEVERAL
from tiny_models import SIZES, make_batch, make_model, make_wordpiece_tokenizer
from torch.testing import assert_close

from modeling_cpsl import CPSLProcessor
from modeling_cpsl.architectures_cpsl import ARCHITECTURES
from modeling_cpsl.pipeline_cpsl import MultimodalSentimentPipeline


KINDS = {
    "class": ("single_label_classification", CLASSES),
    "classes": ("multi_label_classification", SEVERAL),
    "numbers": ("regression", NUMBERS),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_architecture = pytest.mark.parametrize(
    "architecture", [name for name, peer in ARCHITECTURES.items() if not peer.predicts_one_number]
)


def model_and_batch(kind, **fields):
    problem_type, names = KINDS[kind]
    model = make_model("bert", problem_type=problem_type, id2label=dict(enumerate(names)), **fields)
    batch = make_batch(model.config, lengths=(8, 6, 5, 3, 4))
    shape = (5, len(names))
    batch["labels"] = torch.arange(5) % 3 if kind == "class" else torch.ones(shape).tril()
    return model, batch


@each_kind
@each_architecture
def test_each_predicts_and_learns_them(kind, architecture, tmp_path):
    model, batch = model_and_batch(kind, architecture=architecture)
    output, size = model(**batch), (5, len(KINDS[kind][1]))
    assert output.logits.shape == size and output.loss.isfinite()
    for name, values in (output.unimodal_logits or {}).items():
        assert values.shape == size and output.modality_errors[name].shape == (5,)
    expected = model.task.losses(output.logits, model.task.label_tensor(batch["labels"], 5)).mean()
    assert_close(output.losses["task"], expected)
    model.train()(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in model.multimodal.parameters() if parameter.requires_grad)
    model.eval().save_pretrained(tmp_path)
    assert_close(type(model).from_pretrained(tmp_path)(**batch).logits, model(**batch).logits)


@each_kind
@each_architecture
def test_a_missing_modality_has_no_say(kind, architecture):
    model, batch = model_and_batch(kind, architecture=architecture)
    batch["modality_mask"] = {"acoustic": torch.tensor([True, False, True, True, False])}
    output = model(**batch)
    scale = torch.where(batch["modality_mask"]["acoustic"], 1.0, 9.0)[:, None, None]
    changed = model(**batch | {"acoustic": scale * batch["acoustic"]})
    assert_close(changed.logits, output.logits)
    if output.modality_errors:
        assert (output.modality_errors["acoustic"][[1, 4]] == 0).all()


@each_kind
def test_draws_of_latents_have_a_deviation_for_each(kind):
    model, batch = model_and_batch(kind)
    assert model(**batch, num_samples=3).logits_std.shape == (5, len(KINDS[kind][1]))


@each_kind
@each_architecture
def test_the_pipeline_tells_what_is_missing(kind, architecture):
    model, _ = model_and_batch(kind, architecture=architecture, vocab_size=60)
    word_starts, task = model.multimodal.reads_word_starts, model.task
    processor = CPSLProcessor(make_wordpiece_tokenizer(), SIZES, word_starts=word_starts)
    sentiment = MultimodalSentimentPipeline(model=model.eval(), processor=processor)
    generator, words = np.random.default_rng(0), ["the", "ending", "was", "great"]
    whole = {"words": words, **{name: generator.normal(size=(4, size)) for name, size in SIZES.items()}}
    utterances = [{name: value for name, value in whole.items() if name != left_out} for left_out in (None, *whole)]
    results = sentiment(utterances, batch_size=4, explain=True)
    missing = [[name for name, part in result["modalities"].items() if part is None] for result in results]
    assert missing == [[], ["text"], ["acoustic"], ["visual"]]
    scores = [task.scores_of(result) for result in results]
    assert np.shape(scores) == (4, len(task.names)) and np.isfinite(scores).all()
    for utterance, expected in zip(utterances, scores, strict=True):
        assert task.scores_of(sentiment(utterance)) == pytest.approx(expected, abs=1e-5)
    for name, of_rest in zip(SIZES, scores[2:], strict=True):  # what a modality changes is told by leaving it out
        change = task.change(np.array(scores[0]), np.array(of_rest))
        assert results[0]["modalities"][name]["delta"] == pytest.approx(change, abs=1e-5)
