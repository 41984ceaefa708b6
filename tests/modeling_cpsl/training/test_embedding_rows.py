"""Training the embeddings of the tokens that occur gives what training all of them gives."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_cases import make_trainer

from modeling_cpsl.training.embedding_rows import PartlyTrainedEmbedding, trained_embeddings, used_rows


EXACT = {"weight_decay": 0.0, "num_train_epochs": 3, "learning_rate": 1e-3}
TABLE = "deberta.embeddings.word_embeddings.weight"


def trained(folder, choice, **options):
    trainer = make_trainer(folder, train_embeddings=choice, **EXACT | options)
    before = trainer.model.state_dict()[TABLE].clone()
    trainer.train()
    return trainer, before, trainer.model.state_dict()


def test_the_result_is_that_of_training_all_rows(tmp_path):
    trainer, before, used = trained(tmp_path / "used", "used")
    _, _, whole = trained(tmp_path / "all", "all")
    assert used.keys() == whole.keys()
    for name, value in used.items():
        torch.testing.assert_close(value, whole[name], atol=1e-6, rtol=1e-5, msg=name)
    rows = used_rows(trainer.train_dataset, trainer.model.get_input_embeddings())
    moved = (used[TABLE] != before).any(1).nonzero().flatten()
    assert 0 < len(rows) < len(before)
    assert set(moved.tolist()) == set(rows.tolist())
    assert type(trainer.model.get_input_embeddings()) is nn.Embedding
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_weight_decay_leaves_words_alone_that_do_not_occur(tmp_path):
    trainer, before, used = trained(tmp_path / "used", "used", weight_decay=0.5)
    _, _, whole = trained(tmp_path / "all", "all", weight_decay=0.5)
    rows = used_rows(trainer.train_dataset, trainer.model.get_input_embeddings())
    torch.testing.assert_close(used[TABLE][rows], whole[TABLE][rows], atol=1e-6, rtol=1e-5)
    others = torch.ones(len(before), dtype=torch.bool)
    others[rows] = False
    assert torch.equal(used[TABLE][others], before[others])
    assert not torch.equal(whole[TABLE][others], before[others])


@pytest.mark.parametrize("is_shared", [False, True])
def test_no_embedding_is_trained_on_request(tmp_path, is_shared):
    trainer = make_trainer(tmp_path, train_embeddings="none", **EXACT)
    before = trainer.model.state_dict()[TABLE].clone()
    if is_shared:
        trainer.model.other = trainer.model.get_input_embeddings()
    trainer.train()
    after = trainer.model.state_dict()
    assert torch.equal(after[TABLE], before)
    assert trainer.model.get_input_embeddings().weight.requires_grad


def test_checkpoints_hold_the_whole_table_and_a_small_optimizer(tmp_path):
    options = {"save_strategy": "epoch", "save_total_limit": None}
    trainer, before, after = trained(tmp_path, "used", **options)
    saved = load_file(tmp_path / "run" / "checkpoint-12" / "model.safetensors")
    assert saved.keys() == after.keys()
    assert torch.equal(saved[TABLE], after[TABLE])
    state = torch.load(tmp_path / "run" / "checkpoint-12" / "optimizer.pt", weights_only=True)["state"]
    assert not any(value["exp_avg"].shape == before.shape for value in state.values())
    epoch = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    assert not torch.equal(epoch[TABLE], after[TABLE])
    trainer.save_model(tmp_path / "saved")
    assert torch.equal(load_file(tmp_path / "saved" / "model.safetensors")[TABLE], after[TABLE])


@pytest.mark.parametrize("best", [False, True])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, best):
    options = {"save_strategy": "epoch", "save_total_limit": None, "eval_strategy": "epoch"}
    if best:  # the first epoch's model is loaded in the end
        options |= {"load_best_model_at_end": True, "metric_for_best_model": "mae", "greater_is_better": True}
    _, _, whole = trained(tmp_path, "used", **options)
    resumed = make_trainer(tmp_path, train_embeddings="used", **EXACT | options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_an_optimizer_with_moments_of_other_shapes_is_resumed(tmp_path):
    options = {"optim": "adafactor", "save_strategy": "epoch", "save_total_limit": None}
    _, _, whole = trained(tmp_path, "used", **options)
    resumed = make_trainer(tmp_path, train_embeddings="used", **EXACT | options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert torch.equal(resumed.model.state_dict()[TABLE], whole[TABLE])


@pytest.mark.parametrize("change", ["fewer", "others"])
def test_other_training_data_is_refused_when_resuming(tmp_path, change):
    trainer, _, _ = trained(tmp_path, "used", save_strategy="epoch", save_total_limit=None)
    rows = used_rows(trainer.train_dataset, trainer.model.get_input_embeddings()).tolist()
    other = make_trainer(tmp_path, train_embeddings="used", **EXACT)
    if change == "fewer":
        other.train_dataset = other.train_dataset.select([0, 1, 2, 3] * 8)
    else:  # as many tokens, of which one is another
        unused = next(token for token in range(5, 500) if token not in rows)
        ids = [
            [unused if token == rows[-1] else token for token in row] for row in other.train_dataset["input_ids"][:]
        ]
        changed = other.train_dataset.remove_columns("input_ids").add_column("input_ids", ids)
        other.train_dataset = changed.with_format(other.train_dataset.format["type"])
    with pytest.raises(ValueError, match=r"checkpoint-4: a training cannot go on from it .*other tokens"):
        other.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-4")


def test_the_hooks_of_a_table_are_kept(tmp_path):
    """NEFTune puts noise on the embeddings by a hook, which a substitute would not have."""
    changed = []
    for alpha in (None, 50.0):
        _, _, after = trained(tmp_path / str(alpha), "used", neftune_noise_alpha=alpha, num_train_epochs=1)
        changed.append(after[TABLE])
    assert not torch.equal(*changed)


def test_a_part_of_a_state_can_be_loaded():
    partly = PartlyTrainedEmbedding(nn.Embedding(10, 4), torch.tensor([2, 5]))
    assert partly.load_state_dict({}, strict=False).missing_keys == ["weight"]
    assert partly.double().positions.dtype == torch.int64


def test_a_second_training_trains_them_too(tmp_path):
    trainer, _, first = trained(tmp_path, "used")
    first = {name: value.clone() for name, value in first.items()}
    trainer.train()
    assert not torch.equal(trainer.model.state_dict()[TABLE], first[TABLE])


def test_evaluation_uses_all_words_and_trained_ones_as_trained(tmp_path):
    """The validation split has words that the training split lacks."""
    metrics = {}
    for choice in ("used", "all"):
        trainer, _, _ = trained(tmp_path / choice, choice, eval_strategy="epoch")
        metrics[choice] = [row["eval_mae"] for row in trainer.state.log_history if "eval_mae" in row]
    embedding = trainer.model.get_input_embeddings()
    occurring = set(used_rows(trainer.train_dataset, embedding).tolist())
    assert not set(used_rows(trainer.eval_dataset, embedding).tolist()) <= occurring
    assert metrics["used"] == pytest.approx(metrics["all"], abs=1e-5)


def test_the_text_encoder_is_modulated_as_before(tmp_path):
    options = {"modulated_modalities": ["text", "acoustic"], "ge": False}
    _, _, used = trained(tmp_path / "used", "used", **options)
    _, _, whole = trained(tmp_path / "all", "all", **options)
    torch.testing.assert_close(used[TABLE], whole[TABLE], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("case", ["a stream", "a given optimizer", "frozen", "shared", "without text"])
def test_all_rows_are_trained_where_the_used_ones_are_not_known_or_not_alone(tmp_path, case):
    trainer = make_trainer(tmp_path, config_fields={"use_text": False} if case == "without text" else {}, **EXACT)
    model, dataset = trainer.model, trainer.train_dataset
    embedding = model.get_input_embeddings()
    if case == "a stream":
        dataset = dataset.with_format(None).to_iterable_dataset()
    elif case == "a given optimizer":
        trainer.create_optimizer()
        trainer.train()
        assert trainer.optimizer.state[embedding.weight]["exp_avg"].shape == embedding.weight.shape
        return
    elif case == "frozen":
        embedding.weight.requires_grad_(False)
    elif case == "shared":
        model.output = nn.Linear(*embedding.weight.shape[::-1], bias=False)
        model.output.weight = embedding.weight
    with trained_embeddings(model, "used", dataset) as has_changed:
        assert not has_changed
        assert model.get_input_embeddings() is embedding


def test_a_partly_trained_table_looks_up_what_a_table_does():
    table = nn.Embedding(10, 4, padding_idx=0)
    partly = PartlyTrainedEmbedding(copy.deepcopy(table), torch.tensor([2, 5, 9]))
    ids = torch.tensor([[0, 2, 5], [9, 7, 2]])
    assert torch.equal(partly(ids), table(ids))
    for module in (table, partly):
        module(ids).square().sum().backward()
    assert torch.equal(partly.trained.grad, table.weight.grad[[2, 5, 9]])
    assert partly.weight.grad is None
    assert partly.state_dict().keys() == {"weight"}
    partly.load_state_dict({"weight": torch.arange(40.0).view(10, 4)})
    assert torch.equal(partly.whole_table(), torch.arange(40.0).view(10, 4))
