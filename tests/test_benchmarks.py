"""The benchmarks run and report what their readers rely on; how long anything takes is not tested."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from warm_python import warm_python


ROOT = Path(__file__).parents[1]
RESULTS = {
    "drift": "mae_change",
    "epoch": "ratio_to_peer_style",
    "gpu": "ratio_to_peer_style",
    "import": "ratio_to_transformers",
    "inference": "speedup_over_peer_style",
    "media": "words_and_voice_times_real_time",
    "memory": "ratio_to_peer_style",
    "scale": "memory_growth_of_streaming",
    "step": "ratio_to_plain",
    "voice": "within_speaker_over_egemaps",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_a_benchmark_runs_and_writes_its_results(tmp_path, name):
    out, plot = tmp_path / "results.json", tmp_path / "plot.png"
    command = [warm_python(), ROOT / "benchmarks" / f"bench_{name}.py", "--quick", "--json", out]
    if name == "step":
        command += ["--plot", plot]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert result.returncode == 0, result.stderr
    content = json.loads(out.read_text())
    value = content[RESULTS[name]]
    values = [value["fp32"], value["int8"]] if name == "inference" else [value]
    assert all(value >= 0 for value in values)
    assert {"cores", "torch", "transformers", "commit"} <= content["environment"].keys()
    for variant in content["variants"]:
        assert f"| {variant} |" in result.stdout
    assert plot.exists() == (name == "step")


def test_every_benchmark_is_tried():
    names = {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert names == RESULTS.keys() | {"data"}


def test_make_bench_runs_what_is_said_of_speed(tmp_path):
    command = ["make", "-C", ROOT, "--dry-run", "--assume-old=.venv/installed", "bench", f"OUT={tmp_path}"]
    planned = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = re.findall(r"benchmarks/bench_(\w+)\.py --json", planned)
    assert names == ["import", "step", "epoch", "memory", "inference", "scale"]
    assert all(f"{tmp_path}/{name}.json" in planned for name in names)
