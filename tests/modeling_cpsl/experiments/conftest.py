import pytest
from run_cases import pictures_not_rendered
from shared_run import built_once

from data_builders import load_aligned_dataset


@pytest.fixture
def without_pictures():
    with pictures_not_rendered():
        yield


@pytest.fixture(scope="session")
def small_tables():
    """A folder of tables with the first 16, 8 and 8 utterances of the sample's splits."""

    def build(folder):
        for name, split in load_aligned_dataset("sample").items():
            split.select(range(16 if name == "train" else 8)).to_parquet(folder / f"{name}.parquet")

    return built_once("small_tables", build)
