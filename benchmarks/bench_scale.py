"""How the time to read data and the memory for it grow with the number of utterances, from 1,000 to 100,000.

`python benchmarks/bench_scale.py [--quick] [--json OUT]`. The data is Parquet in shards, with utterances like
CMU-MOSI's. Each arm reads it in a process of its own: `encode` makes model inputs of all utterances, as a training
does once, and collates them into batches of 8, as each epoch does; `stream` counts them once and tokenises them while
they are collated, as `--streaming` does.
What is counted of memory is the peak less what imports take; the mapped pages of Arrow files count, which the system
takes back when it needs them.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from measuring import in_fresh_process, parse_arguments, peak_megabytes, report
from setting import BATCH_SIZE, SIZES, make_utterances


SHARD = 5_000  # utterances
COUNTS = (1_000, 10_000, 100_000)
WORDS = ("the", "movie", "was", "great", "but", "ending", "boring", "and", "too", "long")


def write_shards(folder: Path, count: int) -> None:
    """Writes so many utterances; the shards differ in nothing but their ids."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = make_utterances(min(count, SHARD))
    of_words = pa.list_(pa.list_(pa.float32()))
    columns = {name: pa.array([row[name].tolist() for row in rows], of_words) for name in SIZES}
    columns["words"] = [[WORDS[token % len(WORDS)] for token in row["input_ids"][1:-1]] for row in rows]
    columns["label"] = [row["label"] for row in rows]
    table, shards = pa.table(columns), -(-count // SHARD)
    for shard in range(shards):
        ids = pa.array([f"{shard}_{row['id']}" for row in rows])
        path = folder / f"train-{shard:05}-of-{shards:05}.parquet"
        pq.write_table(table.append_column("id", ids).slice(0, count - shard * SHARD), path)


def read(arm: str, folder: Path) -> dict[str, float]:
    """Reads the data in this process."""
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer

    from data_builders import load_aligned_dataset
    from modeling_cpsl import CPSLDataCollator, CPSLProcessor
    from modeling_cpsl.experiments.sample_backbone import make_sample_backbone
    from modeling_cpsl.training.encoding import encode_dataset
    from modeling_cpsl.training.streaming import EncodedStream

    make_sample_backbone(list(WORDS), folder.parent / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "tokenizer")
    processor = CPSLProcessor(tokenizer, SIZES, max_length=50)
    collator = CPSLDataCollator(processor)
    before, started = peak_megabytes(), time.process_time()
    if arm == "stream":
        rows = EncodedStream("train", load_aligned_dataset(folder, streaming=True)["train"], processor)
    else:
        rows = encode_dataset(load_aligned_dataset(folder, cache_dir=folder.parent / "cache"), processor)["train"]
    opened = time.process_time()
    for _ in DataLoader(rows, BATCH_SIZE, collate_fn=collator):
        pass
    return {
        "once_ms": 1000 * (opened - started) / len(rows),
        "epoch_ms": 1000 * (time.process_time() - opened) / len(rows),
        "megabytes": peak_megabytes() - before,
    }


def main() -> None:
    """Measures and reports; times are CPU milliseconds for an utterance."""
    options = parse_arguments(__doc__)
    rows = {}
    for count in (100, 200) if options.quick else COUNTS:
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as name:
            folder = Path(name, "data")
            folder.mkdir()
            write_shards(folder, count)
            size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
            for arm in ("encode", "stream"):
                row = in_fresh_process(__file__, "--arm", arm, str(folder))
                rows[f"{arm}, {count}"] = {"parquet_megabytes": size, **row}
    first, *_, last = (row["megabytes"] for arm, row in rows.items() if arm.startswith("stream"))
    report("Reading data", rows, {"memory_growth_of_streaming": last / first}, options.json)


if __name__ == "__main__":
    if "--arm" in sys.argv:
        print(json.dumps(read(sys.argv[-2], Path(sys.argv[-1]))))
    else:
        main()
