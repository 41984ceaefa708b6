"""Peak memory of training with our defaults against that of the peers' loop, each in a process of its own.

`python benchmarks/bench_memory.py [--quick] [--json OUT]`. What is counted is the largest resident memory of the
process less what its imports take.
"""

import json
import sys
import tempfile
from pathlib import Path

from measuring import in_fresh_process, parse_arguments, peak_megabytes, report
from setting import PeerLoop, as_dataset, make_cpsl, make_plain, make_trainer, make_utterances


ARMS = {"peers' loop": "peer", "ours": "ours", "ours, all embeddings trained": "all"}


def train(arm: str, quick: bool) -> dict[str, float]:
    """Trains for a few steps and evaluates, in this process."""
    rows, evaluation = make_utterances(24), make_utterances(16, seed=1)
    before = peak_megabytes()
    if arm == "peer":
        PeerLoop(make_plain(quick), rows, evaluation).epoch()
    else:
        options = {"train_embeddings": "all"} if arm == "all" else {}
        folder = Path(tempfile.mkdtemp(prefix="bench-memory-"))
        make_trainer(folder, make_cpsl(quick), as_dataset(rows), as_dataset(evaluation), **options).train()
    return {"megabytes": peak_megabytes() - before}


def main() -> None:
    """Measures and reports."""
    options = parse_arguments(__doc__)
    quick = ["--quick"] if options.quick else []
    rows = {name: in_fresh_process(__file__, "--arm", arm, *quick) for name, arm in ARMS.items()}
    for row in rows.values():
        row["ratio"] = row["megabytes"] / rows["peers' loop"]["megabytes"]
    report("Peak memory of training", rows, {"ratio_to_peer_style": rows["ours"]["ratio"]}, options.json)


if __name__ == "__main__":
    if "--arm" in sys.argv:
        print(json.dumps(train(sys.argv[sys.argv.index("--arm") + 1], "--quick" in sys.argv)))
    else:
        main()
