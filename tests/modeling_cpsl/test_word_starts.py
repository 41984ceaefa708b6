"""Where words start: for the architectures that read one feature row a word, wherever a batch comes from."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDatasetDict
from tiny_models import SIZES, make_wordpiece_tokenizer

from modeling_cpsl import CPSLDataCollator, CPSLProcessor
from modeling_cpsl.training.encoding import encode_dataset


WORDS = ["terrible", "movie", "ending"]  # [CLS] terri ##ble movie end ##ing [SEP]
STARTS = [0, 1, 0, 1, 1, 0, 0]


def features(count):
    """The same row for all words, so that only the processor can know where one ends."""
    return {name: np.ones((count, size), dtype=np.float32) for name, size in SIZES.items()}


@pytest.fixture
def processor():
    return CPSLProcessor(make_wordpiece_tokenizer(), SIZES, word_starts=True)


def test_they_are_the_first_subwords(processor):
    batch = processor([WORDS, ["movie"], None], **{name: [rows, None, rows] for name, rows in features(3).items()})
    assert batch["word_starts"].int().tolist() == [STARTS, [0, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]]
    assert processor(WORDS, **features(3), return_tensors=None)["word_starts"] == [[bool(start) for start in STARTS]]
    assert set(batch) == set(processor.model_input_names)


def test_a_processor_gives_them_only_where_it_is_asked_to(processor, tmp_path):
    assert "word_starts" not in CPSLProcessor(processor.tokenizer, SIZES)(WORDS, **features(3))
    processor.save_pretrained(tmp_path)
    assert CPSLProcessor.from_pretrained(tmp_path).word_starts


@pytest.mark.parametrize("streamed", [False, True])
def test_data_sets_have_them(processor, streamed):
    row = {"id": "a", "words": WORDS, "label": 1.0} | {name: rows.tolist() for name, rows in features(3).items()}
    split = Dataset.from_list([row])
    streams = IterableDatasetDict({"test": split.to_iterable_dataset()})
    dataset = streams if streamed else DatasetDict({"test": split})
    encoded = encode_dataset(dataset, processor)["test"]
    assert CPSLDataCollator(processor)([encoded[0]])["word_starts"].int().tolist() == [STARTS]


def test_without_them_each_feature_token_is_a_word(make_model):
    regressor = make_model(architecture="late").multimodal
    mask = torch.tensor([[False, True, True]])
    given = regressor._checked_inputs(None, {}, mask, None, torch.tensor([[1, 1, 0]]))
    assert given.word_starts.tolist() == [[False, True, False]]
    assert torch.equal(regressor._checked_inputs(None, {}, mask, None).word_starts, mask)
