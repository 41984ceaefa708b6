"""From a recipe to a trainer: what is taken from the data and from the text encoder's checkpoint."""

import json

import pandas as pd
import pytest
from datasets import Array2D, ClassLabel, DatasetDict, Features, List, Value

from data_builders import load_aligned_dataset
from modeling_cpsl.experiments import assembly, recipe
from modeling_cpsl.experiments.data_arguments import DataArguments
from modeling_cpsl.experiments.sample_backbone import make_sample_backbone


def test_the_processor_knows_what_made_the_features(tmp_path):
    train = load_aligned_dataset("sample")["train"].select(range(3))
    train = train.cast_column("visual", Array2D((None, 47), "float32", id="FACET 4.2"))
    backbone = make_sample_backbone(["great"], tmp_path / "backbone", hidden_size=8)
    _, tokenizer, _ = assembly.load_backbone(str(backbone), 50)
    arguments = DataArguments(dataset="sample")
    processor = assembly.build_processor(arguments, DatasetDict(train=train), tokenizer)
    assert processor.feature_extractors == {"visual": "FACET 4.2"}


@pytest.fixture
def backbone(tmp_path):
    """A text encoder of two layers with its processor for the sample corpus."""
    folder = make_sample_backbone(["great", "movie"], tmp_path / "backbone", hidden_size=8)
    return folder, *assembly.load_backbone(str(folder), 50)[:2]


def build(folder, config, tokenizer):
    dataset = DatasetDict(train=load_aligned_dataset("sample")["train"].select(range(3)))
    processor = assembly.build_processor(DataArguments(), dataset, tokenizer)
    return assembly.build_model(recipe.ModelArguments(), processor, config, str(folder))[0]


def test_a_complete_encoder_is_loaded_without_a_word(backbone, caplog):
    folder, config, tokenizer = backbone
    model = build(folder, config, tokenizer)
    assert caplog.text == ""
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    assert [getattr(model.config, name) for name in special] == [getattr(tokenizer, name) for name in special]


def test_an_encoder_that_is_larger_than_its_configuration_says_is_told(backbone, caplog):
    folder, config, tokenizer = backbone
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"num_hidden_layers": 1}))
    config, tokenizer, _ = assembly.load_backbone(str(folder), 50)
    build(folder, config, tokenizer)
    [record] = caplog.records
    assert "leaves out 16 tensors; the first is " in record.getMessage()
    assert "encoder.layer.1." in record.getMessage()


def test_nothing_of_the_recipe_is_changed_and_what_has_no_effect_is_said(small_tables, tmp_path, caplog):
    """What the data decides about the training's options is not what the user has asked for."""
    options = {"streaming": True, "max_steps": 2, "modality_hidden_size": 8, "latent_size": 8, "fusion_size": 8}
    options |= {"train_sampling_strategy": "group_by_length"}
    given = recipe.read_recipe("sample", dataset=str(small_tables), output_dir=tmp_path, use_cpu=True, **options)
    before = given.resolved()
    trainer, _ = assembly.prepare(given)
    assert given.resolved() == before
    assert trainer.args.train_sampling_strategy == "sequential" != given.training.train_sampling_strategy
    assert "train_sampling_strategy=group_by_length has no effect on a stream" in caplog.text


def test_folds_are_cut_by_any_column_of_a_table(tmp_path):
    file = tmp_path / "data.csv"
    rows = [f"clip{number},so it is,1,speaker {number % 3}" for number in range(12)]
    file.write_text("\n".join(["id,text,label,speaker", *rows]))
    data = assembly.load_data(DataArguments(dataset=str(file), fold="0/3", fold_group="speaker"))
    assert [len({*split["speaker"]}) for split in data.values()] == [1, 1, 1]
    with pytest.raises(
        ValueError, match=r"no column 'speakr' to group by; the data has id, .*: name one of them, or add"
    ):
        assembly.load_data(DataArguments(dataset=str(file), fold="0/3", fold_group="speakr"))


