"""What is decided for a whole step: what its samples count by, and the noise of their latents."""

from types import SimpleNamespace

import numpy as np
import torch

from modeling_cpsl.training.optimizer_step import sample_noise, step_weights


def test_a_step_weighs_its_samples_alike_on_all_processes():
    """Trainer divides by two micro-batches and DDP by three processes: all weights times the losses sum to a mean."""
    counts = [[3, 1], [2, 2], [1, 0]]
    accelerator = SimpleNamespace(num_processes=3, reduce=lambda count, reduction: torch.tensor(9.0))
    weights = [step_weights(rank, accelerator, torch.device("cpu")) for rank in counts]
    share = [[weight.item() / (2 * 3) for weight in rank] for rank in weights]
    np.testing.assert_allclose(share, np.array(counts) / 9)


def test_noise_belongs_to_the_sample_whatever_its_batch_and_length():
    def draw(ids, length, seed=3, step=7):
        batch = {"ids": ids, "labels": torch.zeros(len(ids))}
        return sample_noise(batch, {"acoustic": (length, 5), "visual": (length, 5)}, seed, step)

    noise, alone = draw(["a", "b", "c"], 40), draw(["b"], 12)
    assert noise["acoustic"].shape == (3, 40, 5) and noise["acoustic"].dtype == torch.float32
    assert torch.equal(noise["acoustic"][1, :12], alone["acoustic"][0])
    assert abs(noise["visual"].mean()) < 0.1 and abs(noise["visual"].std() - 1) < 0.1
    drawn = [*noise["acoustic"], noise["visual"][0], draw(["a"], 40, seed=4)["acoustic"][0]]
    drawn += [draw(["a"], 40, step=8)["acoustic"][0]]
    assert len({tuple(values.flatten().tolist()) for values in drawn}) == len(drawn)
