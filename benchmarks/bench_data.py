"""How fast and in how much memory a MAG pickle becomes model inputs, against MAG's loop over words.

`python benchmarks/bench_data.py [--segments 23453]` makes a pickle of the size of CMU-MOSEI (74 + 35 features, about
20 words a segment), runs each arm in a process of its own, and prints ratios:

- `loop`: MAG-BERT's and ITHP's preparation: load the pickle, tokenise each word alone, copy its frames to its pieces,
  cut, add zero frames for the special tokens, pad, make tensors;
- `ours`: `load_aligned_dataset` and `encode_dataset` on an empty cache: model inputs ready in Arrow;
- `ours_tensors`: the same, then every sample collated into batches of 8; its memory counts the mapped pages of the
  Arrow file, which the system takes back when it needs them;
- `processes`: building computational sequences with 1 and 2 processes;
- `stream`: peak memory of streaming the data once, 4 and 16 times as large.

Seconds are of wall time and, in brackets, of CPU time, which a busy machine changes less. To see quickly whether it
still runs: `--segments 200 --videos 4 --repeats 1`.
"""

import argparse
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


REPOSITORY = Path(__file__).resolve().parents[1]
MAX_LENGTH = 50
ACOUSTIC, VISUAL = 74, 35


def make_data(segments: int) -> dict[str, list]:
    """A MAG pickle's object with random words of a Zipf-like vocabulary and random features."""
    import numpy as np

    generator = np.random.default_rng(0)
    vocabulary = make_vocabulary()
    weights = 1 / np.arange(1, len(vocabulary) + 1)
    data = {}
    for split, share in (("train", 0.694), ("dev", 0.08), ("test", 0.226)):
        data[split] = []
        for index in range(round(segments * share)):
            length = int(np.clip(generator.gamma(3, 7), 1, 100))
            words = [
                vocabulary[index] for index in generator.choice(len(vocabulary), length, p=weights / weights.sum())
            ]
            visual = generator.standard_normal((length, VISUAL), np.float32)
            acoustic = generator.standard_normal((length, ACOUSTIC), np.float32)
            label = np.array([[generator.uniform(-3, 3)]], np.float32)
            data[split].append(((words, visual, acoustic), label, f"{split}{index // 7}_{index % 7}"))
    return data


def make_vocabulary(size: int = 15_000) -> list[str]:
    """Pronounceable made-up words."""
    chooser = random.Random(0)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "en", "or")]
    return sorted({"".join(chooser.choices(syllables, k=chooser.randint(1, 4))) for _ in range(2 * size)})[:size]


def loop_over_words(path: Path, tokenizer) -> dict[str, float]:
    """MAG's and ITHP's preparation, written from their rule: word by word, sample by sample."""
    import numpy as np
    import torch

    started = time.perf_counter()
    with path.open("rb") as file:
        data = pickle.load(file)
    loaded = time.perf_counter()
    cls, sep, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    tensors = []
    for samples in data.values():
        columns = [[] for _ in range(5)]
        for (words, visual, acoustic), label, _ in samples:
            pieces, owners = [], []
            for index, word in enumerate(words):
                tokens = tokenizer.tokenize(word)
                pieces.extend(tokens)
                owners.extend([index] * len(tokens))
            pieces, owners = pieces[: MAX_LENGTH - 2], owners[: MAX_LENGTH - 2]
            ids = [cls, *tokenizer.convert_tokens_to_ids(pieces), sep]
            padding = MAX_LENGTH - len(ids)
            features = []
            for rows in (visual, acoustic):
                aligned = np.array([rows[index] for index in owners]).reshape(-1, rows.shape[1])
                zero = np.zeros((1, rows.shape[1]))
                features.append(np.concatenate((zero, aligned, zero, np.zeros((padding, rows.shape[1])))))
            columns[0].append(ids + [pad] * padding)
            columns[1].append([1] * len(ids) + [0] * padding)
            columns[2].append(features[0])
            columns[3].append(features[1])
            columns[4].append(label)
        ids, mask, visual, acoustic, labels = (np.array(column) for column in columns)
        tensors.append([torch.tensor(ids), torch.tensor(mask), torch.tensor(labels, dtype=torch.float)])
        tensors[-1] += [torch.tensor(visual, dtype=torch.float), torch.tensor(acoustic, dtype=torch.float)]
    return {"seconds": time.perf_counter() - started, "load_seconds": loaded - started}


