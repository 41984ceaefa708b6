"""What shows sentiments refuses models of other labels."""

import pytest

from cpsl import main
from modeling_cpsl.configuration_cpsl import CPSLConfig
from modeling_cpsl.experiments.loading import check_sentiment


CONFIGS = {
    "number": {"label_ranges": {"sentiment": [-1.0, 1.0]}},
    "numbers": {"problem_type": "regression", "id2label": {0: "valence", 1: "arousal"}},
    "class": {"problem_type": "single_label_classification", "id2label": {0: "happy", 1: "sad"}},
    "classes": {"problem_type": "multi_label_classification", "id2label": {0: "happy", 1: "sad"}},
}


def test_sentiments_are_shown():
    check_sentiment("a-model", CPSLConfig(), "the page")


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("command", ["diagnose", "score_quality"])
def test_other_labels_are_refused_in_a_sentence(kind, command, tmp_path, capsys):
    """Before the weights or the data are looked at, of which there are none."""
    model, out = tmp_path / "model", tmp_path / "out"
    CPSLConfig(**CONFIGS[kind]).save_pretrained(model)
    given = ["--output_dir", out] if command == "diagnose" else [out]
    assert main([command, *map(str, (model, tmp_path / "data.jsonl", *given))]) == 1
    what = {"diagnose": "the diagnosis", "score_quality": "the score of quality"}[command]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cpsl {command}: error: {model}: its labels are no sentiments in [-3, 3], which {what} ")
    assert not out.exists()
