"""Dataset rows -> batches: the same tensors as the processor gives for the same utterances."""

import json

import numpy as np
import pytest
import torch
from datasets import Array2D
from hypothesis import given, settings
from hypothesis import strategies as st
from row_cases import SIZES, STATISTICS, WORDS, make_dataset, make_rows

from data_builders.columns import feature_extractors
from modeling_cpsl.processing_cpsl import CPSLProcessor
from modeling_cpsl.training.collation import CPSLDataCollator
from modeling_cpsl.training.encoding import compute_feature_statistics, encode_dataset


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


def test_every_split_is_encoded_and_keeps_its_rows(processor):
    rows = make_rows()
    encoded = encode_dataset(make_dataset(rows), processor)
    assert {name: len(split) for name, split in encoded.items()} == {"train": 5, "test": 2}
    assert [row["id"] for row in encoded["test"]] == [rows[1]["id"], rows[2]["id"]]
    for row, original in zip(encoded["train"], rows, strict=True):
        for name in SIZES:
            assert np.array_equal(row[name], original[name]) and row[name].dtype == np.float32
        assert len(row["input_ids"]) == len(row["word_index"]) <= 50


def test_word_index_counts_pieces_of_words(processor):
    """Special tokens are -1; a word without pieces is skipped, a word of several repeats."""
    row = rows_of(make_dataset(make_rows()), processor)[2]
    pieces = [len(processor.tokenizer(word, add_special_tokens=False)["input_ids"]) for word in WORDS[2]]
    expected = [word for word, count in enumerate(pieces) for _ in range(count)]
    assert row["word_index"].tolist() == [-1, *expected, -1]


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


@pytest.mark.parametrize("use_text", [True, False])
def test_one_line_a_split_says_what_is_cut(unigram_tokenizer, caplog, use_text):
    """Also where the ids come out of the cache. `["movie"] * 48` just fits beside the special tokens."""
    limit = 50 if use_text else 48
    rows = make_rows()
    rows.append({**rows[0], "words": ["movie"] * 48, **{n: np.zeros((48, s), np.float32) for n, s in SIZES.items()}})
    processor = CPSLProcessor(unigram_tokenizer, SIZES, max_length=limit, use_text=use_text)
    dataset = make_dataset(rows)
    for _ in range(2):
        encode_dataset(dataset, processor)
    line = f"train split: 1 of 6 utterances were cut to max_length={limit} tokens, the longest has {12 + limit}"
    assert caplog.messages == [line, line]


def test_an_encoded_split_keeps_its_feature_extractors(processor):
    named = make_dataset(make_rows()).cast_column(
        "visual", Array2D((None, SIZES["visual"]), "float32", id="FACET 4.2")
    )
    assert feature_extractors(encode_dataset(named, processor)["train"]) == {"visual": "FACET 4.2"}


class TestFeatureStatistics:
    @settings(deadline=None)
    @given(
        lengths=st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any),
        seed=st.integers(0, 100),
        shift=st.sampled_from([0.0, 300.0]),
    )
    def test_statistics_are_of_all_word_rows_together(self, lengths, seed, shift):
        generator = np.random.default_rng(seed)
        rows = [(generator.normal(size=(length, 3)) + shift).astype(np.float32) for length in lengths]
        statistics = compute_feature_statistics(rows)
        for column in range(3):
            values = [float(row[column]) for array in rows for row in array]
            mean = sum(values) / len(values)
            deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
            assert statistics["mean"][column] == pytest.approx(mean, rel=1e-9, abs=1e-9)
            if len(values) > 1:
                assert statistics["std"][column] == pytest.approx(deviation, rel=1e-6)
        assert json.loads(json.dumps(statistics)) == statistics, "plain numbers, for the processor's JSON"

    @pytest.mark.parametrize("value", [0.0, 0.1, 0.3, -7.7, 1e-3, 123.4])
    @pytest.mark.parametrize("count", [1, 3, 1000])
    def test_a_constant_column_has_deviation_1(self, value, count):
        rows = np.full((count, 2), value, dtype=np.float32)
        rows[:, 1] = np.arange(count)
        assert compute_feature_statistics([rows])["std"][0] == 1.0

    def test_no_row_at_all(self):
        with pytest.raises(ValueError, match="no feature row"):
            compute_feature_statistics([np.zeros((0, 3), dtype=np.float32)])