def test_a_fold_takes_the_place_of_the_data_s_own_splits(small_tables):
    arguments = DataArguments(dataset=str(small_tables), fold="1/3")
    own = load_aligned_dataset(small_tables)
    splits = assembly.load_data(arguments)
    assert list(splits) == ["train", "validation", "test"]
    assert sum(map(len, splits.values())) == sum(map(len, own.values()))
    other = assembly.load_data(DataArguments(dataset=str(small_tables), fold="0/3"))
    assert splits["test"]["id"] == other["validation"]["id"] != other["test"]["id"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": "first"}, "fold: 'first' is not of the form i/n with i below n; 0/5 is the first of five"),
        ({"fold": "0/5", "streaming": True}, "a stream cannot be cut into folds"),
        ({"fold": "0/5", "fold_group": "speaker"}, "there is no column 'speaker' to group by; the data has id, "),
    ],
)
def test_a_fold_that_cannot_be_made_is_refused(options, message, small_tables):
    with pytest.raises(ValueError, match=message):
        assembly.load_data(DataArguments(dataset=str(small_tables), **options))


@pytest.mark.parametrize(
    ("label", "task"),
    [
        (Value("float32"), {}),
        (
            ClassLabel(names=["joy", "anger"]),
            {"problem_type": "single_label_classification", "id2label": {0: "joy", 1: "anger"}},
        ),
        (
            List(ClassLabel(names=["joy", "anger"])),
            {"problem_type": "multi_label_classification", "id2label": {0: "joy", 1: "anger"}},
        ),
        (
            {"sentiment": Value("float32"), "arousal": Value("float32")},
            {
                "problem_type": "regression",
                "id2label": {0: "sentiment", 1: "arousal"},
                "label_ranges": {"sentiment": [-3.0, 3.0]},
            },
        ),
        (
            Value("float32", id='{"sentiment": [-1, 1]}'),
            {
                "problem_type": "regression",
                "id2label": {0: "sentiment"},
                "label_ranges": {"sentiment": [-1.0, 1.0]},
            },
        ),
    ],
)
def test_the_column_of_labels_says_what_the_model_predicts(label, task, backbone):
    assert assembly.task_fields(Features({"label": label})) == task
    folder, config, tokenizer = backbone
    processor = assembly.build_processor(
        DataArguments(), DatasetDict(train=load_aligned_dataset("sample")["train"].select(range(3))), tokenizer
    )
    model, _ = assembly.build_model(recipe.ModelArguments(), processor, config, str(folder), task)
    assert model.config.num_labels == len(task.get("id2label", "1"))
    assert model.config.problem_type == task.get("problem_type", "regression")
    assert getattr(model.config, "label_ranges", None) == task.get("label_ranges")


@pytest.mark.parametrize(
    ("cells", "options", "num_labels"),
    [
        ({"emotion": ["joy", "fear", "anger"]}, {"labels": "emotion"}, 3),
        ({"label": ["joy;fear", "fear", "joy"]}, {"label_kind": "classes"}, 2),
        ({"valence": [1, 5, 9], "arousal": [2, 4, 6]}, {"labels": "valence,arousal", "label_range": [1, 9]}, 2),
        ({"label": [-1, 0.4, 1]}, {"label_range": [-1, 1]}, 1),
    ],
)
def test_a_model_is_trained_on_the_labels_that_a_recipe_names(tmp_path, cells, options, num_labels):
    table = pd.DataFrame({"id": [f"v{k}" for k in range(12)], "text": [f"what a film {k}" for k in range(12)]})
    for name, values in cells.items():
        table[name] = values * 4
    table["split"] = ["train"] * 9 + ["validation"] * 3
    table.to_csv(tmp_path / "data.csv", index=False)
    path, output_dir = str(tmp_path / "data.csv"), str(tmp_path / "out")
    given = recipe.read_recipe("sample", dataset=path, output_dir=output_dir, use_cpu=True, max_steps=1, **options)
    assert given.resolved()["label_range"] == options.get("label_range")
    trainer, splits = assembly.prepare(given)
    trainer.train()
    predictions = trainer.predict(splits["validation"]).predictions
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    assert logits.shape == ((3,) if num_labels == 1 else (3, num_labels))
