import os

import pytest
from prediction_cases import corpus, write_jsonl
from run_cases import pictures_not_rendered
from shared_run import built_once

from data_builders import load_aligned_dataset
from modeling_cpsl.pipeline_cpsl import MultimodalSentimentPipeline


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


@pytest.fixture
def data(tmp_path):
    return write_jsonl(corpus(30), tmp_path / "data.jsonl")


@pytest.fixture
def signal_in_batch(monkeypatch):
    """`signal_in_batch(number, signal)`: a process that is forked from here gets the signal in that batch."""

    def signal_in_batch(number, signal_number):
        batches, forward = [], MultimodalSentimentPipeline._forward

        def forward_with_signal(*args, **kwargs):
            batches.append(args)
            if len(batches) == number:
                os.kill(os.getpid(), signal_number)
            return forward(*args, **kwargs)

        monkeypatch.setattr(MultimodalSentimentPipeline, "_forward", forward_with_signal)

    return signal_in_batch