def our_way(path: Path, tokenizer, cache: Path, collate: bool) -> dict[str, float]:
    """The package: one call to Arrow, one to model inputs, and if wanted all batches as tensors."""
    from data_builders import load_aligned_dataset
    from modeling_cpsl import CPSLDataCollator, CPSLProcessor
    from modeling_cpsl.training.encoding import encode_dataset

    before, started = peak_megabytes(), time.perf_counter()
    dataset = load_aligned_dataset(path, cache_dir=cache)
    built, build_memory = time.perf_counter(), peak_megabytes() - before
    processor = CPSLProcessor(tokenizer, {"acoustic": ACOUSTIC, "visual": VISUAL}, max_length=MAX_LENGTH)
    encoded = encode_dataset(dataset, processor)
    if collate:
        collator = CPSLDataCollator(processor)
        for split in encoded.values():
            for batch in split.iter(batch_size=8):
                collator([dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)])
    seconds = {"seconds": time.perf_counter() - started, "build_seconds": built - started}
    return {**seconds, "build_memory": build_memory}


def load_only(path: Path) -> dict[str, float]:
    """The pickle, loaded: the yardstick of memory."""
    with path.open("rb") as file:
        data = pickle.load(file)
    return {"samples": sum(map(len, data.values()))}


def stream(path: Path) -> dict[str, float]:
    """Streams a folder of Parquet once."""
    from data_builders import load_aligned_dataset

    splits = load_aligned_dataset(path, streaming=True)
    batches = splits["train"].with_format("numpy").iter(batch_size=32)
    return {"samples": sum(len(batch["id"]) for batch in batches)}


def build_sequences(folder: Path, cache: Path, processes: int) -> dict[str, float]:
    """Builds a folder of computational sequences with so many processes."""
    from data_builders import load_aligned_dataset

    started = time.perf_counter()
    load_aligned_dataset(folder, cache_dir=cache, num_proc=processes)
    return {"seconds": time.perf_counter() - started}


