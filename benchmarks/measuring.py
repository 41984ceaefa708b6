"""How the benchmarks measure: variants by turns in one process, ratios within each turn, and what they ran on."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


REPOSITORY = Path(__file__).resolve().parents[1]


def parse_arguments(description: str, files: Sequence[str] = (), **defaults: int) -> argparse.Namespace:
    """The options of every benchmark, and of this one: paths, and integers with their defaults."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model and few repetitions, to see whether it runs"
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    for name in files:
        parser.add_argument(f"--{name}", type=Path, help="a further path")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    return parser.parse_args()


def by_turns(variants: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, list[dict[str, float]]]:
    """Runs the variants one after the other, again and again.

    Returns:
        For each variant the CPU and wall seconds of each repetition; one that only warms up is left out.
    """
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(repetitions + 1):
        for name, run in variants.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            seconds[name].append({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall})
    return {name: values[1:] for name, values in seconds.items()}


def summary(
    seconds: Mapping[str, list[dict[str, float]]], base: str, clock: str = "cpu"
) -> dict[str, dict[str, float]]:
    """Each variant's least and median seconds, and the median over the turns of its time over that of `base`."""
    rows = {}
    for name, values in seconds.items():
        rows[name] = {
            f"{statistic.__name__}_{name_of_clock}": statistic(value[name_of_clock] for value in values)
            for name_of_clock in ("cpu", "wall")
            for statistic in (min, statistics.median)
        }
        rows[name]["ratio"] = statistics.median(
            value[clock] / other[clock] for value, other in zip(values, seconds[base], strict=True)
        )
    return rows


def report(title: str, rows: Mapping[str, Mapping[str, float]], results: Mapping[str, Any], path: Path | None) -> None:
    """Prints a table with a line for each variant, and writes everything as JSON."""
    columns = list(next(iter(rows.values())))
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[column]:.4g}' for column in columns)} |")
    print("\n" + "\n".join(f"{name}: {value}" for name, value in results.items()))
    if path is not None:
        content = {**results, "variants": rows, "environment": environment(), "command": sys.argv}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch
    import transformers

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True
        ).stdout.strip(),
    }


def in_fresh_process(script: str, *arguments: str) -> dict[str, float]:
    """Runs a benchmark's own file again with arguments, and returns the JSON of the last line that it prints."""
    command = [sys.executable, script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def peak_megabytes() -> float:
    """The largest resident memory that this process alone has had."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
