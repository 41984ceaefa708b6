"""A training over streamed data that says what it has seen; shared by the streaming tests and their processes."""

import json
import sys
from pathlib import Path

from modeling_cpsl.experiments import assembly, recipe, run


def main(folder, *arguments):
    """One process: writes which samples it saw in each step, and prints the peak of its memory in kB."""
    trainer, dataset = assembly.prepare(recipe.parse_arguments(list(arguments)))
    share_out, seen = trainer.get_batch_samples, []

    def record(*arguments):
        batches, count = share_out(*arguments)
        micro_batches = [batch["micro_batch"] for batch in batches]
        seen.append([name for batch in micro_batches for name in batch.ids[: batch.num_samples]])
        return batches, count

    trainer.get_batch_samples = record
    trainer.train()
    run.evaluate_splits(trainer, dataset)
    Path(folder, f"rank{trainer.args.process_index}.json").write_text(json.dumps(seen))
    # The peak of this process alone: what getrusage tells includes the process that started it.
    print("peak", Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
