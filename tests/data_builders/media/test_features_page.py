"""docs/features.md names every value that is measured, as the code does."""

import itertools
from pathlib import Path

import pytest

from data_builders.media.face import FACE_DESCRIPTORS
from data_builders.media.voice import VOICE_DESCRIPTORS


PAGE = Path(__file__).parents[3] / "docs" / "features.md"


@pytest.mark.parametrize("descriptors", [VOICE_DESCRIPTORS, FACE_DESCRIPTORS], ids=["voice", "face"])
def test_the_page_has_the_table(descriptors):
    rows = ["| name | unit | meaning |", "|---|---|---|"]
    for (unit, meaning), group in itertools.groupby(descriptors, key=lambda descriptor: descriptor[1:]):
        rows.append(f"| {', '.join(f'`{name}`' for name, _, _ in group)} | {unit} | {meaning} |")
    table = "\n".join(rows)
    assert table in PAGE.read_text(), f"put this table into docs/features.md:\n{table}"
