"""What is drawn for a step: which modalities are left out of a sample, and the noise of its latents."""

from types import SimpleNamespace

import numpy as np
import torch
from training_cases import make_trainer, relative_distance, train_and_record

from modeling_cpsl.training.optimizer_step import drop_modalities, sample_noise, step_weights


MODALITIES = ["text", "acoustic", "visual"]


def kept_modalities(probability, count=600, present=None):
    """What is left in a batch of `count` samples, (count, 3)."""
    batch = {"ids": [f"s{index}" for index in range(count)], "labels": torch.zeros(count)}
    batch["modality_mask"] = present or {name: torch.ones(count, dtype=torch.bool) for name in ("acoustic", "visual")}
    mask = drop_modalities(batch, MODALITIES, probability, seed=3, step=0)
    return torch.stack([mask[name] for name in MODALITIES], dim=1).numpy()


def test_each_modality_is_dropped_with_its_probability():
    kept = kept_modalities(0.3, count=4000)
    # All three fall out with .027, and then one of the three stays: .3 - .009 each.
    np.testing.assert_allclose(kept.mean(axis=0), 0.709, atol=0.025)
    assert kept.any(axis=1).all()
    pairs = np.corrcoef(kept.T)[np.triu_indices(3, 1)]
    assert np.abs(pairs).max() < 0.12  # one by one, but for the rule that one stays


def test_what_is_missing_stays_missing_and_one_always_stays():
    acoustic = torch.arange(600) % 2 == 0
    present = {"acoustic": acoustic, "visual": torch.zeros(600, dtype=torch.bool)}
    kept = kept_modalities(0.9, present=present)
    assert kept.any(axis=1).all() and not kept[:, 2].any() and not kept[~acoustic.numpy(), 1].any()
    assert kept[~acoustic.numpy(), 0].all()


def test_a_sample_without_any_modality_stays_so():
    absent = {name: torch.zeros(4, dtype=torch.bool) for name in MODALITIES}
    assert not kept_modalities(0.5, count=4, present=absent).any()


def test_training_with_dropout_does_not_depend_on_how_a_step_is_cut(tmp_path):
    options = {"latent_noise": "sample", "modality_dropout": 0.4, "num_train_epochs": 3, "learning_rate": 1e-3}
    whole, _ = train_and_record(tmp_path / "a", per_device_train_batch_size=8, **options)
    cut, _ = train_and_record(tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    without, _ = train_and_record(
        tmp_path / "c", per_device_train_batch_size=8, **(options | {"modality_dropout": 0.0})
    )
    assert relative_distance(whole, cut) <= 1e-5
    assert relative_distance(whole, without) > 1e-4


def test_a_step_weighs_its_samples_alike_on_all_processes():
    """Trainer divides by two micro-batches and DDP by three processes: all weights times the losses sum to a mean."""
    counts = [[3, 1], [2, 2], [1, 0]]
    accelerator = SimpleNamespace(num_processes=3, reduce=lambda count, reduction: torch.tensor(9.0))
    weights = [step_weights(rank, accelerator, torch.device("cpu")) for rank in counts]
    share = [[weight.item() / (2 * 3) for weight in rank] for rank in weights]
    np.testing.assert_allclose(share, np.array(counts) / 9)


def test_evaluation_drops_nothing(tmp_path):
    with_dropout, without = (make_trainer(tmp_path / str(rate), modality_dropout=rate) for rate in (0.9, 0.0))
    split = with_dropout.train_dataset
    np.testing.assert_array_equal(with_dropout.predict(split).predictions[0], without.predict(split).predictions[0])


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
