"""Utterances predicted in a CPU second, against the peers' loop: padded to 50 tokens, all attended to, batches of 32.

`python benchmarks/bench_inference.py [--quick] [--json OUT]`. Theirs is the text encoder alone; ours the full model
with its collator, on batches in order of length, as training evaluates. Then the same model as `cpsl export` writes
it, with and without 8-bit weights, and the time of a single utterance of 17 subwords.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from measuring import by_turns, parse_arguments, report, summary
from setting import (
    SIZES,
    PeerLoop,
    as_dataset,
    make_cpsl,
    make_plain,
    make_processor,
    make_utterances,
    slow_path,
)

from modeling_cpsl import CPSLDataCollator
from modeling_cpsl.experiments.export import export_model
from modeling_cpsl.training.sampling import longest_first


BATCH_SIZE = 32


def in_batches(rows: Any, collator: CPSLDataCollator, *, by_length: bool = True) -> list[dict[str, Any]]:
    """Batches of 32 in order of length, or in that of the data."""
    order = longest_first(rows) if by_length else range(len(rows))
    return [
        collator([rows[index] for index in order[start : start + BATCH_SIZE]])
        for start in range(0, len(order), BATCH_SIZE)
    ]


def as_flat(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch as the inputs of an exported model."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "feature_mask", *SIZES)}
    present = torch.ones(len(batch["input_ids"]), dtype=torch.bool)
    inputs |= {f"has_{name}": present for name in ("text", *SIZES)}
    return {name: value.numpy() for name, value in inputs.items()}


def main() -> None:
    """Measures and reports."""
    options = parse_arguments(__doc__, utterances=229, repetitions=3)
    count, repetitions = (16, 1) if options.quick else (options.utterances, options.repetitions)
    rows, folder = make_utterances(count, seed=1), Path(tempfile.mkdtemp(prefix="bench-inference-"))
    peer, model = PeerLoop(make_plain(options.quick), rows[:8], rows), make_cpsl(options.quick).eval()
    processor = make_processor(folder / "tokenizer")
    data, collator = as_dataset(rows), CPSLDataCollator(processor)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = torch.get_num_threads()
    files = {name: folder / f"{name}.onnx" for name in ("fp32", "int8")}
    for name, file in files.items():
        export_model(model, processor, file, int8=name == "int8")
    sessions = {name: onnxruntime.InferenceSession(file, session_options) for name, file in files.items()}

    @torch.no_grad()
    def predict() -> None:
        for batch in in_batches(data, collator):
            model(**batch)

    @torch.no_grad()
    def predict_slowly() -> None:
        with slow_path(model):
            for batch in in_batches(data, collator, by_length=False):
                model(**batch)

    def run(name: str) -> Callable[[], None]:
        def predict_exported() -> None:
            for batch in in_batches(data, collator):
                sessions[name].run(["logits"], as_flat(batch))

        return predict_exported

    variants = {
        "peers' loop": lambda: list(peer.evaluate(BATCH_SIZE)),
        "ours without the tricks": predict_slowly,
        "ours": predict,
        "ours, exported": run("fp32"),
        "ours, exported, int8": run("int8"),
    }
    measured = summary(by_turns(variants, repetitions), base="peers' loop")
    for row in measured.values():
        row["utterances_per_cpu_second"] = count / row["median_cpu"]
    speedup = {"fp32": 1 / measured["ours"]["ratio"], "int8": 1 / measured["ours, exported, int8"]["ratio"]}
    results = {"speedup_over_peer_style": speedup}
    results["ratio_to_without_the_tricks"] = measured["ours"]["ratio"] / measured["ours without the tricks"]["ratio"]
    results |= {"one_utterance": latency(model, peer.model, repetitions)}
    report(f"Predicting {count} utterances", measured, results, options.json)


@torch.no_grad()
def latency(model: Any, plain: Any, repetitions: int) -> dict[str, dict[str, float]]:
    """Seconds for one utterance of 17 subwords, in transformers' own text encoder and in CPSL."""
    ids = torch.randint(3, 2_000, (1, 17))
    features = {name: torch.randn(1, 17, size) for name, size in SIZES.items()}
    variants = {"plain DeBERTa": lambda: plain(input_ids=ids), "ours": lambda: model(input_ids=ids, **features)}
    return summary(by_turns(variants, 5 * repetitions), base="plain DeBERTa")


if __name__ == "__main__":
    main()
