"""CPSLTrainer: one step is one step, modulation in the window and only there, and what is logged."""

import contextlib
import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from training_cases import (
    SIZES,
    coefficients,
    make_trainer,
    relative_distance,
    train_and_record,
)

from modeling_cpsl import CPSLTrainer, CPSLTrainingArguments
from modeling_cpsl.training.loss_watch import NonFiniteLossError


NO_MODULATION = {"gm": False, "ge": False, "cp": False}


TRAJECTORY = {"latent_noise": "sample", "num_train_epochs": 3, "learning_rate": 1e-3}


@pytest.fixture(scope="module", params=["none", "minmax_running"])
def trajectory(request, tmp_path_factory):
    """The options, the weights and the modulation of a training whose every step is one batch."""
    options = TRAJECTORY | {"config_fields": {"feature_normalization": request.param}}
    return options, *train_and_record(tmp_path_factory.mktemp("whole"), per_device_train_batch_size=8, **options)


@pytest.mark.parametrize("batch_size", [2, 4])
def test_trajectory_does_not_depend_on_accumulation(trajectory, tmp_path, batch_size):
    # 30 samples: each epoch's last step has 6 and its last micro-batches are uneven.
    options, whole, whole_steps = trajectory
    cut, cut_steps = train_and_record(
        tmp_path, per_device_train_batch_size=batch_size, gradient_accumulation_steps=8 // batch_size, **options
    )
    assert len(whole_steps) == len(cut_steps) == 12
    np.testing.assert_allclose(coefficients(whole_steps), coefficients(cut_steps), atol=1e-6)
    assert (coefficients(whole_steps) < 1).any()
    assert relative_distance(whole, cut) <= 1e-5


@pytest.mark.parametrize("modulation", [{}, NO_MODULATION])
def test_every_parameter_changes_in_a_short_training(tmp_path, modulation):
    trainer = make_trainer(tmp_path, weight_decay=0.0, num_train_epochs=2, **modulation)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    unchanged = [name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])]
    # Unknown and unused words, and positions: rows of an embedding, never a whole tensor.
    assert unchanged == []
    assert all(value.isfinite().all() for value in trainer.model.parameters())


def test_outside_the_window_training_is_untouched_bit_for_bit(tmp_path, caplog):
    options = {"num_train_epochs": 2, "max_steps": 4, "latent_noise": "sample"}
    plain, _ = train_and_record(tmp_path / "a", **options, **NO_MODULATION)
    outside, _ = train_and_record(tmp_path / "b", **options, modulation_start_epoch=1, modulation_end_epoch=1)
    assert "modulation_start_epoch=1: this run has no such epoch, so nothing is modulated" in caplog.text
    inside, _ = train_and_record(tmp_path / "c", **options, modulation_start_epoch=0, modulation_end_epoch=0)
    assert all(torch.equal(value, outside[name]) for name, value in plain.items())
    assert not all(torch.equal(value, inside[name]) for name, value in plain.items())


def test_without_unimodal_heads_nothing_is_modulated(tmp_path, caplog):
    options = {"config_fields": {"architecture": "mag"}, "num_train_epochs": 1, "num_samples": 8}
    make_trainer(tmp_path, **options).train()
    assert caplog.text.count("nothing is modulated: the model has no predictions from one modality alone") == 1
    with pytest.raises(ValueError, match="modulated_modalities=acoustic: the model has no predictions from one"):
        make_trainer(tmp_path, **options, modulated_modalities=["acoustic"]).train()


@pytest.mark.parametrize(("start", "end"), [(0, 0), (1, 1), (1, 2)])
def test_window_has_both_its_ends(tmp_path, start, end):
    _, steps = train_and_record(tmp_path, modulation_start_epoch=start, modulation_end_epoch=end)
    damped = (coefficients(steps) < 1).any(axis=1).reshape(3, 4).any(axis=1)
    assert damped.tolist() == [start <= epoch <= end for epoch in range(3)]


