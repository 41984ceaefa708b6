import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_builders import load_aligned_dataset
from data_builders.distributions import label_bins, plot
from data_builders.inspection import inspect


ROOT = Path(__file__).parents[2]


def test_inspect_says_everything(mag_data, write_pickle):
    data = mag_data((6, 3, 3))
    data["train"][0][0][2][0, :3] = np.nan
    data["train"][1] = (data["train"][1][0], 9.0, "bad_1")
    data["train"][2] = (data["train"][2][0], 0.0, "same1_1")
    data["test"][2] = (data["test"][2][0], 0.0, "same1_1")
    report = inspect(write_pickle(data))
    for line in (
        "data.pkl: mag_pickle",
        "train: 5 samples of 3 videos",
        "acoustic: 5 values a word, missing in 0 samples",
        "non-finite values replaced with 0: acoustic: 3",
        "left out: 1 sample",
        "bad_1: label 9 is outside of [-3, 3]",
        "ids that occur more than once: 1 same1_1",
        "videos in more than one split: 1 same1",
    ):
        assert line in report
    labels = [float(np.squeeze(label)) for _, label, _ in data["test"]]
    counts = np.histogram(labels, np.arange(-3.5, 4))[0]
    assert (
        "labels: " + ", ".join(f"{value}: {count}" for value, count in zip(range(-3, 4), counts, strict=True))
        in report
    )
    lengths = sorted(len(words) for (words, _, _), _, _ in data["test"])
    assert f"words: {lengths[0]} to {lengths[-1]}, median {lengths[1]}" in report
    first = data["dev"][0]
    assert first[2] in report and " ".join(first[0][0]) in report


def test_inspect_does_without_datasets(mag_data, write_pickle):
    """It takes longer to import than most data to read."""
    script = "import sys; from data_builders.inspection import inspect; inspect(sys.argv[1])\n"
    script += "assert not {'datasets', 'pandas', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script, write_pickle(mag_data())], check=True, cwd=ROOT)


def test_a_split_without_samples_is_no_fault_of_the_labels(mag_data, write_pickle):
    report = inspect(write_pickle(mag_data((6, 0, 3))))
    assert "validation: 0 samples of 0 videos" in report and "labels: none" not in report


@pytest.mark.parametrize("step", [Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1, 5)])
def test_every_value_of_the_grid_of_labels_has_a_bin_around_it(step):
    grid = np.array([float(step * k) for k in range(round(-3 / step), round(3 / step) + 1)], np.float32)
    bins = label_bins(np.repeat(grid, 2))
    np.testing.assert_allclose((bins[:-1] + bins[1:]) / 2, grid, atol=1e-6)
    assert (np.histogram(np.repeat(grid, 2), bins)[0] == 2).all()


def test_a_few_labels_beside_the_grid_do_not_hide_it():
    """In CMU-MOSI about one in twenty has another number of annotators."""
    labels = np.random.default_rng(0).integers(-15, 16, 200) / 5
    labels[:10] = [0.25, -0.75, 1 / 3, 2 / 3, 1.25, -2.5, -0.5, 0.5, 1.5, -1.75]
    assert len(label_bins(labels)) - 1 == 31


def test_labels_on_no_grid_get_bins_that_cover_them():
    labels = np.random.default_rng(0).uniform(-3, 3, 1000)
    assert np.histogram(labels, label_bins(labels))[0].sum() == 1000


@pytest.mark.parametrize("labels", [True, False])
def test_a_plot_has_no_empty_panel(mag_data, write_pickle, cache, tmp_path, labels):
    splits = load_aligned_dataset(write_pickle(mag_data()), cache_dir=cache, labels=labels)
    plot(splits, tmp_path / "new" / "x.PNG")
    with Image.open(tmp_path / "new" / "x.PNG") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert image.format == "PNG" and pixels.shape[1] == (1200 if labels else 600)
    panels = np.split(pixels, 2 if labels else 1, axis=1)
    for panel in panels:
        colored = np.ptp(panel, axis=2) > 60
        assert len(np.unique(panel[colored], axis=0)) >= 3  # a colour for each split
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.PNG"]


def inspected(tmp_path, rows):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return inspect(path)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([10, 90, 55], "3 numbers from 10 to 90"),
        (["positive", "positive"], "2 values, the first 'positive' of sample a0"),
        ([None, float("nan")], "empty cells"),
    ],
)
def test_labels_that_cannot_be_used_are_described(tmp_path, labels, found):
    report = inspected(tmp_path, [{"id": f"a{k}", "text": "b", "label": label} for k, label in enumerate(labels)])
    assert f"labels: none in [-3, 3], but {found}; to train, write sentiment as numbers in this range, or " in report
    assert f"train: {len(labels)} samples of {len(labels)} videos" in report and "first rows:\n  a0 'b'" in report


def test_samples_that_are_left_out_for_one_reason_are_one_line(tmp_path):
    rows = [{"id": f"a{k}", "text": "b", "label": label} for k, label in enumerate([4, 1, 5, None])]
    report = inspected(tmp_path, rows)
    assert "train: 1 sample of 1 video\n" in report and "left out: 3 samples\n" in report
    assert (
        "  a0 and 1 more: label 4 is outside of [-3, 3]; correct or remove the sample, or scale all labels" in report
    )
    assert "  a3: its label is missing (empty or NaN); add it or remove the sample" in report
