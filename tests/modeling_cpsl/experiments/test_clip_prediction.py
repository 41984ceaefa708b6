"""`cpsl predict MODEL CLIP`: sentiment over the segments of a clip, its subtitles and its timeline."""

import numpy as np
import pandas as pd
import pytest
from clip_cases import TASKS, analysis_of
from media_files import needs_package, tone, write_clip
from PIL import Image
from task_cases import KINDS

from cpsl import main
from modeling_cpsl.experiments.clip_prediction import segment_lines


needs_package("av")

CAPTIONS = """1
00:00:00,200 --> 00:00:01,000
a great movie.

2
00:00:03,000 --> 00:00:04,400
terrible ending.
"""


@pytest.fixture
def clip(tmp_path):
    """A clip of five seconds with sound and pictures, and captions of two utterances beside it."""
    write_clip(tmp_path / "clip.mkv", seconds=5.0, sound=tone(5.0))
    (tmp_path / "clip.srt").write_text(CAPTIONS)
    return tmp_path / "clip.mkv"


def run(model, clip, *arguments):
    return main(["predict", str(model), str(clip), *map(str, arguments), "--device", "cpu"])


def test_segments_subtitles_and_timeline(trained_folder, clip, tmp_path, capsys):
    out, plot, subtitles = (tmp_path / name for name in ("out.csv", "timeline.png", "out.srt"))
    options = ("--transcript", clip.with_suffix(".srt"), "--plot", plot, "--subtitles", subtitles)
    assert run(trained_folder, clip, out, *options) == 0
    printed = capsys.readouterr()
    assert len([line for line in printed.out.splitlines() if "great" in line or "terrible" in line]) == 2
    # The model was trained on features that were not made by these extractors.
    assert "acoustic" in printed.err and "scored without them" in printed.err
    table = pd.read_csv(out)
    assert len(table) == 2
    assert table["start"].tolist() == pytest.approx([0.2, 3.0], abs=0.05)
    assert table["prediction"].between(-3, 3).all()
    captions = subtitles.read_text().split("\n\n")
    for caption, value in zip(captions, table["prediction"], strict=True):
        assert f"[{value:+.1f} " in caption
    with Image.open(plot) as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_no_output_replaces_what_is_not_its_own(trained_folder, clip, tmp_path, capsys):
    words = ("--transcript", clip.with_suffix(".srt"))
    table, captions = tmp_path / "labels.csv", tmp_path / "others.srt"
    table.write_text("id,start,label\n1,0,2.5\n")
    captions.write_text(CAPTIONS)
    for suffix in (".parquet", ".jsonl"):
        table.with_suffix(suffix).write_text("not a table\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for arguments, message in (
        ((table, *words), f"{table}: it has other rows than segments of a clip; remove it or name another"),
        ((table.with_suffix(".parquet"), *words), "labels.parquet: it has other rows"),
        ((table.with_suffix(".jsonl"), *words), "labels.jsonl: it has other rows"),
        ((*words, "--subtitles", words[1]), "clip.srt: it is read, and an output would replace it"),
        ((*words, "--subtitles", captions), "others.srt: it has other captions than predictions; remove it or name"),
    ):
        assert run(trained_folder, clip, *arguments) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_same_command_replaces_its_own_outputs(trained_folder, clip, tmp_path, suffix):
    out, subtitles = tmp_path / f"out{suffix}", tmp_path / "out.srt"
    for _ in range(2):
        assert run(trained_folder, clip, out, "--transcript", clip.with_suffix(".srt"), "--subtitles", subtitles) == 0


@pytest.mark.parametrize(
    "option", [("--num_samples", 20), ("--explain",), ("--on_error", "skip"), ("--format", "csv"), ("--labels", "x")]
)
def test_what_does_nothing_for_a_clip_is_refused(trained_folder, clip, capsys, option):
    assert run(trained_folder, clip, "--transcript", clip.with_suffix(".srt"), *option) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"{option[0]} is for a data set, and this is a clip; leave it out" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_has_labels_of_any_kind(kind, folder_of_kind, clip, tmp_path, capsys):
    out, plot, subtitles = (tmp_path / name for name in ("out.csv", "timeline.png", "out.srt"))
    options = ("--transcript", clip.with_suffix(".srt"), "--plot", plot, "--subtitles", subtitles)
    model, _ = folder_of_kind(kind), capsys.readouterr()  # its training is told too
    assert run(model, clip, out, *options) == 0
    table, captions, lines = (
        pd.read_csv(out),
        subtitles.read_text().split("\n\n"),
        capsys.readouterr().out.splitlines(),
    )
    assert len(table) == len(lines) - 1 == 2 and not any(name.startswith("label") for name in table)
    with Image.open(plot) as image:
        assert np.asarray(image.convert("L")).std() > 5
    for caption, line, (_, row) in zip(captions, lines[1:], table.iterrows(), strict=True):
        if kind == "number":
            told = f"{row['score']:+.1f} "
            assert f"{row['score']:+.2f}" in line and -1 <= row["interval_low"] <= row["interval_high"] <= 1
        elif kind == "numbers":
            told = f"sentiment {row['score_sentiment']:+.1f}, intensity {row['score_intensity']:+.1f}"
            assert row["interval_low_intensity"] < row["score_intensity"] and f"{row['score_intensity']:+.2f}" in line
        elif kind == "class":
            told = f"{row['prediction']} {100 * row['score']:.0f} %"
            assert told in line and row["set"] in line and table["word_shares"].notna().all()
        else:
            chosen = [] if pd.isna(row["prediction"]) else row["prediction"].split("; ")
            told = ", ".join(f"{name} {100 * row[f'probability_{name}']:.0f} %" for name in chosen) or "none"
            assert told in line and table["word_shares_sad"].notna().all()
        assert f"[{told}" in caption


def test_lines_name_what_is_predicted():
    titles = {
        "rating": "start end valence interval visual text acoustic words",
        "numbers": "start end sentiment joy fear load visual text acoustic words",
        "class": "start end label set visual text acoustic words",
    }
    for kind, title in titles.items():
        analysis = analysis_of(TASKS[kind])
        first, *others = segment_lines(analysis.segments, analysis.task)
        assert first.split() == title.split() and all(line.endswith("  good grief") for line in others)
        assert all(line.index("good") == first.index("words") for line in others)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x1aE\xdf\xa3" + bytes(2000), "clip.mkv"),
    ],
)
def test_a_broken_clip_is_one_line(content, message, trained_folder, clip, capsys):
    clip.write_bytes(content)
    assert run(trained_folder, clip, "--transcript", clip.with_suffix(".srt")) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert str(clip) in line and message in line


def test_a_clip_without_sound_has_the_words_of_its_captions(trained_folder, clip, capsys):
    write_clip(clip, seconds=5.0)
    assert run(trained_folder, clip, "--transcript", clip.with_suffix(".srt")) == 0
    assert "terrible ending." in capsys.readouterr().out


def test_how_words_are_known_must_be_said(trained_folder, clip, capsys):
    assert run(trained_folder, clip) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "how are its words known? give --transcript FILE, --asr tiny.en" in line


def test_a_model_of_words_has_nothing_to_read_without_them(trained_folder, clip, capsys):
    assert run(trained_folder, clip, "--words", "none") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "nothing in it that this model can use" in line
