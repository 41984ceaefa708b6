"""What of a trained model is new where its labels are others; for other modalities see test_continuation.py."""

import pytest
import torch
from tiny_models import CLASSES, make_config, make_model

from modeling_cpsl.architectures_cpsl import ARCHITECTURES


MOODS = {"problem_type": "single_label_classification", "id2label": {0: "calm", 1: "glad", 2: "sad"}}
OTHER_MOODS = MOODS | {"id2label": {0: "glad", 1: "calm", 2: "sad"}}
MANY = [name for name, architecture in ARCHITECTURES.items() if not architecture.predicts_one_number]


def loaded(model, folder, config):
    """The model in a folder with another configuration, and the names of its tensors that are not the saved ones."""
    model.save_pretrained(folder)
    other, info = type(model).from_pretrained(
        folder, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    before = model.state_dict()
    changed = {
        name
        for name, value in other.state_dict().items()
        if name not in before or before[name].shape != value.shape or not torch.equal(before[name], value)
    }
    assert changed <= {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    return other, changed


def shapes_of(architecture, **labels):
    model = make_model(architecture=architecture, **MOODS | labels)
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize("architecture", MANY)
def test_the_parts_that_predict_are_those_whose_shape_depends_on_the_labels(architecture):
    shapes = shapes_of(architecture), shapes_of(architecture, id2label=dict(enumerate("abcd")))
    heads = ARCHITECTURES[architecture].heads
    dependent = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert dependent and all(heads & {*name.split(".")} for name in dependent)


@pytest.mark.parametrize("architecture", MANY)
def test_classes_in_another_order_have_new_heads_and_all_else_is_kept(architecture, tmp_path):
    model = make_model(architecture=architecture, **MOODS)
    config = make_config(architecture=architecture, **OTHER_MOODS)
    _, changed = loaded(model, tmp_path, config)
    heads = ARCHITECTURES[architecture].heads
    assert changed == {
        name for name, _ in model.multimodal.named_parameters(prefix="multimodal") if heads & {*name.split(".")}
    }


@pytest.mark.parametrize("backbone", CLASSES)
def test_a_model_of_sentiment_becomes_one_of_classes_and_back_over_each_text_encoder(backbone, tmp_path):
    model = make_model(backbone)
    classes, changed = loaded(model, tmp_path / "sentiment", make_config(backbone, **MOODS))
    assert changed and all({"out_proj", "unimodal_heads"} & {*name.split(".")} for name in changed)
    assert classes.config.num_labels == 3 and classes.multimodal.out_proj.weight.shape[0] == 3
    back, _ = loaded(classes, tmp_path / "classes", make_config(backbone))
    assert back.multimodal.out_proj.weight.shape[0] == 1
    assert torch.equal(back.multimodal.dense.weight, model.multimodal.dense.weight)


def test_the_same_labels_keep_their_heads(tmp_path):
    model = make_model(**MOODS)
    _, changed = loaded(model, tmp_path, make_config(**MOODS, unimodal_weight=0.2))
    assert changed == set()


def test_one_number_of_another_name_has_new_heads(tmp_path):
    model = make_model(architecture="self_mm")
    config = make_config(architecture="self_mm", id2label={0: "valence"}, problem_type="regression")
    _, changed = loaded(model, tmp_path, config)
    assert changed and all(".regression." in name for name in changed)