def test_default_window_follows_the_epochs(tmp_path):
    """As a search over the number of epochs sets them."""
    trainer = make_trainer(tmp_path, num_train_epochs=2)
    trainer.args.num_train_epochs = 6
    trainer.train()
    assert trainer.modulator.config.end_epoch == 5


def test_unimodal_errors_are_pooled_over_the_step(tmp_path):
    """The first step's errors, over two micro-batches, against the untrained model on that step's six samples."""
    trainer = make_trainer(
        tmp_path,
        config_fields={"ame": False, "feature_normalization": "none"},
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
        num_samples=6,
    )
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(6)])
    del batch["ids"]
    trainer.model.train()
    with torch.no_grad():
        logits = trainer.model(**batch).unimodal_logits
    trainer.train()
    for name in ("acoustic", "visual"):
        expected = (logits[name] - batch["labels"]).abs().mean().item()
        assert trainer.recorded[0][f"error_{name}"] == pytest.approx(expected, rel=1e-5)


def test_logs_every_loss_and_statistic_each_epoch(tmp_path):
    trainer = make_trainer(tmp_path, eval_strategy="epoch")
    trainer.train()
    rows = [row for row in trainer.state.log_history if "train_task_loss" in row]
    assert [row["epoch"] for row in rows] == [1.0, 2.0, 3.0]
    losses = {"loss", "task_loss", "unimodal_loss", "reconstruction_loss", "diversity_loss", "statistical_loss"}
    statistics = {
        f"{kind}_{name}"
        for kind in ("coefficient", "grad_norm", "error", "conflict")
        for name in ("acoustic", "visual")
    }
    expected = {f"train_{name}" for name in losses | statistics | {"feature_entropy", "imbalance"}}
    for row in rows:
        assert expected <= row.keys()
        assert all(math.isfinite(value) for value in row.values())
        weights = trainer.model.multimodal.loss_weights
        weighted = [weight * row[f"train_{name}_loss"] for name, weight in weights.items() if weight]
        total = row["train_task_loss"] + sum(weighted)
        assert row["train_loss"] == pytest.approx(total, rel=1e-4)
        assert row["train_imbalance"] == pytest.approx(
            abs(row["train_coefficient_acoustic"] - row["train_coefficient_visual"]), abs=1e-6
        )
    evaluations = [row for row in trainer.state.log_history if "eval_mae" in row]
    assert len(evaluations) == 3
    assert {f"eval_{name}" for name in losses} <= evaluations[0].keys()


def test_epoch_means_are_means_over_samples(tmp_path):
    """The logged task loss of an epoch without learning is the mean over all samples, uneven last batch included."""
    options = {"learning_rate": 0.0, "num_train_epochs": 1, "config_fields": {"ame": False}, **NO_MODULATION}
    logs = []
    for batch_size in (30, 8):
        trainer = make_trainer(tmp_path / str(batch_size), per_device_train_batch_size=batch_size, **options)
        trainer.model.config.feature_normalization = "none"
        for normalizer in trainer.model.multimodal.normalizers.values():
            normalizer.mode = "none"
        trainer.train()
        logs.append(next(row for row in trainer.state.log_history if "train_task_loss" in row))
    for name in ("train_loss", "train_task_loss", "train_unimodal_loss", "train_statistical_loss"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-5)


def test_logs_steps_between_epochs(tmp_path):
    trainer = make_trainer(tmp_path, logging_strategy="steps", logging_steps=2, num_train_epochs=1)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    means = coefficients(trainer.recorded).reshape(2, 2, 2).mean(axis=1)
    logged = [[row["coefficient_acoustic"], row["coefficient_visual"]] for row in rows]
    np.testing.assert_allclose(logged, means, atol=1e-5)


