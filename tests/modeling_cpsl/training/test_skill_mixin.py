"""The skill of each modality, and of coalitions, in evaluations."""

import math

import numpy as np
import pytest
import torch
from training_cases import RecordingTrainer, make_trainer

from modeling_cpsl.modulation.contributions import coalitions
from modeling_cpsl.training.metrics import skill
from modeling_cpsl.uncertainty_cpsl import modality_set


EVALUATED = {"eval_strategy": "epoch", "num_train_epochs": 2}


def skills(metrics, kind="skill"):
    prefix = f"eval_{kind}_"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def validation_batch(trainer):
    batch = trainer.data_collator([*map(trainer.eval_dataset.__getitem__, range(10))])
    del batch["ids"]
    return batch


def expected_skills(trainer, presence):
    batch, mean = validation_batch(trainer), np.mean(trainer.train_dataset["label"])
    labels = batch["labels"].double()
    with torch.no_grad():
        logits = trainer.model.eval()(**batch).unimodal_logits
    return {
        name: max(0.0, 1 - (values - labels)[mask].square().sum().item() / (labels - mean)[mask].square().sum().item())
        for (name, values), mask in zip(logits.items(), presence.values(), strict=True)
    }


def test_skill_is_the_share_of_the_mean_labels_error_that_is_avoided():
    assert skill(1.0, 4.0) == 0.75
    assert skill(8.0, 4.0) == -1.0
    assert np.isnan(skill(0.0, 0.0))
    assert skill(np.array([0.0, 2.0]), np.array([2.0, 2.0])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("balance", ["none", "cpsl", "inverse_variance"])
def test_every_rule_reports_the_skill_of_each_modality(tmp_path, balance):
    trainer = make_trainer(tmp_path, balance=balance, **EVALUATED)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "eval_mae" in row]
    assert all(skills(row).keys() == {"text", "acoustic", "visual"} for row in rows) and len(rows) == 2
    present = dict.fromkeys(("text", "acoustic", "visual"), slice(None))
    assert skills(rows[-1]) == pytest.approx(expected_skills(trainer, present), abs=1e-5)
    assert not skills(rows[-1], "coalition")


class BatchesWithoutVoice(RecordingTrainer):
    def _prepare_inputs(self, inputs):
        mask = torch.arange(len(inputs["labels"])) != 0
        return super()._prepare_inputs(inputs | {"modality_mask": {"acoustic": mask, "visual": mask & False}})


def test_samples_without_a_modality_do_not_count(tmp_path):
    trainer = make_trainer(tmp_path, trainer_class=BatchesWithoutVoice, per_device_eval_batch_size=10)
    found = skills(trainer.evaluate())
    order = [len(words) for words in trainer.eval_dataset["input_ids"]]
    longest = torch.tensor(order).argsort(descending=True, stable=True)[0]
    present = {"text": slice(None), "acoustic": torch.arange(10) != longest}
    expected = expected_skills(trainer, present | {"visual": slice(None)})
    assert found == pytest.approx({name: expected[name] for name in present}, abs=1e-5)


def test_architectures_without_unimodal_heads_and_data_without_known_labels_have_none(tmp_path):
    assert not skills(make_trainer(tmp_path, config_fields={"architecture": "mag"}).evaluate())
    trainer = make_trainer(tmp_path)
    trainer.train_dataset = [*trainer.train_dataset]
    assert not skills(trainer.evaluate())


@pytest.mark.parametrize("architecture", ["cpsl", "mag"])
def test_coalitions_are_evaluated_every_so_many_epochs_in_a_training(tmp_path, architecture):
    fields = {"architecture": architecture}
    trainer = make_trainer(tmp_path, coalitions_every=2, config_fields=fields, **EVALUATED | {"num_train_epochs": 3})
    trainer.train()
    rows = [row for row in trainer.state.log_history if "eval_mae" in row]
    names = {modality_set(members) for members in coalitions(trainer.model.modality_names)}
    assert [skills(row, "coalition").keys() for row in rows] == [set(), names, set()]
    assert all(0 <= value <= 1 for value in skills(rows[1], "coalition").values())
    assert not skills(trainer.evaluate(), "coalition")


def test_the_coalition_of_all_modalities_is_the_model(tmp_path):
    trainer = make_trainer(tmp_path, coalitions_every=1, **EVALUATED)
    trainer.train()
    row = [row for row in trainer.state.log_history if "eval_mae" in row][-1]
    batch, mean = validation_batch(trainer), np.mean(trainer.train_dataset["label"])
    with torch.no_grad():
        error = (trainer.model.eval()(**batch).logits - batch["labels"]).square().mean().item()
    expected = max(0.0, 1 - error / (batch["labels"] - mean).square().mean().item())
    assert row["eval_coalition_acoustic+text+visual"] == pytest.approx(expected, abs=1e-5)
    assert all(math.isfinite(value) for value in row.values())


def test_coalitions_need_evaluations_at_the_end_of_epochs(tmp_path):
    with pytest.raises(ValueError, match="eval_strategy=epoch"):
        make_trainer(tmp_path, coalitions_every=2)
