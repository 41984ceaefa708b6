"""MulT's transformers against attention written out in NumPy, and what of a sample may have a say."""

import numpy as np
import pytest
import torch
from tiny_models import SIZES, make_batch, make_config, make_model
from torch.testing import assert_close

from modeling_cpsl.mult_cpsl import CrossmodalTransformer, MulTOptions


SIZE, HEADS = 6, 2
DROPOUTS = ("attention", "relu", "residual", "embedding", "output")
OPTIONS = {"size": SIZE, "num_heads": HEADS, "num_layers": 2} | {f"{name}_dropout": 0.0 for name in DROPOUTS}
LENGTHS = (8, 6, 3, 7)


def make_mult(options=None, **fields):
    return make_model(architecture="mult", architecture_options=OPTIONS | (options or {}), **fields)


def make_transformer(**options):
    torch.manual_seed(0)
    transformer = CrossmodalTransformer(SIZE, 2, MulTOptions(**OPTIONS | options))
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return transformer


def linear(weights, name, values):
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def normed(weights, name, values):
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def placed(values):
    """sqrt(d) x + the sines and then the cosines of p w_i, w_i = 10000^(-i / (d/2 - 1)), for places p from 1."""
    length, size = values.shape
    half = size // 2
    angles = np.outer(np.arange(1, length + 1), 10000.0 ** (-np.arange(half) / (half - 1)))
    return np.sqrt(size) * values + np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def attention(weights, name, query, key, allowed):
    """Multi-head attention of one sample, head by head and place by place; `allowed(i, j)`: whether i sees j."""
    (w_q, w_k, w_v), (b_q, b_k, b_v) = (np.split(weights[f"{name}.in_proj_{part}"], 3) for part in ("weight", "bias"))
    queries, keys, values = query @ w_q.T + b_q, key @ w_k.T + b_k, key @ w_v.T + b_v
    width, heads = SIZE // HEADS, []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        rows = []
        for i in range(len(query)):
            seen = [j for j in range(len(key)) if allowed(i, j)]
            scores = np.array([queries[i, part] @ keys[j, part] / np.sqrt(width) for j in seen])
            shares = np.exp(scores - scores.max())
            rows.append((shares / shares.sum()) @ values[seen, part])
        heads.append(np.stack(rows))
    return linear(weights, f"{name}.out_proj", np.concatenate(heads, axis=1))


def reference(transformer, target, source, allowed):
    """A transformer of one sample, (L, d) and (K, d); `source` None is the target itself, layer by layer."""
    weights = {name: value.double().numpy() for name, value in transformer.state_dict().items()}
    target, source = placed(target), None if source is None else placed(source)
    for index in range(len(transformer.layers)):
        name = f"layers.{index}"
        query = normed(weights, f"{name}.attention_norm", target)
        key = query if source is None else normed(weights, f"{name}.attention_norm", source)
        target = target + attention(weights, f"{name}.attention", query, key, allowed)
        hidden = linear(weights, f"{name}.feedforward.0", normed(weights, f"{name}.feedforward_norm", target))
        target = target + linear(weights, f"{name}.feedforward.3", np.maximum(hidden, 0))
    return normed(weights, "norm", target)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("to_itself", [False, True])
def test_a_transformer_is_attention_written_out(causal, to_itself):
    transformer = make_transformer(causal=causal)
    generator = torch.Generator().manual_seed(1)
    target, source = torch.randn(2, 3, 5, SIZE, generator=generator)
    lengths = [5, 3, 1]
    kept = torch.arange(5) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        output = transformer(target, None if to_itself else source, kept)
    for sample, length in enumerate(lengths):
        tokens = [values[sample, :length].double().numpy() for values in (target, source)]
        expected = reference(
            transformer, tokens[0], None if to_itself else tokens[1], lambda i, j: not causal or j <= i
        )
        assert_close(output[sample, :length].double().numpy(), expected, rtol=0, atol=1e-5)


def test_without_a_source_attention_adds_nothing():
    transformer = make_transformer()
    target, source = torch.randn(2, 1, 4, SIZE)
    source.requires_grad_()
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    output = transformer(target, source, nothing)
    assert torch.equal(output, transformer(target, source * 7, nothing))
    output.sum().backward()
    assert torch.equal(source.grad, torch.zeros_like(source))
    with torch.no_grad():
        for layer in transformer.layers:
            layer.attention.out_proj.weight.zero_()
            layer.attention.out_proj.bias.zero_()
        assert_close(transformer(target, source, ~nothing), output)


