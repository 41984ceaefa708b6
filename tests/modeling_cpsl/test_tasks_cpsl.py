"""The kinds of labels, against what they mean written out by hand."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from modeling_cpsl.class_task_cpsl import ClassTask, LabelSetTask
from modeling_cpsl.configuration_cpsl import CPSLConfig
from modeling_cpsl.number_task_cpsl import NumberTask
from modeling_cpsl.tasks_cpsl import SENTIMENT, task_of


NAMES = ("angry", "happy", "sad")
LOGITS = torch.tensor([[2.0, 0.5, -1.0], [-0.3, 0.1, 1.2]])
NUMBERS = NumberTask(("valence", "arousal"), ranges=((1.0, 5.0), (-math.inf, math.inf)))
CLASSES, SETS = ClassTask(NAMES), LabelSetTask(NAMES)


def config(names, problem_type, **fields):
    return CPSLConfig(problem_type=problem_type, id2label=dict(enumerate(names)), **fields)


class TestOfAConfiguration:
    def test_nothing_said_is_a_sentiment(self):
        assert task_of(CPSLConfig()) == SENTIMENT and SENTIMENT.is_one_number and SENTIMENT.is_sentiment

    def test_each_kind_comes_back_from_a_saved_one(self, tmp_path):
        kinds = {
            ClassTask(NAMES, weights=(1.0, 2.0, 0.5)): {"class_weights": dict(zip(NAMES, (1, 2, 0.5), strict=True))},
            LabelSetTask(NAMES): {},
            NumberTask(("sentiment", "happy"), ranges=((-3.0, 3.0), (0.0, 3.0))): {"label_ranges": {"happy": [0, 3]}},
            NumberTask(("sentiment",), ranges=((-1.0, 1.0),)): {"label_ranges": {"sentiment": [-1, 1]}},
        }
        for task, fields in kinds.items():
            config(task.names, task.problem_type, **fields).save_pretrained(tmp_path)
            saved = CPSLConfig.from_pretrained(tmp_path)
            assert task_of(saved) == task and saved.label2id == {name: i for i, name in enumerate(task.names)}

    def test_one_number_is_called_a_sentiment_where_it_is_one(self):
        assert NumberTask(("sentiment",), ranges=((-1.0, 1.0),)).title == "Multimodal sentiment regression"
        assert NumberTask(("calm",), ranges=((0.0, 1.0),)).title == "Regression of calm"

    def test_a_saved_sentiment_says_nothing_of_other_tasks(self):
        assert not {"label_ranges", "class_weights"} & CPSLConfig().to_dict().keys()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"problem_type": "guess"}, "problem_type='guess' is unknown; choose one of regression, single_"),
            ({"problem_type": "multi_label_classification"}, "it needs the names of at least 2 classes"),
            ({"problem_type": "single_label_classification", "id2label": {0: "a", 1: "a"}}, "each once"),
            ({"id2label": {0: True}}, "a name must be a text, not True"),
            ({"problem_type": "single_label_classification", "id2label": {0: "a", 1: ["b"]}}, "a name must be a text"),
            ({"problem_type": "multi_label_classification", "id2label": {0: "a", 1: ""}}, "a name must be a text"),
            ({"label_ranges": {"joy": [0, 3]}}, "label_ranges: joy is none of sentiment"),
            ({"label_ranges": {"sentiment": [3, 3]}}, r"label_ranges: sentiment has \[3, 3\]"),
            ({"class_weights": {"sentiment": 1.0}}, "class_weights=.* has no effect with problem_type='regression'"),
            ({"classes": NAMES, "class_weights": {"sad": 1.0}}, "there is none for angry, happy"),
            ({"classes": ("a", "b"), "class_weights": {"a": 1, "b": -1}}, "class_weights: b has -1"),
            ({"classes": NAMES, "task_loss": "l1"}, "task_loss='l1' has no effect on classes"),
            (
                {"classes": NAMES, "boosted_heads": 2},
                "boosted_heads=2 is made for labels that are one number, not for",
            ),
            ({"classes": NAMES, "architecture": "self_mm"}, "architecture='self_mm' is made for labels that are one"),
            (
                {"classes": NAMES, "decision_weights": {"text": {"fused": [1.0, 0.0, 1.0]}}},
                "decision_weights is made for labels that are one number, not for angry, happy, sad",
            ),
        ],
    )
    def test_contradictions_are_refused_on_one_line(self, fields, message):
        if classes := fields.pop("classes", ()):
            fields |= {"problem_type": "single_label_classification", "id2label": dict(enumerate(classes))}
        with pytest.raises(ValueError, match=message) as caught:
            CPSLConfig(**fields)
        assert "\n" not in str(caught.value)


class TestLosses:
    def test_of_classes(self):
        labels = torch.tensor([1, 2])
        p = torch.exp(LOGITS) / torch.exp(LOGITS).sum(dim=1, keepdim=True)
        expected = -torch.log(p[[0, 1], labels])
        assert_close(CLASSES.losses(LOGITS, labels), expected)
        weighted = ClassTask(NAMES, weights=(1.0, 3.0, 0.5))
        assert_close(weighted.losses(LOGITS, labels), expected * torch.tensor([3.0, 0.5]))

    def test_of_several_classes_at_once(self):
        labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
        p = 1 / (1 + torch.exp(-LOGITS))
        of_each = -(labels * p.log() + (1 - labels) * (1 - p).log())
        assert_close(SETS.losses(LOGITS, labels), of_each.mean(dim=1))
        of_present = torch.where(labels == 1, of_each * torch.tensor([1.0, 4.0, 2.0]), of_each)
        assert_close(LabelSetTask(NAMES, weights=(1.0, 4.0, 2.0)).losses(LOGITS, labels), of_present.mean(dim=1))

    def test_of_several_numbers(self):
        logits, labels = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[2.0, 2.0], [1.0, 1.0]])
        assert NUMBERS.losses(logits, labels).tolist() == [0.5, 10.0]
        assert NUMBERS.losses(logits, labels, "l1").tolist() == [0.5, 3.0]

    def test_of_a_constant(self):
        assert CLASSES.constant(np.array([0, 2, 2, 2])).tolist() == [0.25, 0.0, 0.75]
        assert SETS.constant(np.array([[1, 0, 0], [1, 1, 0]])).tolist() == [1.0, 0.5, 0.0]
        assert SENTIMENT.constant(np.array([1.0, 2.0])) == 1.5


class TestErrors:
    def test_are_what_is_left_to_the_label(self):
        p = LOGITS.softmax(dim=1)
        assert_close(CLASSES.errors(LOGITS, torch.tensor([1, 2])), torch.stack([1 - p[0, 1], 1 - p[1, 2]]))
        q, labels = LOGITS.sigmoid(), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
        of_truth = torch.where(labels == 1, q, 1 - q)
        assert_close(SETS.errors(LOGITS, labels), (1 - of_truth).mean(dim=1))
        assert NUMBERS.errors(torch.tensor([[9.0, 1.0]]), torch.tensor([[5.0, 3.0]])).tolist() == [3.0]

    def test_of_a_constant_are_judged_alike(self):
        frequencies = torch.tensor([0.25, 0.0, 0.75])
        assert CLASSES.distance(frequencies, torch.tensor([0, 2])).tolist() == [0.75, 0.25]


class TestLabels:
    @pytest.mark.parametrize(
        ("task", "label", "checked"),
        [
            (CLASSES, "happy", 1),
            (CLASSES, np.int64(2), 2),
            (SETS, ["sad", "angry"], [1.0, 0.0, 1.0]),
            (SETS, np.array([1]), [0.0, 1.0, 0.0]),
            (SETS, [], [0.0, 0.0, 0.0]),
            (NUMBERS, {"arousal": 7, "valence": 2}, [2.0, 7.0]),
            (NUMBERS, (1.5, -4), [1.5, -4.0]),
        ],
    )
    def test_are_plain_values(self, task, label, checked):
        assert task.checked_label(label) == checked

    @pytest.mark.parametrize(
        ("task", "label", "message"),
        [
            (CLASSES, "joy", "label 'joy' is none of the classes angry, happy, sad"),
            (CLASSES, 3, "label 3 is none of the classes"),
            (CLASSES, 0.5, "label 0.5 is none of the classes"),
            (SETS, "happy", "label 'happy' is not a list of classes among angry, happy, sad"),
            (SETS, ["happy", "joy"], "label 'joy' is none of the classes"),
            (NUMBERS, {"valence": 2}, "the label has no arousal; it needs valence, arousal"),
            (NUMBERS, [6.0, 0.0], r"label of valence 6.0 is not in \[1, 5\]"),
            (NUMBERS, [2.0, math.inf], "label of arousal inf is not a finite number"),
            (NUMBERS, 2.0, "label 2.0 is not 2 numbers: valence, arousal"),
        ],
    )
    def test_that_are_none_are_refused_by_value(self, task, label, message):
        with pytest.raises(ValueError, match=message):
            task.checked_label(label)

    @pytest.mark.parametrize(
        ("task", "shape"), [(CLASSES, (2, 3)), (SETS, (2,)), (NUMBERS, (2, 3)), (SENTIMENT, (3,))]
    )
    def test_of_another_shape_are_refused(self, task, shape):
        with pytest.raises(ValueError, match="labels have shape"):
            task.label_tensor(torch.zeros(shape), 2)


class TestResults:
    def test_of_classes(self):
        first, second = CLASSES.results(LOGITS)
        assert (first["label"], second["label"]) == ("angry", "sad")
        assert first["score"] == first["probabilities"]["angry"] == pytest.approx(LOGITS.softmax(dim=1)[0, 0].item())
        assert CLASSES.change(np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.1, 0.5])) == pytest.approx(0.3)

    def test_of_several_classes_at_once(self):
        first, second = SETS.results(LOGITS)
        assert (first["label"], second["label"]) == (["angry", "happy"], ["happy", "sad"])
        assert first["score"]["sad"] == pytest.approx(1 / (1 + math.e))

    def test_of_numbers(self):
        (result,) = NUMBERS.results(torch.tensor([[9.0, 9.0]]))
        assert result == {"score": {"valence": 5.0, "arousal": 9.0}, "prediction": {"valence": 9.0, "arousal": 9.0}}
        chinese = NumberTask(("sentiment",), ranges=((-1.0, 1.0),))
        names = [result["label"] for result in chinese.results(torch.tensor([-2.0, -0.8, -0.2, 0.05, 0.6, 0.9]))]
        assert names == ["negative", "negative", "weakly negative", "neutral", "weakly positive", "positive"]


class TestRegions:
    def test_of_classes_hold_those_that_are_likely_enough_and_never_none(self):
        scores = np.array([0.5, 0.3, 0.2])
        assert CLASSES.region(scores, np.array(0.7)) == {"set": ["angry", "happy"]}
        assert CLASSES.region(scores, np.array(0.1)) == {"set": ["angry"]}
        assert CLASSES.conformity_errors(scores[None], np.array([1])).tolist() == [0.7]

    def test_of_several_classes_at_once(self):
        region = SETS.region(np.array([0.9, 0.4, 0.5]), np.array([0.2, 0.7, 0.1]))
        assert region == {"set": {"angry": [True], "happy": [True, False], "sad": [True]}}

    def test_of_numbers_are_intervals_within_the_range(self):
        region = NUMBERS.region(np.array([4.5, 0.0]), np.array([1.0, 2.0]))
        assert region == {"interval": {"valence": [3.5, 5.0], "arousal": [-2.0, 2.0]}}
        assert SENTIMENT.region(np.array(-2.5), np.array(1.0)) == {"interval": [-3.0, -1.5]}
