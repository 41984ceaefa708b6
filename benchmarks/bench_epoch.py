"""One epoch with our defaults against one of the peers' loop, at the same text encoder and on the same utterances.

`python benchmarks/bench_epoch.py [--quick] [--json OUT]`. Ours is the full CPSL model in `CPSLTrainer`, collation,
modulation, clipping, logging and evaluation included; theirs is the text encoder alone, see `setting.py`. The other
variants are ours with one of the tricks left out.
"""

import tempfile
from pathlib import Path
from unittest import mock

from measuring import by_turns, parse_arguments, report, summary
from setting import PeerLoop, as_dataset, make_cpsl, make_plain, make_trainer, make_utterances


def main() -> None:
    """Measures and reports."""
    options = parse_arguments(__doc__, samples=160, repetitions=5)
    samples, repetitions = (16, 1) if options.quick else (options.samples, options.repetitions)
    train, evaluation = make_utterances(samples), make_utterances(max(samples // 6, 8), seed=1)
    data = as_dataset(train), as_dataset(evaluation)
    peer = PeerLoop(make_plain(options.quick), train, evaluation)
    model = make_cpsl(options.quick)
    folder = Path(tempfile.mkdtemp(prefix="bench-epoch-"))

    def ours(**arguments: object) -> None:
        make_trainer(folder, model, *data, **arguments).train()

    def without_packing() -> None:
        with mock.patch("modeling_cpsl.modeling_cpsl.packing_pays", return_value=False):
            ours()

    variants = {
        "peers' loop": peer.epoch,
        "ours": ours,
        "ours, padded": without_packing,
        "ours, all embeddings trained": lambda: ours(train_embeddings="all"),
        "ours, grouped by length": lambda: ours(train_sampling_strategy="group_by_length"),
    }
    rows = summary(by_turns(variants, repetitions), base="peers' loop")
    results = {"ratio_to_peer_style": rows["ours"]["ratio"]}
    report(f"One epoch of {samples} utterances", rows, results, options.json)


if __name__ == "__main__":
    main()