def test_text_alone_trains_without_modulator(tmp_path):
    trainer = make_trainer(tmp_path, config_fields={"modality_sizes": {}}, num_train_epochs=1)
    trainer.train()
    assert trainer.modulator is None
    row = next(row for row in trainer.state.log_history if "train_task_loss" in row)
    assert {name for name in row if name.endswith("_loss")} == {"train_loss", "train_task_loss", "train_unimodal_loss"}


def test_a_modality_may_be_called_as_another_part_of_the_batch(tmp_path):
    weights = []
    for names in (("first", "second"), ("ids", "labels"), ("attention_mask", "modality_mask")):
        fields = {"modality_sizes": dict(zip(names, SIZES.values(), strict=True))}
        renamed = dict(zip(SIZES, names, strict=True))
        options = {"renamed": renamed, "config_fields": fields, "num_train_epochs": 1, "num_samples": 8}
        trained, _ = train_and_record(tmp_path / names[0], **options)
        weights.append(list(trained.values()))
    for others in weights[1:]:
        assert all(torch.equal(one, other) for one, other in zip(weights[0], others, strict=True))


def test_running_bounds_move_once_a_step(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, num_train_epochs=1)
    trainer.train()
    normalizer = trainer.model.multimodal.normalizers["acoustic"]
    assert normalizer.num_updates.item() == 4
    assert normalizer.minimum < 0 < normalizer.maximum


def test_text_can_be_modulated_too(tmp_path):
    trainer = make_trainer(tmp_path, modulated_modalities=["acoustic", "text"], num_train_epochs=1)
    trainer.train()
    assert trainer.modulator.modalities == ["acoustic", "text"]
    with pytest.raises(ValueError, match="no modality 'smell'"):
        make_trainer(tmp_path, modulated_modalities=["smell"], num_train_epochs=1).train()


