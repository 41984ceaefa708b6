"""A CPSL model that is trained further: what is kept, what is new, and that both are told."""

import json

import pytest
import torch
from datasets import Dataset
from run_cases import pictures_not_rendered
from safetensors.torch import load_file
from shared_run import built_once
from tiny_models import make_model, make_wordpiece_tokenizer

from cpsl import main
from data_builders import load_aligned_dataset
from modeling_cpsl import CPSLProcessor
from modeling_cpsl.experiments import assembly, recipe, records
from modeling_cpsl.experiments.continuation import kept_statistics


TINY = {"latent_size": 16, "modality_hidden_size": 16, "fusion_size": 16, "max_length": 24}
QUICK = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


def train(dataset, output_dir, **options):
    options = {"dataset": dataset, "output_dir": output_dir, "disable_tqdm": True, **TINY, **QUICK, **options}
    with pictures_not_rendered():
        return main(["train", "sample", *(str(part) for name in options for part in (f"--{name}", options[name]))])


@pytest.fixture(scope="module")
def trained(small_tables):
    """The folder of a run on small tables."""

    def build(folder):
        assert train(small_tables, folder / "run") == 0

    return built_once("trained_run", build) / "run"


@pytest.fixture(scope="module")
def other_tables(tmp_path_factory):
    """A folder of tables with other utterances, in which the face has only 20 of the 47 features."""
    folder = tmp_path_factory.mktemp("other")
    for name, split in load_aligned_dataset("sample").items():
        rows = split.with_format("numpy").select(range(50, 66))
        rows = [row | {"visual": row["visual"][:, :20].tolist(), "words": list(row["words"])} for row in rows]
        Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    return folder


def prepare(trained, dataset, output_dir, **options):
    """The trainer of a training that goes on from a model, before its first step."""
    options = {"dataset": str(dataset), "model_name_or_path": str(trained), **TINY, **QUICK, **options}
    return assembly.prepare(recipe.read_recipe("sample", output_dir=output_dir, **options))[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "kept: text encoder, acoustic, visual, unimodal head of text, fusion, injection, task head"),
        ({"modalities": "text,acoustic"}, "injection, task head; left out: visual; other options: modality_sizes {"),
        (
            {"modalities": "text,acoustic,visual,timing"},
            "partly new: fusion; new: timing; other feature statistics: t",
        ),
        ({"modalities": "acoustic,visual"}, "left out: unimodal head of text; other options: use_text True -> False"),
        ({"fusion": "sum"}, "other options: fusion gated -> sum"),
        ({"ame": False}, "task head; other options: ame True -> False"),
        ({"latent_size": 8}, "other options: latent_size 16 -> 8"),
        ({"architecture": "late", "fusion_size": 512}, "other options: architecture cpsl -> late"),
    ],
)
def test_what_fits_is_kept_and_what_is_kept_and_new_is_told(trained, small_tables, tmp_path, capsys, options, told):
    model = prepare(trained, small_tables, tmp_path, **options).model
    before, now = load_file(trained / "model.safetensors"), model.state_dict()
    same_shape = [name for name in now if name in before and now[name].shape == before[name].shape]
    assert [name for name in same_shape if not torch.equal(now[name], before[name])] == []
    assert any(name.startswith("deberta.") for name in same_shape)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trained further: ")]
    assert line.startswith(f"trained further: {trained}; kept: text encoder, ") and told in line
    assert model.config.interval_half_widths is None


def test_a_model_of_sentiment_is_trained_further_on_classes(trained, small_tables, tmp_path, capsys):
    (tmp_path / "tables").mkdir()
    for path in small_tables.glob("*.parquet"):
        table = Dataset.from_parquet(str(path), cache_dir=tmp_path / "cache")
        moods = ["bad" if label < 0 else "good" for label in table["label"]]
        table.remove_columns("label").add_column("label", moods).to_parquet(tmp_path / "tables" / path.name)
    trainer = prepare(trained, tmp_path / "tables", tmp_path / "run", modalities="text")
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trained further: ")]
    assert line.startswith(f"trained further: {trained}; kept: text encoder; partly new: task head; ")
    assert "; left out: " in line and "; other labels: sentiment -> bad good; " in line
    before, now = load_file(trained / "model.safetensors"), trainer.model.state_dict()
    assert all(torch.equal(now[name], before[name]) for name in now if name.startswith("deberta."))
    trainer.train()


