"""What importing the package costs, against importing the three Auto classes of transformers that it registers with.

`python benchmarks/bench_import.py [--quick] [--json OUT]`. Each import is in a process of its own, by turns.
"""

import json
import subprocess
import sys
import time

from measuring import REPOSITORY, parse_arguments, report, summary


IMPORTS = {
    "transformers": "from transformers import AutoConfig, AutoModelForSequenceClassification, AutoProcessor",
    "modeling_cpsl": "import modeling_cpsl",
}
MEASURE = "import time, json; {}; print(json.dumps(time.process_time()))"


def main() -> None:
    """Measures and reports."""
    options = parse_arguments(__doc__, repetitions=7)
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in IMPORTS}
    for _ in range(1 if options.quick else options.repetitions):
        for name, statement in IMPORTS.items():
            started = time.perf_counter()
            command = [sys.executable, "-c", MEASURE.format(statement)]
            result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
            cpu = json.loads(result.stdout.splitlines()[-1])
            seconds[name].append({"cpu": cpu, "wall": time.perf_counter() - started})
    rows = summary(seconds, base="transformers")
    report("Imports", rows, {"ratio_to_transformers": rows["modeling_cpsl"]["ratio"]}, options.json)


if __name__ == "__main__":
    main()