def peak_megabytes() -> float:
    """Peak resident memory of this process alone."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def run_arm(name: str, *arguments: str) -> dict[str, float]:
    """Runs one arm in a fresh process; `memory` is its peak above what its imports need."""
    command = [sys.executable, __file__, "--arm", name, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TOKENIZERS_PARALLELISM": "true"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def arm(name: str, arguments: list[str]) -> None:
    """What the fresh process does."""
    paths = [Path(argument) for argument in arguments]
    tokenizer = None
    if name in ("loop", "ours", "ours_tensors"):
        from transformers import AutoTokenizer

        import data_builders
        import modeling_cpsl  # noqa: F401

        tokenizer = AutoTokenizer.from_pretrained(paths[1])
        tokenizer("warm up")
    elif name == "sequences":
        import data_builders  # noqa: F401
    before, cpu = peak_megabytes(), time.process_time()
    runs = {
        "loop": lambda: loop_over_words(paths[0], tokenizer),
        "ours": lambda: our_way(paths[0], tokenizer, paths[2], collate=False),
        "ours_tensors": lambda: our_way(paths[0], tokenizer, paths[2], collate=True),
        "load": lambda: load_only(paths[0]),
        "stream": lambda: stream(paths[0]),
        "sequences": lambda: build_sequences(paths[0], paths[1], int(arguments[2])),
    }
    result = runs[name]()
    print(
        json.dumps(
            {**result, "cpu": time.process_time() - cpu, "memory": peak_megabytes() - before, "peak": peak_megabytes()}
        )
    )


def make_sequences(folder: Path, videos: int) -> None:
    """Computational sequences of 10 segments a video, 100 acoustic frames a second."""
    import h5py
    import numpy as np

    folder.mkdir()
    generator = np.random.default_rng(0)
    words = np.arange(201) * 0.3
    frames = np.arange(6001) / 100
    content = {
        "words": (np.full((200, 1), b"word"), words),
        "Opinion Labels": (np.ones((10, 1)), np.arange(11) * 6.0),
        "COVAREP": (None, frames),
    }
    names = [f"video{index}" for index in range(videos)]
    for root, (features, borders) in content.items():
        with h5py.File(folder / f"{root}.csd", "w") as file:
            for name in names:
                group = file.create_group(f"{root}/data/{name}")
                rows = generator.standard_normal((6000, ACOUSTIC), np.float32) if features is None else features
                group["features"], group["intervals"] = rows, np.stack([borders[:-1], borders[1:]], axis=1)
    (folder / "folds.json").write_text(json.dumps({"train": names}))


def main() -> None:
    """Makes the data, runs the arms and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=23_453, help="samples in the pickle")
    parser.add_argument("--videos", type=int, default=96, help="videos of the computational sequences")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved runs of each arm; the median counts")
    parser.add_argument("--arm", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        arm(options.arm[0], options.arm[1:])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "mosei.pkl"
        write_inputs(folder, path, options.segments)
        print(f"pickle of {options.segments} segments, {path.stat().st_size / 2**20:.0f} MB")
        compare(folder, path, options.repeats)
        make_sequences(folder / "csd", options.videos)
        alone, both = (
            run_arm("sequences", folder / "csd", folder / f"processes{count}", count)["seconds"] for count in (1, 2)
        )
        print(f"computational sequences, {options.videos} videos: 1 process {alone:.1f} s, 2 processes {both:.1f} s")
        for times in (1, 4, 16):
            result = run_arm("stream", folder / f"parquet{times}")
            print(f"stream of {result['samples']} samples: peak {result['peak']:.0f} MB")


def write_inputs(folder: Path, path: Path, segments: int) -> None:
    """The pickle, a tokenizer for its words, and Parquet folders for the streams."""
    from data_builders import load_aligned_dataset
    from data_builders.conversion import write_parquet
    from modeling_cpsl.experiments.sample_backbone import make_sample_backbone

    make_sample_backbone(make_vocabulary(), folder / "tokenizer")
    path.write_bytes(pickle.dumps(make_data(segments), protocol=4))
    splits = load_aligned_dataset(path, cache_dir=folder / "made")
    train = splits["train"]
    for times in (1, 4, 16):
        splits["train"] = train.select(range(min(len(train), 1000 * times)))
        write_parquet(splits, folder / f"parquet{times}")


def compare(folder: Path, path: Path, repeats: int) -> None:
    """The arms against the loop, interleaved."""
    import shutil
    import statistics

    names = ("loop", "ours", "ours_tensors")
    results = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            results[name].append(run_arm(name, path, folder / "tokenizer", folder / "cache"))
    size = run_arm("load", path)["memory"]
    median = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in results.items()
    }
    loop = median["loop"]
    print(f"the pickle loaded: {size:.0f} MB")
    print(f"loop: {loop['seconds']:.1f} s [{loop['cpu']:.1f}], of which {loop['load_seconds']:.1f} s load the pickle")
    for name in names[1:]:
        ours = median[name]
        print(
            f"{name}: {ours['seconds']:.1f} s [{ours['cpu']:.1f}], {ours['build_seconds']:.1f} s of it build Arrow: "
            f"{ours['seconds'] / loop['seconds']:.2f} x the loop [{ours['cpu'] / loop['cpu']:.2f}]; "
            f"memory {ours['memory'] / size:.2f} x the loaded pickle ({ours['build_memory'] / size:.2f} x to Arrow)"
        )


if __name__ == "__main__":
    main()