def test_another_feature_size_makes_a_new_encoder_with_statistics_and_bounds_of_its_own(
    trained, other_tables, tmp_path, capsys
):
    trainer = prepare(trained, other_tables, tmp_path, learning_rate=0.0)
    assert "other feature statistics: visual; other options: modality_sizes" in capsys.readouterr().out
    before = CPSLProcessor.from_pretrained(trained).feature_statistics
    now = trainer.processing_class.feature_statistics
    assert now["acoustic"] == before["acoustic"] and len(now["visual"]["mean"]) == 20
    updates = {name: trainer.model.multimodal.normalizers[name].num_updates.item() for name in now}
    assert updates == {"acoustic": 2, "visual": 0}


def test_a_gate_is_not_kept_for_another_modality_in_the_place_of_the_one_before(
    trained, small_tables, tmp_path, capsys
):
    """Its weights belong to modalities by their place, and `gaze` is where `visual` was."""
    (tmp_path / "tables").mkdir()
    for path in small_tables.glob("*.parquet"):
        table = Dataset.from_parquet(str(path), cache_dir=tmp_path / "cache").rename_column("visual", "gaze")
        table.to_parquet(tmp_path / "tables" / path.name)
    model = prepare(trained, tmp_path / "tables", tmp_path / "run").model
    assert "; partly new: fusion; new: gaze; left out: visual; " in capsys.readouterr().out
    name = "multimodal.fusion.gate.weight"
    before, now = load_file(trained / "model.safetensors")[name], model.state_dict()[name]
    assert before.shape == now.shape and not torch.isclose(before, now).any()


def test_statistics_hold_for_the_same_size_and_extractor():
    statistics = {name: {"mean": [0.0] * 2, "std": [1.0] * 2} for name in ("acoustic", "visual", "gaze")}
    sizes, extractors = dict.fromkeys(statistics, 2), {"acoustic": "COVAREP", "visual": "FACET"}
    trained = CPSLProcessor(make_wordpiece_tokenizer(), sizes, statistics, feature_extractors=extractors)
    assert kept_statistics(trained, sizes, {"acoustic": "COVAREP", "visual": "OpenFace"}).keys() == {
        "acoustic",
        "gaze",
    }
    assert kept_statistics(trained, {"acoustic": 2, "visual": 3}, {}).keys() == {"acoustic"}


@pytest.mark.parametrize("backbone", ["deberta", "bert", "mpnet"])
def test_a_model_over_each_text_encoder_is_trained_further(backbone, small_tables, tmp_path, capsys):
    tokenizer = make_wordpiece_tokenizer()
    model = make_model(backbone, vocab_size=len(tokenizer), modality_sizes={"acoustic": 74})
    model.save_pretrained(tmp_path / "model")
    CPSLProcessor(tokenizer, {"acoustic": 74}).save_pretrained(tmp_path / "model")
    options = {"latent_size": 7, "modality_hidden_size": 11, "fusion_size": 9, "modalities": "text,acoustic"}
    trainer = prepare(tmp_path / "model", small_tables, tmp_path / "run", **options)
    assert type(trainer.model) is type(model)
    assert "acoustic" in capsys.readouterr().out.partition("kept: ")[2].partition(";")[0]
    assert torch.equal(trainer.model.multimodal.out_proj.weight, model.multimodal.out_proj.weight)


def test_a_run_further_leaves_a_model_and_its_card(trained, small_tables, tmp_path):
    assert train(small_tables, tmp_path / "run", model_name_or_path=trained, seed=1) == 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"`{trained.name}`" in card
    shared = records.shared_files(tmp_path / "run").items()
    contents = {name: file if isinstance(file, bytes) else file.read_bytes() for name, file in shared}
    assert [name for name, content in contents.items() if str(trained).encode() in content] == []
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model_type"] == "cpsl"


def test_a_model_without_its_processor_is_refused_by_name(trained, small_tables, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=f"model_name_or_path {tmp_path / 'model'}: "):
        prepare(tmp_path / "model", small_tables, tmp_path / "run")
