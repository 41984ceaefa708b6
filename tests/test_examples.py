"""The examples run as they are documented and show what they say."""

import math
import runpy
from pathlib import Path

import pytest

from modeling_cpsl.modulation import RULES


EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *arguments):
    return runpy.run_path(str(EXAMPLES / name))["main"](list(arguments))


def test_plain_pytorch_modulation(capsys):
    results = run("plain_pytorch_modulation.py")
    plain, modulated = results["plain"], results["modulated"]
    assert plain["coefficient_acoustic"] == plain["coefficient_visual"] == 1
    assert modulated["coefficient_acoustic"] < 0.1 < 0.9 < modulated["coefficient_visual"]
    # 0.59 against 0.71, at chance 0.25: the weak modality's encoder learns more
    assert modulated["accuracy_visual"] > plain["accuracy_visual"] + 0.05
    assert f"accuracy_visual{plain['accuracy_visual']:19.3f}" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["gradient", "update"])
def test_plain_pytorch_modulation_with_adamw(target):
    results = run("plain_pytorch_modulation.py", "--optimizer", "adamw", "--target", target, "--epochs", "2")
    assert results["modulated"]["damped_acoustic"] > 0.5
    assert results["plain"]["damped_acoustic"] == 0


@pytest.mark.parametrize("balance", RULES)
def test_every_rule_in_a_plain_loop(balance):
    arguments = ["--balance", balance, "--epochs", "1", *(["--target", "update"] if balance == "alternate" else [])]
    results = run("plain_pytorch_modulation.py", *arguments)["modulated"]
    assert all(math.isfinite(value) for value in results.values())
    assert (results["coefficient_acoustic"] == results["coefficient_visual"] == 1) == (balance == "none")


def test_every_policy_in_a_plain_loop():
    train = runpy.run_path(str(EXAMPLES / "plain_pytorch_modulation.py"))["train"]
    accuracies = {
        masking: train("none", masking, "sgd", "gradient", num_epochs=7, seed=0)["accuracy_visual"]
        for masking in ("none", "uniform", "opm", "soft")
    }
    # the strong modality being gone at times, the weak one learns more
    assert min(accuracies[masking] for masking in ("uniform", "opm", "soft")) > accuracies["none"] + 0.02


@pytest.mark.parametrize(("balance", "masking"), [("ogm", "uniform"), ("inverse_variance", "none"), ("none", "opm")])
def test_rules_and_policies_in_somebody_else_s_trainer(balance, masking):
    epochs = run("trainer_modulation.py", "--balance", balance, "--masking", masking, "--epochs", "2")
    assert len(epochs) == 2 and all(math.isfinite(value) for logs in epochs for value in logs.values())
    assert (epochs[1]["coefficient_visual"] == 1) == (balance == "none")


def test_trainer_modulation():
    epochs = run("trainer_modulation.py")
    assert len(epochs) == 3
    assert epochs[2]["loss"] < epochs[0]["loss"]
    for logs in epochs:
        assert all(math.isfinite(value) for value in logs.values())
        # the clearest modality is better than the other two and damped, the least clear one never
        assert logs["coefficient_visual"] <= 1 - math.tanh(1)
        assert logs["coefficient_physiology"] == 1
