"""Dataset rows -> batches: the same tensors as the processor gives for the same utterances."""

import numpy as np
import pytest
import torch
from row_cases import SIZES, STATISTICS, make_dataset, make_rows

from modeling_cpsl.processing_cpsl import CPSLProcessor
from modeling_cpsl.training.collation import CPSLDataCollator
from modeling_cpsl.training.encoding import encode_dataset


@pytest.fixture
def processor(unigram_tokenizer):
    return CPSLProcessor(unigram_tokenizer, SIZES, feature_statistics=STATISTICS)


def rows_of(dataset, processor, split="train"):
    encoded = encode_dataset(dataset, processor)[split]
    return [encoded[index] for index in range(len(encoded))]


def by_processor(processor, rows, use_text=True):
    features = {name: [row[name] for row in rows] for name in SIZES}
    pose = {"pose": features.pop("pose")}
    return processor([row["words"] for row in rows] if use_text else None, **features, extra_features=pose)


def assert_same_batch(batch, expected):
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same_batch(batch[name], value)
        else:
            assert torch.equal(batch[name], value), name
            assert batch[name].dtype == value.dtype


@pytest.mark.parametrize("use_text", [True, False])
@pytest.mark.parametrize("chosen", [[0], [1], [4, 0], [3, 2, 1], [0, 1, 2, 3, 4]])
def test_a_batch_is_what_the_processor_gives(unigram_tokenizer, use_text, chosen):
    processor = CPSLProcessor(unigram_tokenizer, SIZES, feature_statistics=STATISTICS, use_text=use_text)
    rows = make_rows()
    encoded = rows_of(make_dataset(rows), processor)
    batch = CPSLDataCollator(processor)([encoded[index] for index in chosen])
    assert batch.pop("ids") == [rows[index]["id"] for index in chosen]
    labels = batch.pop("labels")
    assert torch.equal(labels, torch.tensor([float(rows[index]["label"]) for index in chosen]))
    assert_same_batch(batch, dict(by_processor(processor, [rows[index] for index in chosen], use_text)))


def test_the_model_takes_the_batch(processor, make_model):
    model = make_model(modality_sizes=SIZES, vocab_size=len(processor.tokenizer))
    batch = CPSLDataCollator(processor)(rows_of(make_dataset(make_rows()), processor))
    batch.pop("ids")
    output = model.train()(**batch)
    output.loss.backward()
    assert output.loss.isfinite()
    assert output.modality_presence["acoustic"].tolist() == [True, False, True, True, True]


def test_rows_without_labels(processor):
    encoded = rows_of(make_dataset(make_rows()), processor)
    for row in encoded:
        del row["label"]
    assert "labels" not in CPSLDataCollator(processor)(encoded)


def test_a_modality_that_the_processor_leaves_out_is_not_read(unigram_tokenizer):
    processor = CPSLProcessor(unigram_tokenizer, {"visual": 4})
    encoded = rows_of(make_dataset(make_rows()), processor)
    assert set(encoded[0]) == {"id", "label", "visual", "input_ids", "word_index"}
    batch = CPSLDataCollator(processor)(encoded)
    assert set(batch["modality_mask"]) == {"visual"} and "acoustic" not in batch


def test_text_alone(unigram_tokenizer):
    processor = CPSLProcessor(unigram_tokenizer, {})
    batch = CPSLDataCollator(processor)(rows_of(make_dataset(make_rows()), processor))
    assert set(batch) == {"input_ids", "attention_mask", "feature_mask", "labels", "ids"}


class TestRefused:
    def batch_of(self, processor, change):
        rows = make_rows()
        change(rows[2])
        return CPSLDataCollator(processor)(rows_of(make_dataset(rows), processor))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("name", ["acoustic", "pose"])
    def test_a_feature_that_is_not_finite(self, processor, value, name):
        def change(row):
            row[name][3, 1] = value

        with pytest.raises(ValueError, match=rf"video1\$_\$2.*{name}") as caught:
            self.batch_of(processor, change)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("label", [np.nan, 3.5, -3.01, np.inf])
    def test_a_label_out_of_range(self, processor, label):
        with pytest.raises(ValueError, match=r"video1\$_\$2.*label") as caught:
            self.batch_of(processor, lambda row: row.update(label=np.float32(label)))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("label", [3.0, -3.0])
    def test_the_borders_are_labels(self, processor, label):
        batch = self.batch_of(processor, lambda row: row.update(label=np.float32(label)))
        assert batch["labels"][2] == label

    @pytest.mark.parametrize("count", [3, 4, 6])
    def test_another_number_of_rows_than_words(self, processor, count):
        """Else the gather would read the next sample's rows in silence."""
        with pytest.raises(ValueError, match=r"video1\$_\$2"):
            self.batch_of(processor, lambda row: row.update(acoustic=np.ones((count, 3), dtype=np.float32)))

    def test_a_feature_of_another_size(self, processor):
        rows = rows_of(make_dataset(make_rows()), processor)
        rows[2]["visual"] = rows[2]["visual"][:, :3]
        with pytest.raises(ValueError, match=r"video1\$_\$2.*visual.*\(5, 3\).*4"):
            CPSLDataCollator(processor)(rows)
