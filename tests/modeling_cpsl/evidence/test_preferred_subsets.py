"""Errors on the samples that one modality alone predicts best."""

import numpy as np
import pandas as pd
import pytest
from datasets import Array2D, Dataset, Features, List, Value

from modeling_cpsl.evidence.preferred_subsets import preferred_by_sample, subset_report


def test_the_preferred_modality_is_that_of_models_that_never_saw_the_video():
    """Odd samples tell their label in a word, even ones in their voice; the word of a video alone would be learnt."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(200):
        label = float(generator.choice([-2.0, 2.0]))
        word, voice = ("good" if label > 0 else "bad", 0.0) if number % 2 else ("well", label)
        row = {"id": f"s{number}", "video_id": f"v{number // 10}", "words": [f"own{number // 10}", word]}
        rows.append(row | {"label": label, "acoustic": [[voice + 0.1 * generator.normal()]] * 2})
    features = {"id": Value("string"), "video_id": Value("string"), "words": List(Value("string"))}
    features |= {"label": Value("float32"), "acoustic": Array2D((None, 1), "float32")}
    data = Dataset.from_list(rows, Features(features))
    found = preferred_by_sample([data.select(range(120)), data.select(range(120, 200))], "video_id")
    assert list(found.index) == [row["id"] for row in rows] and list(found["group"]) == [
        row["video_id"] for row in rows
    ]
    is_text = found["preferred"] == "text"
    assert set(found["preferred"]) == {"text", "acoustic"}
    assert is_text[1::2].mean() > 0.95 and is_text[::2].mean() < 0.05


@pytest.fixture
def samples():
    """Six of three videos: four preferred by text, one by voice, and one of which only one modality is known."""
    preferred = ["text", "text", "acoustic", "text", "text", ""]
    ids = [f"s{number}" for number in range(6)]
    return pd.DataFrame({"preferred": preferred, "group": [f"v{number // 2}" for number in range(6)]}, index=ids)


def test_errors_and_differences_by_hand(samples):
    def table(errors, **columns):
        return pd.DataFrame({"id": samples.index, "label": 1.0, "prediction": 1 + np.array(errors)} | columns)

    plain = table([0.5, 1.5, 2.0, 1.0, 1.0, 9.0], prediction_text=1.25, prediction_acoustic=np.nan)
    runs = [table([0.0, 1.0, 3.0, 0.5, 0.5, 9.0]), table([-0.5, 1.0, 3.0, 0.5, -0.5, 9.0])]
    parts = subset_report(samples, {"plain": plain, "other": pd.concat(runs)}, "plain")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for part in parts for line in part.splitlines()[2:]]
    # text: (.5 + 1.5 + 1 + 1) / 4, and of the other row .25, 1, .5, .5
    assert cells[0] == ["text", "67%", "1.000", "0.562"] and cells[1] == ["acoustic", "17%", "2.000", "3.000"]
    row, text, voice = cells[2]
    assert row == "other" and voice == "+1.000 [+1.000, +1.000]"
    # -.25 and -.5 in the first video, -.5 in each of the others
    value, low, high = (float(number.strip("[],")) for number in text.split())
    assert value == pytest.approx((-0.25 - 0.5 - 0.5 - 0.5) / 4, abs=1e-3) and low >= -0.5 and high <= -0.375
    # of its own heads: .5 - .25 and so on; it has none of the voice
    assert cells[3][0] == "plain" and cells[3][1].startswith("+0.750 [") and cells[3][2] == ""


def test_where_all_prefer_the_same_nothing_is_compared(samples):
    table = pd.DataFrame({"id": ["s0", "s1"], "label": 0.0, "prediction": 1.0})
    (line,) = subset_report(samples, {"plain": table}, "plain")
    assert "all samples prefer the same one" in line
