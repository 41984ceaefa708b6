"""Data for trainings of a few seconds."""

import pytest

from data_builders import load_aligned_dataset


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A folder with 195 utterances of the sample corpus, of all of its speakers."""
    folder = tmp_path_factory.mktemp("small_data")
    for name, split in load_aligned_dataset("sample").items():
        split.select(range(0, len(split), 8 if name == "train" else 4)).to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Draws no figures, which take most of a report's time."""
    for name in ("plot_curves", "plot_forest", "plot_waterfall"):
        monkeypatch.setattr(f"modeling_cpsl.evidence.report.{name}", lambda *arguments: None)
