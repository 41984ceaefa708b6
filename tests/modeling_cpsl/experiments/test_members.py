"""A run that is distilled from an ensemble: what its members are, what is kept of them, and how it goes on."""

import io
import json
import signal
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from forked import ForkedProcess, is_written
from labelled_runs import SMALL, labelled_rows, write_rows
from run_cases import pictures_not_rendered
from shared_run import built_once
from sklearn.metrics import f1_score

from modeling_cpsl.experiments import records
from modeling_cpsl.experiments.members import member_recipe, read_member
from modeling_cpsl.experiments.recipe import read_recipe
from modeling_cpsl.experiments.run import run


DISTILLED = {"distillation_members": 2}
CLASSES = ["calm", "happy", "sad"]


def train(data, folder, **options):
    """Two epochs of three steps on three classes."""
    options = {
        "num_train_epochs": 2,
        "learning_rate": 3e-3,
        "class_weights": "balanced",
        "save_total_limit": 1,
    } | options
    with pictures_not_rendered():
        return run("sample", dataset=str(data), output_dir=str(folder), disable_tqdm=True, **SMALL, **options)


def killed(data, folder, mark):
    """Trains in a process that is killed as soon as a file in the folder is written; returns what it printed."""
    process = ForkedProcess(lambda: train(data, folder, **DISTILLED, resume_from_checkpoint="last") and None)
    process.signal_when(lambda: is_written(folder / mark), signal.SIGKILL)
    process.start()
    printed, _ = process.finish()
    assert process.exitcode == -signal.SIGKILL
    return printed


@pytest.fixture(scope="module")
def distilled():
    """The data, the folder of a run with two members that was killed in the second one and then in its own training.

    Also what each of its three processes printed.
    """

    def build(folder):
        data = write_rows(labelled_rows("class"), folder / "data.jsonl")
        printed = [killed(data, folder / "run", "members/1/checkpoint-3/trainer_state.json")]
        assert [path.name for path in (folder / "run" / "members").glob("*.pt")] == ["0.pt"]
        with pytest.raises(ValueError, match=r"holds a run already; .*, or continue that run"):
            train(data, folder / "run", **DISTILLED)
        other = DISTILLED | {"learning_rate": 1e-3, "resume_from_checkpoint": "last"}
        with pytest.raises(ValueError, match=r"holds members .* with other options \(learning_rate 0\.003\)"):
            train(data, folder / "run", **other)
        printed.append(killed(data, folder / "run", "checkpoint-3/trainer_state.json"))
        with redirect_stdout(io.StringIO()) as stream:
            train(data, folder / "run", **DISTILLED, resume_from_checkpoint="last")
        (folder / "printed.json").write_text(json.dumps([*printed, stream.getvalue()]))

    folder = built_once("distilled", build)
    return folder / "data.jsonl", folder / "run", json.loads((folder / "printed.json").read_text())


def probabilities(logits):
    return torch.from_numpy(logits).double().softmax(-1).numpy()


@pytest.mark.slow
def test_the_ensemble_is_the_mean_of_its_members_and_has_its_own_figures(distilled):
    data, folder, printed = distilled
    assert sorted(path.name for path in (folder / "members").iterdir()) == ["0.pt", "1.pt"]
    members = [read_member(folder / "members" / name) for name in "01"]
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    results = records.read_results(folder)
    for split in ("validation", "test"):
        labels = [CLASSES.index(row["label"]) for row in rows if row["split"] == split]
        means = np.mean([probabilities(member.logits[split]) for member in members], axis=0)
        expected = f1_score(labels, means.argmax(-1), average="weighted")
        assert results[f"{split}_ensemble_f1_weighted"] == pytest.approx(expected)
        assert f"{split} f1_weighted {expected:.4f}" in printed[-1].splitlines()[-1]
    assert members[0].logits["train"].shape == (48, 3)
    assert np.abs(members[0].logits["train"] - members[1].logits["train"]).max() > 1e-3
    assert "members" not in " ".join(records.shared_files(folder))
    assert "mean of what 2 models predict" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_member_that_was_killed_is_what_a_run_with_its_seed_is(distilled, tmp_path):
    data, folder, _ = distilled
    member = read_member(folder / "members" / "1")
    train(data, tmp_path / "run", seed=member.options["seed"])
    for split in ("validation", "test"):
        table = records.read_predictions(tmp_path / "run", split)
        columns = table[[f"probability_{name}" for name in CLASSES]]
        np.testing.assert_allclose(probabilities(member.logits[split]), columns, atol=1e-6)


@pytest.mark.slow
def test_what_a_killed_run_has_finished_is_not_trained_again(distilled):
    _, folder, printed = distilled
    trained = [[f"member {number} of 2" in text for number in (1, 2)] for text in printed]
    assert trained == [[True, True], [False, True], [False, False]]
    assert "resumed from" not in printed[0] and all(text.count("resumed from") == 1 for text in printed[1:])
    rows = [row for row in records.read_log(folder) if "train_distillation_loss" in row]
    assert [row["epoch"] for row in rows] == [1.0, 2.0]


def test_runs_with_other_seeds_share_no_member_and_what_does_not_matter_is_left_out(tmp_path):
    options = {"distillation_members": 5, "distillation_weight": 0.9, "push_to_hub": True, "report_to": "all"}
    recipes = [read_recipe("sample", output_dir=str(tmp_path), seed=seed, **options) for seed in range(20)]
    members = [member_recipe(recipe, number).training for recipe in recipes for number in range(5)]
    assert len({member.seed for member in members} | {*range(20)}) == 120
    assert all(0 <= member.seed < 2**31 and not member.push_to_hub and not member.report_to for member in members)
    assert {(member.distillation_members, member.distillation_weight) for member in members} == {(0, 0.5)}
    assert members[7].output_dir == str(tmp_path / "members" / "2")
    assert recipes[0].training.distillation_members == 5 and recipes[3].training.seed == 3


def test_a_stream_and_a_damaged_member_are_refused(small_tables, tmp_path):
    options = {"dataset": str(small_tables), "distillation_members": 1, "resume_from_checkpoint": "last"}
    with pytest.raises(ValueError, match=r"distillation_members: .* a stream is not kept; leave --streaming out"):
        run("sample", output_dir=str(tmp_path / "stream"), streaming=True, **options)
    assert not (tmp_path / "stream").exists()
    path = tmp_path / "run" / "members" / "0.pt"
    path.parent.mkdir(parents=True)
    for content in (b"", b"\x80\x04cos\nsystem\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"members/0\.pt: not a readable member of an ensemble .* remove it"):
            run("sample", output_dir=str(tmp_path / "run"), **options)
