"""A training step of the full CPSL model against one of plain DeBERTa regression, and what the modulation costs.

`python benchmarks/bench_step.py [--quick] [--json OUT] [--plot OUT.png]`. Like for like, both are padded to 50 tokens,
have the same looped AdamW and the same clipping, and CPSL uses transformers' own attention; `ours` is CPSL as it is,
with the fused AdamW and the embeddings of the tokens that occur, and `ours, bf16` the same under bfloat16 autocast, as
`--bf16` has it. Then steps of other lengths and batch sizes, whose
times `--plot` draws.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import by_turns, parse_arguments, report, summary
from setting import (
    BATCH_SIZE,
    PEER_LENGTH,
    SIZES,
    as_dataset,
    make_cpsl,
    make_plain,
    make_utterances,
    padded,
    slow_path,
)
from torch import nn

from modeling_cpsl.modulation import GradientModulator
from modeling_cpsl.training.embedding_rows import trained_embeddings


NUM_TRAINING_UTTERANCES = 1_283  # CMU-MOSI's
LENGTHS, BATCH_SIZES = (8, 16, 32, 64, 128), (1, 8, 32, 128)
MOST_TOKENS = 1_024  # of a batch, so that the whole takes minutes and some gigabytes


def make_inputs(batch_size: int, length: int | None = None) -> dict[str, torch.Tensor]:
    """A batch of utterances like CPSL's, or of so many tokens each."""
    rows = make_utterances(batch_size)
    ids, labels = padded(rows, length or max(len(row["input_ids"]) for row in rows))
    if length is not None:
        ids = torch.randint(3, 2_000, ids.shape)
    features = {name: torch.randn(*ids.shape, size) for name, size in SIZES.items()}
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels, **features}


class Step:
    """A training step: forward, backward, modulation, clipping, AdamW."""

    def __init__(self, model: nn.Module, *, fused: bool, modulate: bool, bf16: bool = False):
        self.bf16 = bf16
        self.model = model.train()
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=fused, foreach=False)
        self.modulator = (
            GradientModulator({name: model.modality_parameters(name) for name in SIZES}) if modulate else None
        )
        self.modulation_seconds = 0.0

    def __call__(self, inputs: dict[str, torch.Tensor]) -> None:
        """Makes a step with a batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            output = self.model(**inputs)
        output.loss.backward()
        if self.modulator is not None:
            started = time.process_time()
            errors = {name: output.modality_errors[name].sum() for name in SIZES}
            self.modulator.observe(errors, count=len(inputs["labels"]))
            self.modulator.step(0)
            self.modulation_seconds += time.process_time() - started
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure_shapes(ours: Step, plain: Step, shapes: list[tuple[int, int]], repetitions: int) -> dict[str, dict]:
    """Seconds of a step for each batch size and length."""
    rows = {}
    for batch_size, length in shapes:
        inputs = make_inputs(batch_size, length)
        text = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
        variants: dict[str, Callable] = {
            "plain": lambda text=text: plain(text),
            "ours": lambda inputs=inputs: ours(inputs),
        }
        measured = summary(by_turns(variants, repetitions), base="plain")
        rows[f"batch {batch_size}, length {length}"] = {
            "batch": batch_size,
            "length": length,
            "plain": measured["plain"]["min_cpu"],
            "ours": measured["ours"]["min_cpu"],
            "ratio": measured["ours"]["ratio"],
        }
    return rows


def plot(rows: dict[str, dict], path: Path) -> None:
    """Draws the time of a step against its length, a line for each batch size and model."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    batch_sizes = sorted({row["batch"] for row in rows.values()})
    for (name, style), (number, batch_size) in itertools.product(
        (("plain", "--"), ("ours", "-")), enumerate(batch_sizes)
    ):
        points = [row for row in rows.values() if row["batch"] == batch_size]
        label = f"{'plain DeBERTa' if name == 'plain' else 'CPSL'}, batch {batch_size}"
        lengths, seconds = ([row[value] for row in points] for value in ("length", name))
        axes.plot(lengths, seconds, style, color=f"C{number}", marker="o", label=label)
    axes.set(xlabel="tokens in an utterance", ylabel="CPU seconds for a step", yscale="log")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measures and reports."""
    options = parse_arguments(__doc__, files=("plot",), repetitions=5)
    plain = Step(make_plain(options.quick), fused=False, modulate=False)
    cpsl, fast_cpsl = make_cpsl(options.quick), make_cpsl(options.quick)
    like_for_like = Step(cpsl, fused=False, modulate=True)
    with trained_embeddings(fast_cpsl, "used", as_dataset(make_utterances(NUM_TRAINING_UTTERANCES))):
        ours = Step(fast_cpsl, fused=True, modulate=True)
        in_bf16 = Step(fast_cpsl, fused=True, modulate=True, bf16=True)
        measure(plain, like_for_like, ours, in_bf16, options)


def measure(plain: Step, like_for_like: Step, ours: Step, in_bf16: Step, options: argparse.Namespace) -> None:
    """Lets the three take turns, then the first and the last at other shapes."""
    repetitions = 1 if options.quick else options.repetitions
    cpsl = like_for_like.model
    full, short = make_inputs(BATCH_SIZE, PEER_LENGTH), make_inputs(BATCH_SIZE)
    text = {name: full[name] for name in ("input_ids", "attention_mask", "labels")}

    def slowly() -> None:
        with slow_path(cpsl):
            like_for_like(full)

    variants = {
        "plain DeBERTa, length 50": lambda: plain(text),
        "CPSL like for like": slowly,
        "ours": lambda: ours(short),
        "ours, bf16": lambda: in_bf16(short),
    }
    turns = by_turns(variants, repetitions)
    rows = summary(turns, base="plain DeBERTa, length 50")
    seconds = ours.modulation_seconds / (repetitions + 1)
    results = {
        "ratio_to_plain": rows["ours"]["ratio"],
        "ratio_to_plain_like_for_like": rows["CPSL like for like"]["ratio"],
        "ratio_of_bf16": summary(turns, base="ours")["ours, bf16"]["ratio"],
        "modulation_share": seconds / rows["ours"]["median_cpu"],
    }
    every = [(2, 8)] if options.quick else itertools.product(BATCH_SIZES, LENGTHS)
    shapes = measure_shapes(ours, plain, [shape for shape in every if math.prod(shape) <= MOST_TOKENS], repetitions=1)
    report("A training step", rows, results | {"shapes": shapes}, options.json)
    if options.plot:
        plot(shapes, options.plot)


if __name__ == "__main__":
    main()
