"""A model as an ONNX file gives what the model gives, at any batch size and length, whatever its labels are."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from task_cases import NUMBERS, SEVERAL
from tiny_models import SIZES, make_model, make_wordpiece_tokenizer

from modeling_cpsl import CPSLProcessor
from modeling_cpsl.experiments.export import export_model


WEIGHTS = {"acoustic+text+visual": {"fused": [0.4, 0.0, 1.0], "text": [0.6, 0.5, 2.0]}}
STATISTICS = {"acoustic": {"mean": [1.0, -2.0, 0.5, 0.0, 3.0], "std": [0.5, 2.0, 1.0, 0.1, 1.5]}}


def named(problem_type, *names):
    """The fields of a configuration with labels of another kind."""
    return {"problem_type": problem_type, "id2label": dict(enumerate(names))}


def make_inputs(batch_size, length, model, seed=0):
    """Random utterances, of which some are shorter and some lack a modality."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, length + 1, (batch_size, 1))
    lengths[0] = length
    attended = np.arange(length) < lengths
    inputs = {"attention_mask": attended.astype(np.int64), "feature_mask": attended & (np.arange(length) > 0)}
    if model.config.use_text:
        inputs["input_ids"] = np.where(attended, generator.integers(2, 40, attended.shape), 1)
    if model.multimodal.reads_word_starts:
        inputs["word_starts"] = inputs["feature_mask"] & (generator.random(attended.shape) < 0.6)
    for name, size in SIZES.items():
        inputs[name] = generator.normal(size=(batch_size, length, size)).astype(np.float32)
    return inputs | {f"has_{name}": generator.random(batch_size) < 0.7 for name in model.modality_names}


def expected_logits(model, processor, inputs):
    """Of each utterance by itself, standardised by the processor and without the rest of the batch."""
    logits = []
    for index in range(len(inputs["attention_mask"])):
        mask = inputs["feature_mask"][index]
        features = {}
        for name in SIZES:
            rows = processor._standardize(name, inputs[name][index]) * mask[:, None]
            features[name] = torch.tensor(rows, dtype=torch.float32)[None]
        ids = {"input_ids": torch.tensor(inputs["input_ids"][index])[None]} if "input_ids" in inputs else {}
        starts = {"word_starts": torch.tensor(inputs["word_starts"][index])[None]} if "word_starts" in inputs else {}
        presence = {name: torch.tensor(inputs[f"has_{name}"][index])[None] for name in model.modality_names}
        with torch.no_grad():
            output = model(
                **ids,
                **features,
                **starts,
                attention_mask=torch.tensor(inputs["attention_mask"][index])[None],
                feature_mask=torch.tensor(mask)[None],
                modality_mask=presence,
            )
        logits.append([values[0].numpy() for values in (output.logits, *output.unimodal_logits.values())])
    return np.array(logits)


def export(tmp_path, model, **options):
    processor = CPSLProcessor(
        make_wordpiece_tokenizer(), SIZES, max_length=50, use_text=model.config.use_text, feature_statistics=STATISTICS
    )
    export_model(model, processor, tmp_path / "model.onnx", **options)
    return onnxruntime.InferenceSession(tmp_path / "model.onnx"), processor


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "fields"),
    [
        ("deberta", {}),
        ("deberta", {"use_text": False, **named("single_label_classification", *SEVERAL)}),
        ("bert", {"pooling": "attention", **named("multi_label_classification", *SEVERAL)}),
        ("mpnet", named("regression", *NUMBERS)),
        (
            "bert",
            {"architecture": "self_mm", "decision_weights": WEIGHTS, "label_ranges": {"sentiment": [-1.0, 1.0]}},
        ),
    ],
    ids=["sentiment", "class without text", "classes", "numbers", "number with decision weights"],
)
def test_logits_are_those_of_the_model_at_other_shapes(tmp_path, backbone, fields):
    model = make_model(backbone, num_hidden_layers=1, **fields).eval()
    session, processor = export(tmp_path, model)
    assert [output.name for output in session.get_outputs()] == [
        "logits",
        *(f"{name}_logits" for name in model.modality_names),
    ]
    for batch_size, length in ((1, 2), (1, 7), (5, 12), (3, 50)):  # buckets of positions begin at 8
        inputs = make_inputs(batch_size, length, model, seed=length)
        logits = np.stack(session.run(None, inputs), axis=1)
        np.testing.assert_allclose(logits, expected_logits(model, processor, inputs), atol=1e-4)


@pytest.mark.slow
def test_int8_is_smaller_and_close(tmp_path):
    # DeBERTa uses the projections of queries and keys twice; these are too large for the exporter to transpose itself.
    model = make_model(hidden_size=576, intermediate_size=640, num_hidden_layers=1).eval()
    session, processor = export(tmp_path, model, int8=True)
    assert (tmp_path / "model.onnx").stat().st_size < 0.75 * 4 * model.num_parameters()
    inputs = make_inputs(16, 20, model)
    logits, expected = session.run(["logits"], inputs)[0], expected_logits(model, processor, inputs)[:, 0]
    assert 0 < np.abs(logits - expected).max() < 0.5 * expected.std()
    assert np.corrcoef(logits, expected)[0, 1] > 0.99
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx"}
    graph = onnx.load(tmp_path / "model.onnx").graph
    weights = {weight.name for weight in graph.initializer}
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) > 6
    assert not [node.name for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]


def test_what_is_missing_to_export_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"an ONNX file needs onnxscript; say pip install 'cpsl\[onnx\]'"):
        export(tmp_path, make_model())


def test_no_other_file_is_overwritten(tmp_path):
    model = make_model()
    processor = CPSLProcessor(make_wordpiece_tokenizer(), SIZES)
    (tmp_path / "folder.onnx").mkdir()
    for name in ("README.md", "model", "folder.onnx"):
        with pytest.raises(ValueError, match=f"{name}: name a file that ends in .onnx"):
            export_model(model, processor, tmp_path / name)


def test_a_model_that_is_too_large_for_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_cpsl.experiments.export.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"model.onnx: a model of 0.0 GB is too large for one ONNX file; use --int8"):
        export(tmp_path, make_model())