def test_several_gpus_need_a_launcher(tmp_path, monkeypatch):
    monkeypatch.setattr(CPSLTrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(ValueError, match="accelerate launch"):
        make_trainer(tmp_path)


@pytest.mark.parametrize(
    ("step", "more"),
    [
        (6, {}),
        (8, {"save_strategy": "epoch"}),
        (6, {"train_sampling_strategy": "group_by_length"}),
        (6, {"logging_strategy": "steps", "logging_steps": 5}),
        (4, {"save_steps": 4}),
    ],
)
def test_resumed_run_ends_in_the_same_weights_and_logs(tmp_path, step, more):
    options = {"save_strategy": "steps", "save_steps": 6, "num_train_epochs": 3, "save_total_limit": None} | more
    trainer = make_trainer(tmp_path, **options)
    trainer.train()
    resumed = make_trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    # Training does not read the running bounds, so the weights do not tell whether they go on.
    buffers = dict(resumed.model.named_buffers())
    assert buffers["multimodal.normalizers.acoustic.num_updates"] == 12
    for name, value in trainer.model.named_buffers():
        assert torch.equal(value, buffers[name]), name
    # The last row has the timings.
    assert trainer.state.log_history[:-1] == resumed.state.log_history[:-1]


def test_bf16_loses_no_more_than_fp32(tmp_path):
    """The whole sample recipe differed by 0.02 % after three epochs, which took a CPU without bf16 units minutes."""
    losses, dtypes = {}, set()
    for name, options in {"fp32": {}, "bf16": {"bf16": True}}.items():
        trainer = make_trainer(tmp_path / name, learning_rate=1e-3, latent_noise="sample", **options)
        hook = trainer.model.multimodal.dense.register_forward_hook(lambda *args: dtypes.add(args[-1].dtype))
        trainer.train()
        hook.remove()
        losses[name] = [row["train_loss"] for row in trainer.state.log_history if "train_task_loss" in row]
        assert all(value.dtype == torch.float32 for value in trainer.model.parameters())
    assert dtypes == {torch.float32, torch.bfloat16}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_features_that_are_not_finite_stop_training_by_name(tmp_path):
    trainer = make_trainer(tmp_path)
    rows = [dict(row) for row in trainer.train_dataset]
    rows[20]["visual"] = np.full_like(rows[20]["visual"], np.nan)
    trainer.train_dataset = rows
    message = f"reading the batches of step [0-3]: sample {rows[20]['id']}: visual features contain NaN or inf"
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_a_loss_that_is_not_finite_stops_training_in_its_own_step(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(NonFiniteLossError, match="step 1, samples "):
        trainer.train()
    assert trainer.state.global_step == 1


def test_logs_what_trainer_itself_logs_each_epoch(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["epoch"] for row in rows] == [1.0, 2.0, 3.0]
    assert all({"loss", "grad_norm", "learning_rate", "epoch", "step"} == row.keys() for row in rows)
    means = [row["train_loss"] for row in trainer.state.log_history if "train_task_loss" in row]
    assert [row["loss"] for row in rows] == pytest.approx(means, rel=0.2)  # over steps, those over samples


def test_evaluation_keeps_every_sample_and_their_order(tmp_path):
    """Whatever training does: predictions are written beside the ids of the dataset's order."""
    options = {"dataloader_drop_last": True, "train_sampling_strategy": "group_by_length"}
    trainer = make_trainer(tmp_path, per_device_eval_batch_size=4, num_train_epochs=1, **options)
    trainer.train()
    assert trainer.args.dataloader_drop_last
    assert [len(samples) for samples in trainer.samples] == [8, 8, 8]
    labels = [row["label"] for row in trainer.eval_dataset]
    predicted = trainer.predict(trainer.eval_dataset)
    np.testing.assert_array_equal(predicted.label_ids, labels)
    assert trainer.evaluate()["eval_mae"] == pytest.approx(predicted.metrics["test_mae"])
    logits, unimodal_logits = predicted.predictions[:2]
    some = [3, 7]
    alone, unimodal_alone = trainer.predict(trainer.eval_dataset.select(some)).predictions[:2]
    np.testing.assert_allclose(logits[some], alone, atol=1e-5)
    np.testing.assert_allclose(unimodal_logits["acoustic"][some], unimodal_alone["acoustic"], atol=1e-5)


def test_evaluation_reads_samples_of_like_length_together(tmp_path):
    trainer = make_trainer(tmp_path, per_device_eval_batch_size=4)
    lengths = [batch["attention_mask"].sum(1).tolist() for batch in trainer.get_eval_dataloader()]
    assert lengths == [sorted(batch, reverse=True) for batch in lengths]
    assert sorted(itertools.chain(*lengths), reverse=True) == list(itertools.chain(*lengths))
    seen = []
    trainer.compute_metrics = lambda prediction: seen.append(prediction.label_ids) or {}
    trainer.evaluate()
    assert seen[0].tolist() == trainer.eval_dataset["label"][:].tolist()  # also to a metric of one's own
    trainer.args.eval_do_concat_batches, trainer.compute_metrics = (
        False,
        None,
    )  # then the predictions stay in batches, in the data's order
    batches = trainer.predict(trainer.eval_dataset).label_ids
    assert list(itertools.chain(*batches)) == [row["label"] for row in trainer.eval_dataset]


def test_a_loader_of_ones_own_keeps_its_order(tmp_path):
    class OwnLoader(CPSLTrainer):
        def get_test_dataloader(self, test_dataset):
            return DataLoader(test_dataset, batch_size=4, collate_fn=self.data_collator)

    trainer = make_trainer(tmp_path, trainer_class=OwnLoader)
    labels = trainer.predict(trainer.eval_dataset).label_ids
    assert labels.tolist() == trainer.eval_dataset["label"][:].tolist()


def test_the_best_epoch_is_the_one_with_the_best_metric(tmp_path):
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = make_trainer(tmp_path, metric_for_best_model="corr", num_train_epochs=4, **options)
    trainer.train()
    values = [row["eval_corr"] for row in trainer.state.log_history if "eval_corr" in row]
    assert trainer.state.best_metric == max(values) > min(values)


@pytest.mark.parametrize("fields", [{}, {"modality_sizes": {}}, {"sl": False}])
def test_a_metric_that_there_is_not_is_refused(tmp_path, fields):
    trainer = make_trainer(tmp_path, config_fields=fields)
    names = {name.removeprefix("eval_") for name in trainer.evaluate()}
    for name in ("mae", "f1_nonzero", "task_loss", "reconstruction_loss", "statistical_loss", "feature_entropy"):
        if name in names:
            make_trainer(tmp_path, config_fields=fields, metric_for_best_model=f"eval_{name}")
        else:
            with pytest.raises(ValueError, match=f"metric_for_best_model='{name}' is not a metric"):
                make_trainer(tmp_path, config_fields=fields, metric_for_best_model=name)
    with pytest.raises(ValueError, match="metric_for_best_model='pearson' is not a metric; choose one of mae, corr"):
        make_trainer(tmp_path, config_fields=fields, metric_for_best_model="pearson")


def test_the_loss_of_a_training_is_the_mean_over_its_samples_whether_it_was_resumed_or_not(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 6, "save_total_limit": None, "num_train_epochs": 3}
    trainer = make_trainer(tmp_path, **options)
    whole = trainer.train()
    epochs = [row["train_loss"] for row in trainer.state.log_history if "train_task_loss" in row]
    assert whole.training_loss == whole.metrics["train_loss"] == pytest.approx(np.mean(epochs))
    resumed = make_trainer(tmp_path, **options).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert resumed.training_loss == resumed.metrics["train_loss"] == pytest.approx(whole.training_loss, rel=1e-6)


@pytest.mark.parametrize("learning_rate", [1e-2, 1e30])
def test_a_training_that_ends_or_fails_leaves_no_hook(tmp_path, learning_rate):
    """The optimizer is kept for the next training where all embeddings are trained."""
    options = {"train_embeddings": "all", "modulation_target": "update", "num_train_epochs": 1, "warmup_steps": 0}
    options |= {"neftune_noise_alpha": 5.0}
    trainer = make_trainer(tmp_path, learning_rate=learning_rate, **options)
    for _ in range(2):
        with contextlib.nullcontext() if learning_rate < 1 else pytest.raises(NonFiniteLossError):
            trainer.train()
        optimizer = trainer.optimizer.optimizer
        assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
        assert not trainer.is_in_train
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(module, name) for module in trainer.model.modules() for name in hooks)


def test_training_forgets_the_calibration_of_other_weights(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    trainer.model.config.interval_half_widths, trainer.model.config.interval_coverage = {"text": 1.0}, 0.9
    trainer.train()
    assert trainer.model.config.interval_half_widths is trainer.model.config.interval_coverage is None


def test_a_batch_that_leaves_no_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"per_device_train_batch_size=64.*leaves no step.*30 samples"):
        make_trainer(tmp_path, per_device_train_batch_size=64, dataloader_drop_last=True)


def test_a_concordance_is_of_batches_that_are_large_enough(tmp_path):
    fields = {"concordance_weight": 1.0}
    with pytest.raises(ValueError, match=r"per_device_train_batch_size=3: .* need at least 4 samples"):
        make_trainer(tmp_path, config_fields=fields, per_device_train_batch_size=3)
    options = {"num_samples": 19, "per_device_train_batch_size": 16, "num_train_epochs": 1, "eval_strategy": "epoch"}
    trainer = make_trainer(tmp_path, config_fields=fields, **options)
    trainer.train()
    assert [len(samples) for samples in trainer.samples] == [16, 3]  # of which the last has none
    [logged] = [row["train_concordance_loss"] for row in trainer.state.log_history if "train_concordance_loss" in row]
    [judged] = [row["eval_concordance_loss"] for row in trainer.state.log_history if "eval_concordance_loss" in row]
    assert 0 < logged * 19 / 16 < 2 and 0 < judged < 2
    assert all(value.isfinite().all() for value in trainer.model.parameters())