def test_a_prediction_is_the_residual_head_over_last_tokens():
    model = make_mult()
    parts, batch = model.multimodal, make_batch(model.config, (7,), labels=False)
    words = slice(1, 6)
    with torch.no_grad():
        states = model.base_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        tokens = {
            name: parts.projections[name](values[:, words])
            for name, values in {"text": states, **{name: batch[name] for name in SIZES}}.items()
        }
        all_kept, last = torch.ones(1, 5, dtype=torch.bool), []
        for target in ("text", "acoustic", "visual"):
            sources = [source for source in tokens if source != target]
            crossed = [
                parts.crossmodal[f"{source}-to-{target}"](tokens[target], tokens[source], all_kept)
                for source in sources
            ]
            last.append(parts.memories[target](torch.cat(crossed, dim=-1), None, all_kept)[:, -1])
        joint = torch.cat(last, dim=-1)
        assert joint.shape == (1, 6 * SIZE)
        first, second = parts.fusion.change[0], parts.fusion.change[3]
        joint = joint + second(first(joint).clamp(min=0))
        assert_close(model(**batch).logits, parts.fusion.out_proj(joint)[:, 0])


@pytest.mark.parametrize("causal", [False, True])
def test_samples_with_gaps_and_without_modalities_have_predictions_and_gradients(causal):
    model = make_mult({"causal": causal}).train()
    batch = make_batch(model.config, LENGTHS)
    # Tokens of no word at the beginning and inside, and in the last sample nowhere a word.
    batch["feature_mask"] = torch.tensor([[0, 0, 1, 0, 1, 1, 0, 0]] * 3 + [[0] * 8]).bool()
    batch["modality_mask"] = {
        "text": torch.tensor([True, True, False, True]),
        "acoustic": torch.tensor([True, False, False, True]),
        "visual": torch.tensor([True, False, False, True]),
    }
    output = model(**batch)
    output.loss.backward()
    assert output.logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.multimodal.parameters())
    model.eval()
    with torch.no_grad():
        logits = model(**batch).logits
        alone = model(input_ids=batch["input_ids"][1:2], attention_mask=batch["attention_mask"][1:2],
                      feature_mask=batch["feature_mask"][1:2]).logits  # fmt: skip
        assert_close(alone, logits[1:2])
        other_text = model(**batch | {"input_ids": batch["input_ids"].roll(1, dims=1)}).logits
    assert abs(other_text[1] - logits[1]) > 1e-4  # text alone is not nothing


def test_text_alone_in_order_changes_a_prediction():
    """Tokens have places, so that the order of feature rows matters."""
    model = make_mult()
    batch = make_batch(model.config, (8,), labels=False)
    turned = batch | {"acoustic": batch["acoustic"].flip(1)}
    with torch.no_grad():
        assert not torch.allclose(model(**batch).logits, model(**turned).logits, atol=1e-4)


def test_the_number_of_layers_and_modalities():
    model = make_mult(modality_sizes=SIZES | {"gaze": 2})
    assert len(model.multimodal.crossmodal) == 12
    memory = model.multimodal.memories["gaze"]
    assert memory.norm.normalized_shape == (3 * SIZE,)
    assert len(memory.layers) == 3  # 2 layers are asked for; the code has at least 3 here
    assert model(**make_batch(model.config, LENGTHS)).loss.isfinite()
    without_text = make_mult(use_text=False)
    assert without_text(**make_batch(without_text.config, LENGTHS)).loss.isfinite()


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({"size": 30, "num_heads": 4}, {}, "architecture_options: size=30 must be a multiple of num_heads=4"),
        ({"relu_dropout": 1.5}, {}, r"relu_dropout=1.5 must be in \[0, 1\)"),
        ({"num_layers": 0}, {}, "num_layers=0 must be at least 1"),
        ({}, {"modality_sizes": dict.fromkeys("abcd", 2)}, "combines 2 to 4 modalities; these are text, a, b, c, d"),
        ({}, {"modality_sizes": {}}, "combines 2 to 4 modalities; these are text"),
    ],
)
def test_what_does_not_fit_is_refused(options, fields, message):
    with pytest.raises(ValueError, match=message):
        make_config(architecture="mult", architecture_options=options, **fields)
