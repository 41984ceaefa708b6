"""Running means over samples, steps and ranks."""

import pytest
import torch
from accelerate import Accelerator

from modeling_cpsl.training.means import MeanTracker


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def test_a_value_counts_by_its_weight(accelerator):
    tracker = MeanTracker()
    tracker.update({"loss": torch.tensor(1.0), "task": torch.tensor(4.0)}, 3)
    tracker.update({"loss": torch.tensor(5.0)}, 1)
    assert tracker.pop(accelerator) == {"loss": 2.0, "task": 4.0}
    assert tracker.pop(accelerator) == {}


def test_what_is_not_finite_shows(accelerator):
    tracker = MeanTracker()
    tracker.update({"loss": torch.tensor(1.0)})
    tracker.update({"loss": torch.tensor(torch.inf)})
    assert tracker.pop(accelerator) == {"loss": torch.inf}


def test_sums_over_micro_batches_are_means_over_steps(accelerator):
    tracker = MeanTracker()
    for step in ([1.0, 2.0], [3.0, 4.0]):
        for value, count in zip(step, (0.0, 1.0), strict=True):
            tracker.update({"loss": torch.tensor(value)}, count=count)
    assert tracker.pop(accelerator) == {"loss": 5.0}


def test_a_restart_continues(accelerator, tmp_path):
    tracker, restarted = MeanTracker(), MeanTracker()
    tracker.update({"loss": torch.tensor(1.0, requires_grad=True)}, 2)
    torch.save(tracker.state_dict(accelerator), tmp_path / "means.pt")
    restarted.load_state_dict(torch.load(tmp_path / "means.pt", weights_only=True), accelerator)
    for one in (tracker, restarted):
        one.update({"loss": torch.tensor(4.0)}, 1)
    assert tracker.pop(accelerator) == restarted.pop(accelerator) == {"loss": 2.0}
