"""Every command and snippet of README.md runs, and its figures are those that were measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_builders import load_aligned_dataset


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
SHELL = [block for language, block in BLOCKS if language == "bash"]
PYTHON = [block for language, block in BLOCKS if language == "python"]

# Commands that need what is not here: data that cannot be shipped, several GPUs; or that this test is itself part of.
ELSEWHERE = ("make ", "pip install", "accelerate launch")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder that looks like the repository's root, with a trained model and data of the user's own."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("run_train.py", "examples", "modeling_cpsl", "data_builders"):
        (folder / name).symlink_to(ROOT / name)
    rows = load_aligned_dataset("sample")
    rows["train"].to_parquet(folder / "my_data.parquet")
    run(folder, "python run_train.py recipes/sample.yaml --num_train_epochs 1")
    return folder


def run(folder, command):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert process.returncode == 0, f"{command}\n{process.stdout[-2000:]}\n{process.stderr[-3000:]}"
    return process.stdout


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in SHELL if not block.startswith(ELSEWHERE)])
def test_shell_block_runs(workspace, block):
    run(workspace, block)


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON)
def test_python_block_runs(workspace, block):
    (workspace / "snippet.py").write_text(block)
    assert "'text'" in run(workspace, "python snippet.py")


@pytest.mark.parametrize("target", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_link_leads_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:recipes|modeling_cpsl|data_builders|examples)/[\w./]+)`", README)))
)
def test_named_file_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("target", ["train", "test", "setup"])
def test_make_target_exists(target):
    process = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
