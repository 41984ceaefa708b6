"""Peak memory of training with our defaults against that of the peers' loop, each in a process of its own.

`python benchmarks/bench_memory.py [--quick] [--json OUT]`. What is counted is the largest resident memory of the
process less what its imports take. The size of a checkpoint, from which a training can be resumed, is measured too.
"""

import json
import sys
import tempfile
from pathlib import Path

from measuring import in_fresh_process, parse_arguments, peak_megabytes, report
from setting import PeerLoop, as_dataset, make_cpsl, make_plain, make_trainer, make_utterances


SAVED = {"eval_strategy": "no", "metric_for_best_model": None}
ARMS = {"peers' loop": "peer", "ours": "ours", "ours, all embeddings trained": "all"}


def train(arm: str, quick: bool) -> dict[str, float]:
    """Trains for a few steps and evaluates, in this process."""
    rows, evaluation = make_utterances(24), make_utterances(16, seed=1)
    before = peak_megabytes()
    if arm == "peer":
        list(PeerLoop(make_plain(quick), rows, evaluation).epoch())
        return {"megabytes": peak_megabytes() - before}
    options = {"train_embeddings": "all" if arm == "all" else "used"}
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as name:
        trainer = make_trainer(Path(name), make_cpsl(quick), as_dataset(rows), as_dataset(evaluation), **options)
        trainer.train()
        peak = peak_megabytes() - before
        make_trainer(
            Path(name), trainer.model, as_dataset(rows), None, save_strategy="epoch", **SAVED, **options
        ).train()
        files = Path(name).glob("run/checkpoint-*/*")
        return {"megabytes": peak, "checkpoint_megabytes": sum(file.stat().st_size for file in files) / 1e6}


def main() -> None:
    """Measures and reports."""
    options = parse_arguments(__doc__)
    quick = ["--quick"] if options.quick else []
    rows = {name: in_fresh_process(__file__, "--arm", arm, *quick) for name, arm in ARMS.items()}
    checkpoints = {name: row.pop("checkpoint_megabytes") for name, row in rows.items() if name != "peers' loop"}
    for row in rows.values():
        row["ratio"] = row["megabytes"] / rows["peers' loop"]["megabytes"]
    results = {"ratio_to_peer_style": rows["ours"]["ratio"], "checkpoint_megabytes": checkpoints}
    report("Peak memory of training", rows, results, options.json)


if __name__ == "__main__":
    if "--arm" in sys.argv:
        print(json.dumps(train(sys.argv[sys.argv.index("--arm") + 1], "--quick" in sys.argv)))
    else:
        main()
