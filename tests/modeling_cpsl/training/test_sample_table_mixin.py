"""What a model wants remembered of each sample, in trainings: Self-MM's labels."""

import itertools

import pytest
import torch
from training_cases import RecordingTrainer, make_trainer, small_corpus

from modeling_cpsl.training.checkpoints import load_training_state
from modeling_cpsl.training.optimizer_step import MicroBatch
from modeling_cpsl.training.streaming import EncodedStream


FIELDS = {"architecture": "self_mm", "architecture_options": {"dropout": 0.0}}
SAVING = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None}


class WatchingTrainer(RecordingTrainer):
    """Keeps what each step was given of its samples."""

    def get_batch_samples(self, *args):
        batches, num_items = super().get_batch_samples(*args)
        given = [batch["sample_values"]["unimodal_labels"] for batch in batches if "sample_values" in batch]
        self.__dict__.setdefault("given", []).append(given)
        return batches, num_items


def make(folder, **options):
    return make_trainer(folder, trainer_class=WatchingTrainer, config_fields=FIELDS, **SAVING | options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three epochs of four steps, the last of 6 samples."""
    trainer = make(tmp_path_factory.mktemp("whole"))
    trainer.train()
    return trainer


def test_labels_move_once_an_epoch(trained):
    assert [len(given) for given in trained.given] == [0] * 4 + [1] * 8
    steps = list(zip(trained.samples, trained.given, strict=True))
    epochs = [
        dict(itertools.chain(*(zip(samples, given[0], strict=True) for samples, given in steps[start : start + 4])))
        for start in (4, 8)
    ]
    ids = trained.train_dataset["id"][:]
    labels = dict(zip(ids, torch.from_numpy(trained.train_dataset["label"][:]), strict=True))
    last = trained.sample_table.column("unimodal_labels")
    assert epochs[0].keys() == epochs[1].keys() == {*ids}
    for row, name in enumerate(ids):
        assert trained.sample_table.column("label")[row] == labels[name]
        second, third = epochs[0][name], epochs[1][name]
        assert not torch.equal(second, labels[name].expand(3)) and not torch.equal(third, second)
        assert not torch.equal(last[row], third), "they are updated after the last epoch too"
        assert last[row].abs().max() <= 3


def test_heads_have_no_part_in_modulation_before_they_are_trained(trained):
    rows = [row for row in trained.state.log_history if "train_task_loss" in row]
    assert "train_error_acoustic" not in rows[0] and rows[0]["train_unimodal_loss"] == 0.0
    assert all(row["train_error_acoustic"] > 0 and row["train_unimodal_loss"] > 0 for row in rows[1:])
    for step in trained.recorded[:4]:
        assert step["coefficient_acoustic"] == step["coefficient_visual"] == 1.0
    assert any(step["coefficient_acoustic"] < 1.0 or step["coefficient_visual"] < 1.0 for step in trained.recorded[4:])


@pytest.mark.parametrize("step", [6, 8])
def test_a_run_goes_on_in_the_middle_and_at_the_end_of_an_epoch(trained, tmp_path, step):
    if step == 8:  # saved at the end of an epoch
        trained = make(tmp_path / "whole", save_steps=4)
        trained.train()
    resumed = make(tmp_path)
    resumed.train(resume_from_checkpoint=f"{trained.args.output_dir}/checkpoint-{step}")
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, column in trained.sample_table.columns.items():
        assert torch.equal(column, resumed.sample_table.column(name)), name
    assert resumed.recorded == trained.recorded[step:]


def test_a_checkpoint_of_other_samples_is_refused(trained, tmp_path):
    checkpoint = f"{trained.args.output_dir}/checkpoint-6"
    assert load_training_state(checkpoint, "sample_table.pt", torch.device("cpu"))["num_calls"] == 6
    other = make(tmp_path)
    other.train_dataset = other.train_dataset.select(range(29, -1, -1))
    with pytest.raises(ValueError, match=r"checkpoint-6: a training cannot go on from it \(what was remembered is of"):
        other.train(resume_from_checkpoint=checkpoint)


def test_a_repeated_sample_is_not_recorded(tmp_path):
    """Another rank has seen it in its turn; here it only fills up a batch."""
    trainer = make(tmp_path)
    trainer.train()
    table = trainer.sample_table
    before = {name: column.clone() for name, column in table.columns.items()}
    ids = trainer.train_dataset["id"][:2]
    rows = [trainer.train_dataset[index] for index in range(2)]
    batch = trainer.data_collator(rows)
    trainer._micro_batch = MicroBatch(batch.pop("ids"), 1, 1, torch.ones(()))
    trainer.model.train()
    trainer.compute_loss(trainer.model, batch)
    changed = (table.column("fused") != before["fused"]).any(dim=1).nonzero().flatten()
    assert changed.tolist() == table.indices(ids[:1]).tolist()


def test_another_model_has_no_table(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    trainer.train()
    assert trainer.sample_table is None


def test_a_shuffled_stream_is_remembered_by_its_ids(tmp_path):
    trainer = make(tmp_path, num_train_epochs=2, train_sampling_strategy="sequential")
    split = small_corpus(30)["train"]
    stream = split.add_column("video_id", split["id"][:]).to_iterable_dataset(num_shards=3)
    trainer.train_dataset = EncodedStream("train", stream, trainer.processing_class, seed=0)
    trainer.train()
    orders = [list(itertools.chain(*trainer.samples[start : start + 4])) for start in (0, 4)]
    assert orders[0] != orders[1] and {*orders[0]} == {*orders[1]} == {*split["id"][:]}
    assert trainer.sample_table.column("label").squeeze(1).tolist() == pytest.approx(split["label"][:])
    assert not trainer.sample_table.column("unimodal_labels").isnan().any()
