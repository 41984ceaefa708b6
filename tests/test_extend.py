"""Who follows docs/extend.md as written gets a valid choice of the command line that trains a step.

The page's blocks are edits of the code. The first line of each says where it goes:

- `# PATH` is a new file;
- `# PATH, above TEXT`: above the one line that begins with TEXT;
- `# PATH, in NAME` and `# PATH, first in NAME`: one more entry of the tuple or dict NAME.
"""

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from warm_python import warm_python


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "extend.md").read_text(), flags=re.DOTALL)
PLACE = re.compile(r"# (?P<path>\S+\.\w+)(?:, (?P<where>above|in|first in) (?P<target>.+))?")
SHELL = [code.replace("\\\n", " ") for language, code in BLOCKS if language == "bash"]
COMMANDS = [line for code in SHELL for line in code.splitlines()]
# Everything in one process, since each start costs seconds of imports: the page's commands, and what no command shows.
SCRIPT = """
import json, shlex, sys
import cpsl
for command in sys.argv[1:]:
    program, *arguments = shlex.split(command)
    status = cpsl.main(arguments)
    assert program == "cpsl" and status == 0, command

import torch
from transformers import AutoModelForSequenceClassification, ElectraConfig
from modeling_cpsl.modeling_cpsl import CPSL_MODELS

backbone = ElectraConfig(vocab_size=30, embedding_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
config = CPSL_MODELS["electra"].config_class.from_backbone(backbone, modality_sizes={"acoustic": 3})
model = AutoModelForSequenceClassification.from_config(config)
batch = {"input_ids": torch.randint(30, (2, 5)), "acoustic": torch.rand(2, 5, 3), "labels": torch.zeros(2)}
model(**batch).loss.backward()
import numpy as np
from modeling_cpsl import compute_sentiment_metrics
from modeling_cpsl.evidence.group_sums import group_sums, metrics_of_sums

predictions, labels = np.random.default_rng(0).uniform(-3, 3, (2, 50))
sums = np.array([*group_sums(predictions, labels, ["a"] * 20 + ["b"] * 30).values()]).sum(axis=0)
found = {
    "acc3": [float(metrics_of_sums(sums)["acc3"]), compute_sentiment_metrics(predictions, labels)["acc3"]],
    "encoder": [type(model).__name__, all(p.grad is not None for p in model.electra.parameters())],
}
json.dump(found, open("found.json", "w"))
"""


def apply(folder, block):
    """Does to the copy in `folder` what the first line of a block says."""
    first, _, code = block.partition("\n")
    place = PLACE.fullmatch(first)
    assert place, f"{first!r} does not say where the block goes"
    file = folder / place["path"]
    if place["where"] is None:
        assert not file.exists(), f"{first}: it is there"
        file.write_text(code.lstrip("\n"))
    elif place["where"] == "above":
        file.write_text(insert_above(file.read_text(), place["target"], code))
    else:
        file.write_text(insert_entry(file.read_text(), place["target"], code, first=place["where"] == "first in"))


def insert_above(text, target, code):
    lines = text.splitlines(keepends=True)
    found = [index for index, line in enumerate(lines) if line.lstrip().startswith(target)]
    assert len(found) == 1, f"{len(found)} lines begin with {target!r}"
    return "".join([*lines[: found[0]], code.lstrip("\n"), *lines[found[0] :]])


def insert_entry(text, name, code, first):
    lines = text.splitlines(keepends=True)

    def position(line, column):
        return sum(map(len, lines[: line - 1])) + column

    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = node.value
            begin, end = position(value.lineno, value.col_offset), position(value.end_lineno, value.end_col_offset)
            entries = [code.strip().rstrip(","), text[begin + 1 : end - 1].strip().rstrip(",")]
            joined = ",\n    ".join(entries if first else reversed(entries))
            return f"{text[: begin + 1]}\n    {joined},\n{text[end - 1 :]}"
    raise AssertionError(f"there is no list {name}")


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the code with every block of the page, in which every command of the page has run."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copy(ROOT / "cpsl.py", folder)
    for package in ("modeling_cpsl", "data_builders"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for language, code in BLOCKS:
        if language in ("python", "text"):
            apply(folder, code)
    process = subprocess.run(
        [warm_python(), "-c", SCRIPT, *COMMANDS],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, f"{process.stdout[-2000:]}\n{process.stderr[-3000:]}"
    return folder


def read_json(extended, *names):
    return json.loads(extended.joinpath(*names).read_text())


def log_rows(extended, name):
    return [json.loads(line) for line in (extended / "outputs" / name / "training_log.jsonl").read_text().splitlines()]


def test_fusion_block(extended):
    assert read_json(extended, "outputs", "maximum", "config.json")["fusion"] == "maximum"


def test_loss(extended):
    assert read_json(extended, "outputs", "sparse", "config.json")["sparsity_weight"] == 0.01
    rows = log_rows(extended, "sparse")
    assert all(any(row.get(f"{part}_sparsity_loss", 0) > 0 for row in rows) for part in ("train", "eval"))


def test_metric(extended):
    results = read_json(extended, "outputs", "acc3", "all_results.json")
    assert 0 <= results["validation_acc3"] <= 1
    state = read_json(extended, "outputs", "acc3", "checkpoint-1", "trainer_state.json")
    assert state["best_metric"] == results["validation_acc3"]
    assert "acc3" in (extended / "outputs" / "acc3" / "README.md").read_text()
    from_sums, from_predictions = read_json(extended, "found.json")["acc3"]
    assert from_sums == pytest.approx(from_predictions) and 0 < from_sums < 1


def test_modulation_rule(extended):
    rows = [row for row in log_rows(extended, "floored") if "train_coefficient_acoustic" in row]
    coefficients = sorted([rows[0]["train_coefficient_acoustic"], rows[0]["train_coefficient_visual"]])
    assert coefficients == pytest.approx([0.3, 1.0])


def test_architecture(extended):
    config = read_json(extended, "outputs", "product", "config.json")
    assert (config["architecture"], config["architecture_options"]) == ("product", {"dropout": 0.1})
    assert "The architecture is product (this package)" in (extended / "outputs" / "product" / "README.md").read_text()
    assert (extended / "outputs" / "product" / "product_cpsl.py").exists()


def test_text_encoder(extended):
    assert read_json(extended, "found.json")["encoder"] == ["CPSLElectraForSentimentRegression", True]


def test_modality(extended):
    assert read_json(extended, "outputs", "gaze", "config.json")["modality_sizes"] == {"gaze": 1, "pulse": 1}


def test_file_format(extended):
    assert read_json(extended, "outputs", "sentences", "config.json")["modality_sizes"] == {}
