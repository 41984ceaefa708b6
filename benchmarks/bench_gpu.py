"""A training step on a GPU: ours in fp32, bf16 and compiled against the peers' loop, and its share of the limit.

`python benchmarks/bench_gpu.py [--repetitions 20] [--quick] [--json OUT]`, with batches of 8 and of 256. The peers'
step is plain DeBERTa's in fp32, padded to 50 tokens, without a mask, with a looped AdamW. Ours are full CPSL steps
with modulation, clipping, the fused AdamW and the embeddings of the tokens that occur. A turn ends when the device has
done its work, and ratios are of wall seconds. The limit is what the card reaches in one large product of bf16
matrices; the share of it counts 6 operations for each token and each weight of the text encoder's layers. `--quick`
runs tiny models anywhere, to see whether it works.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from bench_step import NUM_TRAINING_UTTERANCES, Step, make_inputs
from measuring import by_turns, parse_arguments, report, summary
from setting import PEER_LENGTH, as_dataset, make_cpsl, make_plain, make_utterances

from modeling_cpsl.training.embedding_rows import trained_embeddings


STEPS = {
    "ours": {},
    "ours, bf16": {"bf16": True},
    "ours, bf16, compiled": {"bf16": True, "compiled": True},
}


@contextlib.contextmanager
def our_step(device: torch.device, quick: bool, bf16: bool = False, compiled: bool = False) -> Iterator[Callable]:
    """A step of CPSL, which takes a batch."""
    model = make_cpsl(quick).to(device)
    with trained_embeddings(model, "used", as_dataset(make_utterances(NUM_TRAINING_UTTERANCES))):
        if compiled:
            model.compile(backend="eager" if quick else "inductor")
        step = Step(model, fused=True, modulate=True)

        def run(inputs: dict[str, torch.Tensor]) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                step(inputs)

        yield run


def peers_step(device: torch.device, quick: bool) -> Callable:
    """A step of the peers' loop, which takes a batch."""
    model = make_plain(quick).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=False)

    def run(inputs: dict[str, torch.Tensor]) -> None:
        model(input_ids=inputs["input_ids"], labels=inputs["labels"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def matmul_limit(device: torch.device, quick: bool) -> float:
    """Operations a second in a large product of bf16 matrices."""
    size = 128 if quick else 8192
    left, right = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    turns = by_turns({"product": lambda: finished(device, lambda: left @ right)}, 10)["product"]
    return 2 * size**3 / min(turn["wall"] for turn in turns)


def finished(device: torch.device, work: Callable[[], Any]) -> None:
    """Does some work and waits until the device has done it."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(device: torch.device, batch_size: int, options: Any) -> tuple[dict[str, dict[str, float]], float]:
    """Lets the peers' step and ours take turns at a batch size; also the operations a second of our fastest step."""
    full, short = (
        {name: value.to(device) for name, value in make_inputs(batch_size, length).items()}
        for length in (PEER_LENGTH, None)
    )
    with contextlib.ExitStack() as stack:
        peers = peers_step(device, options.quick)
        variants = {f"peers' loop, batch {batch_size}": lambda: finished(device, lambda: peers(full))}
        for name, given in STEPS.items():
            step = stack.enter_context(our_step(device, options.quick, **given))
            variants[f"{name}, batch {batch_size}"] = lambda step=step: finished(device, lambda: step(short))
        rows = summary(by_turns(variants, options.repetitions), base=next(iter(variants)), clock="wall")
    for row in rows.values():
        row["utterances_per_second"] = batch_size / row["median_wall"]
    tokens = int(short["attention_mask"].sum())
    fastest = min(row["median_wall"] for name, row in rows.items() if name.startswith("ours"))
    operations = 6 * sum(weight.numel() for weight in make_cpsl(options.quick).deberta.encoder.parameters()) * tokens
    return rows, operations / fastest


def main() -> None:
    """Measures and reports."""
    options = parse_arguments(__doc__, repetitions=20)
    if not torch.cuda.is_available() and not options.quick:
        sys.exit("bench_gpu.py: error: no GPU; --quick runs tiny models on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.repetitions = 1 if options.quick else options.repetitions
    limit, rows, results = matmul_limit(device, options.quick), {}, {}
    for batch_size in (8, 16) if options.quick else (8, 256):
        measured, operations_per_second = measure(device, batch_size, options)
        results[f"share_of_matmul_limit_{batch_size}"] = operations_per_second / limit
        rows |= measured
    results["ratio_to_peer_style"] = rows["ours, bf16, batch 8"]["ratio"]
    if device.type == "cuda":
        results["card"] = torch.cuda.get_device_name(device)
    report("A training step on a GPU", rows, results, options.json)


if __name__ == "__main__":
    main()
