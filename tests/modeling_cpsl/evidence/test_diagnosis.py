"""What a decision does with its modalities: figures against what was built in, and the command on a trained model."""

import json

import numpy as np
import pytest
from prediction_cases import corpus, write_jsonl
from tiny_models import make_model, make_wordpiece_tokenizer

from cpsl import main
from modeling_cpsl import CPSLProcessor
from modeling_cpsl.evidence.decision_table import DecisionTable
from modeling_cpsl.evidence.diagnosis import diagnose


NAMES = ["text", "visual"]


def table(size=600, seed=0, heads=True):
    """The decision reads the text right and a third of what the face knows; the face's head is timid by half."""
    generator = np.random.default_rng(seed)
    text, face, noise = generator.normal(size=(3, size))
    labels = text + face + 0.3 * noise
    coalitions = {("text",): text, ("visual",): face / 3, ("text", "visual"): text + face / 3}
    return DecisionTable(
        modalities=NAMES,
        labels=labels,
        fused=text + face / 3,
        unimodal={"text": text, "visual": face / 2} if heads else {},
        coalitions=coalitions,
        sets=["text+visual"] * size,
        groups=[f"v{number % 40}" for number in range(size)],
        mean_label=0.0,
    )


@pytest.fixture(scope="module", autouse=True)
def _few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modeling_cpsl.evidence.diagnosis.NUM_DRAWS", 100)
        yield


@pytest.fixture(scope="module")
def found():
    return diagnose(table(), None)


def test_what_is_left_unused_is_what_was_left_out(found):
    unused = found["figures"]["unused"]
    assert unused["text"]["value"] == pytest.approx(0, abs=0.05) and unused["text"]["low"] < 0 < unused["text"]["high"]
    assert unused["visual"]["value"] == pytest.approx(4 / 3, abs=0.1) and unused["visual"]["low"] > 1
    assert unused["gain"]["value"] == pytest.approx(4 / 9, abs=0.1)
    assert found["decision_weights"]["after"]["text+visual"]["visual"][0] > 0.1


def test_calibration_is_the_line_of_labels_over_predictions(found):
    lines = found["figures"]["calibration"]
    assert lines["visual"]["slope"]["value"] == pytest.approx(2, abs=0.2)
    assert lines["text"]["slope"]["value"] == pytest.approx(1, abs=0.1)
    sample = table()
    slope, offset = np.polyfit(sample.fused, sample.labels, 1)
    assert [lines["fused"][key]["value"] for key in ("slope", "offset")] == pytest.approx([slope, offset])
    assert lines["fused"]["corr"]["value"] == pytest.approx(np.corrcoef(sample.fused, sample.labels)[0, 1])


def test_worth_adds_up_and_intervals_hold_it(found):
    figures, sample = found["figures"], table()
    everything = 1 - np.mean((sample.fused - sample.labels) ** 2) / np.mean(sample.labels**2)
    assert figures["coalitions"]["text+visual"]["value"] == pytest.approx(everything)
    use = figures["use"]
    assert sum(use[name]["shapley"]["value"] for name in NAMES) == pytest.approx(everything)
    alone = [use[name]["solo"]["value"] for name in NAMES]
    assert use["all"]["interaction"]["value"] == pytest.approx(everything - sum(alone))
    assert use["visual"]["last"]["value"] == pytest.approx(everything - alone[0])
    assert all(
        use[name]["shapley"]["low"] < use[name]["shapley"]["value"] < use[name]["shapley"]["high"] for name in NAMES
    )
    assert sum(found["num_in_class"].values()) == 600 and sum(found["num_in_subset"].values()) == 600


def test_without_heads_what_needs_them_is_left_out_and_said():
    found = diagnose(table(heads=False), None)
    assert not {"unused", "subsets"} & found["figures"].keys()
    assert found["decision_weights"]["after"] is None
    assert any("no predictions from one modality alone" in note for note in found["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["cpsl", "late", "mag"])
def test_the_command_diagnoses_every_architecture(tmp_path, capsys, architecture):
    sizes = {"acoustic": 74, "visual": 47}
    model = make_model("bert", architecture=architecture, modality_sizes=sizes, vocab_size=60)
    model.save_pretrained(tmp_path / "model")
    CPSLProcessor(
        make_wordpiece_tokenizer(),
        sizes,
        word_starts=model.multimodal.reads_word_starts,
    ).save_pretrained(tmp_path / "model")
    rows = [
        row
        | {"label": float(number % 7) - 3, "split": "train" if number % 4 else "validation", "video_id": f"v{number}"}
        for number, row in enumerate(corpus(60))
    ]
    data = write_jsonl(rows, tmp_path / "data.jsonl")
    arguments = ["diagnose", str(tmp_path / "model"), str(data), "--output_dir", str(tmp_path / "out")]
    assert main([*arguments, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert (
        printed.startswith("## validation")
        and printed.strip() == (tmp_path / "out/decision_layer.md").read_text().strip()
    )
    assert main([*arguments, "--device", "cpu", "--group", "speaker"]) == 1
    assert "there is no column 'speaker' to group by; name one of id, video_id, words" in capsys.readouterr().err
    figures = json.loads((tmp_path / "out/decision_layer.json").read_text())["validation"]["figures"]
    assert len(figures["coalitions"]) == 7
    where = {"cpsl": {"gate", "injection_ratio"}, "late": {"weight_norm", "scale"}, "mag": set()}
    assert set(figures.get("where", ())) == where[architecture]
    assert ("unused" in figures) == (architecture != "mag")
    assert (tmp_path / "out/decision_layer.png").read_bytes().startswith(b"\x89PNG")
