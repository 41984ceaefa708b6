"""Epochs of a training with our defaults against those of the peers' loop, at the same text encoder and utterances.

`python benchmarks/bench_epoch.py [--quick] [--json OUT]`. Ours is the full CPSL model in `CPSLTrainer`: collation,
modulation, clipping, logging and evaluation included. Theirs is the text encoder alone, see `setting.py`. The peers'
loop makes a step after each one of ours, so that both have the same machine, whatever else it does. The first epoch is
left out of the ratio: what it takes longer than the others is said by itself, since a training pays for it once, for
the optimizer's moments and other memory. Then whole trainings of one epoch: ours, and with one of the tricks left out,
whose ratios are to ours.
"""

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from measuring import by_turns, parse_arguments, report, summary
from setting import PeerLoop, as_dataset, make_cpsl, make_plain, make_trainer, make_utterances
from transformers import TrainerCallback


Seconds = dict[str, float]


def clocks() -> Seconds:
    """CPU and wall seconds until now."""
    return {"cpu": time.process_time(), "wall": time.perf_counter()}


def between(start: Seconds, end: Seconds) -> Seconds:
    """The seconds from one time to another."""
    return {clock: end[clock] - start[clock] for clock in start}


class PeerBesideOurs(TrainerCallback):
    """Has the peers' loop make an epoch within each epoch of a training, a step after each step.

    `peer` and `ours` have the seconds of each epoch; the building of our trainer and of its optimizer counts as a part
    of our first one.
    """

    def __init__(self, loop: PeerLoop):
        self.loop = loop
        self.steps: Iterator[None] = iter(())
        self.peer: list[Seconds] = []
        self.ours: list[Seconds] = []
        self.started = clocks()

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begins an epoch of the peers' loop."""
        self.steps = self.loop.epoch()
        self.peer.append({"cpu": 0.0, "wall": 0.0})

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Makes a step of the peers' loop."""
        before = clocks()
        next(self.steps)
        self._add(between(before, clocks()))

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Makes the peers' evaluation, which ends its epoch and ours."""
        before = clocks()
        list(self.steps)
        self._add(between(before, clocks()))
        both = between(self.started, clocks())
        self.ours.append(between(self.peer[-1], both))
        self.started = clocks()

    def _add(self, seconds: Seconds) -> None:
        self.peer[-1] = {clock: self.peer[-1][clock] + value for clock, value in seconds.items()}


def main() -> None:
    """Measures and reports."""
    options = parse_arguments(__doc__, samples=200, repetitions=2)
    samples, repetitions = (16, 1) if options.quick else (options.samples, options.repetitions)
    train, evaluation = make_utterances(samples), make_utterances(max(samples // 6, 8), seed=1)
    data = as_dataset(train), as_dataset(evaluation)
    loop, model = PeerLoop(make_plain(options.quick), train, evaluation), make_cpsl(options.quick)
    folder = Path(tempfile.mkdtemp(prefix="bench-epoch-"))

    def ours(*callbacks: TrainerCallback, **arguments: Any) -> None:
        trainer = make_trainer(folder, model, *data, **arguments)
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train()

    def padded() -> None:
        with mock.patch("modeling_cpsl.modeling_cpsl.packing_pays", return_value=False):
            ours()

    seconds = PeerBesideOurs(loop)
    ours(seconds, num_train_epochs=1 + repetitions)
    rows = summary({"peers' loop": seconds.peer[1:], "ours": seconds.ours[1:]}, base="peers' loop")
    once = {
        "peers' loop": seconds.peer[0]["cpu"] - rows["peers' loop"]["median_cpu"],
        "ours": seconds.ours[0]["cpu"] - rows["ours"]["median_cpu"],
    }
    trainings = {
        "a training": ours,
        "a training, padded": padded,
        "a training, all embeddings trained": partial(ours, train_embeddings="all"),
        "a training, grouped by length": partial(ours, train_sampling_strategy="group_by_length"),
    }
    tricks = summary(by_turns(trainings, repetitions), base="a training")
    results = {"ratio_to_peer_style": rows["ours"]["ratio"], "cpu_seconds_once_a_training": once}
    report(f"An epoch of {samples} utterances, and a training of one", rows | tricks, results, options.json)


if __name__ == "__main__":
    main()
