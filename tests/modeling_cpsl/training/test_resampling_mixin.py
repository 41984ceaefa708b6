"""Trainings that draw their samples by weights."""

import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_cases import make_trainer

from modeling_cpsl.training.checkpoints import last_complete_checkpoint
from modeling_cpsl.training.coalitions import sample_contributions
from modeling_cpsl.training.labels import label_statistics
from modeling_cpsl.training.resampling import contribution_copies
from modeling_cpsl.training.resampling_mixin import ResamplingMixin
from modeling_cpsl.training.unimodal_predictions import out_of_fold_errors


CONTRIBUTION = {"resample": "contribution", "resample_options": ["start_epoch=1"]}


def epochs_of(trainer):
    """The samples of each epoch, of 30 samples in 4 steps."""
    return [list(itertools.chain(*trainer.samples[start : start + 4])) for start in range(0, len(trainer.samples), 4)]


@pytest.fixture(scope="module")
def contribution_run(tmp_path_factory):
    options = CONTRIBUTION | {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 20}
    trainer = make_trainer(tmp_path_factory.mktemp("contribution"), **options)
    trainer.train()
    return trainer


def test_contributions_decide_what_is_drawn(contribution_run):
    first, _, third = epochs_of(contribution_run)
    ids = [str(row["id"]) for row in contribution_run.train_dataset]
    assert sorted(first) == sorted(ids)
    # those of the third epoch are of the model after the second
    contributions = contribution_run.sample_table.column("contributions").numpy()
    assert np.isfinite(contributions).all() and contributions.shape == (30, 3)
    weights = 1 + contribution_copies(torch.from_numpy(contributions))[0].numpy()
    counts = Counter(third)
    expected = weights / weights.sum() * 30
    assert max(abs(counts[name] - share) for name, share in zip(ids, expected, strict=True)) < 1
    assert len({*expected}) > 1 and counts != Counter(first)


def test_contributions_are_shapley_values_in_deviations_of_the_labels(contribution_run):
    trainer, labels = contribution_run, label_statistics(contribution_run.train_dataset)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in (3, 0)])
    trainer._compute_contributions()
    recorded = trainer.sample_table.column("contributions")[[3, 0]]
    assert trainer.model.training
    batch.pop("ids")
    values = sample_contributions(trainer.model, batch, labels.constant)
    torch.testing.assert_close(recorded, values / labels.deviation, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        error = (trainer.model.eval()(**batch).logits - batch["labels"]).abs()
        worth = (batch["labels"] - labels.constant).abs() - error
    torch.testing.assert_close(values.sum(dim=1), worth, atol=1e-5, rtol=1e-4)


def test_the_log_says_how_many_samples_count(contribution_run):
    logged = [
        row["train_effective_samples"]
        for row in contribution_run.state.log_history
        if "train_effective_samples" in row
    ]
    assert logged[0] == 30 and all(10 < value < 30 for value in logged[1:]) and len(logged) == 3


@pytest.mark.parametrize("step", [5, 8])  # within an epoch, and at the end of one
def test_a_resumed_training_draws_the_same(contribution_run, tmp_path, step):
    trainer = make_trainer(tmp_path, **CONTRIBUTION)
    trainer.train(resume_from_checkpoint=f"{contribution_run.args.output_dir}/checkpoint-{step}")
    assert trainer.samples == contribution_run.samples[step:]
    for name, value in contribution_run.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name])


def test_a_checkpoint_without_contributions_is_refused(contribution_run, tmp_path):
    plain = make_trainer(tmp_path, save_strategy="epoch", num_train_epochs=1)
    plain.train()
    trainer = make_trainer(tmp_path, **CONTRIBUTION)
    with pytest.raises(ValueError, match=r"sample_table\.pt"):
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(plain.args.output_dir))


def test_two_ranks_find_what_one_finds(contribution_run, monkeypatch):
    expected = contribution_run.sample_table.column("contributions").clone()
    calls = []
    for rank in range(2):
        contribution_run.sample_table.column("contributions").fill_(torch.nan)
        args = SimpleNamespace(process_index=rank, world_size=2, per_device_eval_batch_size=4)
        with monkeypatch.context() as patched:
            patched.setattr(contribution_run, "args", args)
            patched.setattr(contribution_run, "_prepare_inputs", lambda batch: batch)
            contribution_run.sample_table._num_calls = 0
            contribution_run._compute_contributions()
        calls.append(
            (contribution_run.sample_table._num_calls, contribution_run.sample_table.column("contributions").clone())
        )
    assert calls[0][0] == calls[1][0]
    together = torch.where(calls[0][1].isnan(), calls[1][1], calls[0][1])
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_discrepancy_draws_by_predictions_from_one_modality_alone(tmp_path, strategy):
    trainer = make_trainer(
        tmp_path, resample="discrepancy", resample_options={"gamma": 1}, train_sampling_strategy=strategy
    )
    trainer.train()
    errors = out_of_fold_errors(trainer.train_dataset, trainer.model.modality_names)
    weights = trainer.args.resampling.weights(errors)
    counts = Counter(itertools.chain(*trainer.samples))
    names = [str(row["id"]) for row in trainer.train_dataset]
    expected = weights / weights.sum() * 90
    assert max(abs(counts[name] - share) for name, share in zip(names, expected, strict=True)) < 3
    assert trainer.sample_table is None


def test_a_stream_cannot_be_drawn_from(tmp_path):
    trainer = make_trainer(tmp_path, resample="discrepancy")
    with pytest.raises(ValueError, match=r"a stream is read in its order.*leave --streaming or --resample out"):
        ResamplingMixin._get_train_sampler(trainer, list(trainer.train_dataset))
