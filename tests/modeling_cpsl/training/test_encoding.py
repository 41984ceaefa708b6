"""What is done once before training: rows become tokens, and features statistics."""

import json

import numpy as np
import pytest
import torch
from datasets import Array2D, Dataset, IterableDatasetDict
from forked import ForkedProcess
from hypothesis import given, settings
from hypothesis import strategies as st
from row_cases import SIZES, STATISTICS, WORDS, make_dataset, make_rows

from data_builders import load_aligned_dataset
from data_builders.columns import feature_extractors
from modeling_cpsl import CPSLDataCollator
from modeling_cpsl.features_cpsl import feature_arguments
from modeling_cpsl.processing_cpsl import CPSLProcessor
from modeling_cpsl.training.encoding import compute_feature_statistics, encode_dataset, modality_sets


@pytest.fixture
def processor(unigram_tokenizer):
    return CPSLProcessor(unigram_tokenizer, SIZES, feature_statistics=STATISTICS)


def test_every_split_is_encoded_and_keeps_its_rows(processor):
    rows = make_rows()
    encoded = encode_dataset(make_dataset(rows), processor)
    assert {name: len(split) for name, split in encoded.items()} == {"train": 5, "test": 2}
    assert [row["id"] for row in encoded["test"]] == [rows[1]["id"], rows[2]["id"]]
    for row, original in zip(encoded["train"], rows, strict=True):
        for name in SIZES:
            assert np.array_equal(row[name], original[name]) and row[name].dtype == np.float32
        assert len(row["input_ids"]) == len(row["word_index"]) <= 50


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_tokens_of_a_cache_are_noticed(processor, tmp_path, caplog, damage):
    rows = [{**row, **{name: row[name].tolist() for name in SIZES}} for row in make_rows()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row, default=float) + "\n" for row in rows))

    def encode():
        dataset = load_aligned_dataset(tmp_path / "rows.jsonl", cache_dir=tmp_path / "cache")
        return [row["input_ids"].tolist() for row in encode_dataset(dataset, processor)["train"]]

    expected = encode()
    [tokens] = tmp_path.rglob("cache-*.arrow")
    content = bytearray(tokens.read_bytes())
    content[len(content) // 2] ^= 1
    tokens.write_bytes(content[: None if damage == "flipped" else len(content) // 2])
    assert encode() == expected and "damaged" in caplog.text


def test_two_processes_encode_the_same_data_at_once(processor, tmp_path, caplog):
    """As two runs of an experiment do; neither takes the other's cache for a damaged one."""
    rows = [{**row, **{name: row[name].tolist() for name in SIZES}} for row in make_rows()]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row, default=float) + "\n" for row in rows))

    def encode():
        dataset = load_aligned_dataset(tmp_path, cache_dir=tmp_path / "cache")
        encoded = encode_dataset(dataset, processor)
        return int([len(split) for split in encoded.values()] != [len(rows)] * 2)

    processes = [ForkedProcess(encode) for _ in range(2)]
    for process in processes:
        process.start()
    for _, errors in [process.finish() for process in processes]:
        assert "damaged" not in errors
    assert [process.exitcode for process in processes] == [0, 0]
    assert encode() == 0 and "damaged" not in caplog.text
    (checksums,) = tmp_path.rglob("checksums.json")
    tokens = {file.name for file in checksums.parent.glob("cache-*.arrow")}
    assert len(tokens) == 2 and tokens <= json.loads(checksums.read_text()).keys()


def test_word_index_counts_pieces_of_words(processor):
    """Special tokens are -1; a word without pieces is skipped, a word of several repeats."""
    row = encode_dataset(make_dataset(make_rows()), processor)["train"][2]
    pieces = [len(processor.tokenizer(word, add_special_tokens=False)["input_ids"]) for word in WORDS[2]]
    expected = [word for word, count in enumerate(pieces) for _ in range(count)]
    assert row["word_index"].tolist() == [-1, *expected, -1]


def test_without_text_each_feature_row_is_a_token(unigram_tokenizer):
    processor = CPSLProcessor(unigram_tokenizer, SIZES, max_length=7, use_text=False)
    encoded = encode_dataset(make_dataset(make_rows()), processor)["train"]
    assert "input_ids" not in encoded[0]
    assert [row["word_index"].tolist() for row in encoded] == [list(range(min(len(words), 7))) for words in WORDS]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_row_without_words_lacks_the_text(processor, streamed):
    rows = make_rows()
    rows[2]["words"] = []
    dataset = make_dataset(rows)
    if streamed:
        dataset = IterableDatasetDict({name: split.to_iterable_dataset() for name, split in dataset.items()})
    encoded = encode_dataset(dataset, processor)["test"]
    rows = [encoded[index] for index in range(2)]
    batch = CPSLDataCollator(processor)(rows)
    expected = processor([WORDS[1], None], **feature_arguments({name: [row[name] for row in rows] for name in SIZES}))
    assert batch["modality_mask"]["text"].tolist() == [True, False]
    for name in ("input_ids", "attention_mask", "acoustic", "feature_mask"):
        assert torch.equal(batch[name], expected[name])


@pytest.mark.parametrize("streamed", [False, True])
def test_training_data_without_any_words_is_not_trained_with_text(processor, streamed):
    dataset = make_dataset([row | {"words": []} for row in make_rows()])
    if streamed:
        dataset = IterableDatasetDict({name: split.to_iterable_dataset() for name, split in dataset.items()})
    with pytest.raises(ValueError, match=r"train split: no sample has words; .* --modalities acoustic,pose,visual"):
        encode_dataset(dataset, processor)


class TestRefused:
    """Before the training starts, in one line that names the sample."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"acoustic": np.ones((3, 3), "f4")}, r"sample video1\$_\$2: 3 acoustic rows for 5 words"),
            (
                {"words": ["", " "]} | {name: np.zeros((0, size), "f4") for name, size in SIZES.items()},
                r"sample video1\$_\$2: no word in .*subword",
            ),
        ],
    )
    def test_a_row(self, processor, change, message):
        rows = make_rows()
        rows[2].update(change)
        for _ in range(2):  # a refusal is not cached
            with pytest.raises(ValueError, match=message) as caught:
                encode_dataset(make_dataset(rows), processor)
            assert "\n" not in str(caught.value)

    def test_rows_that_lost_their_words_train_without_text(self, unigram_tokenizer):
        processor = CPSLProcessor(unigram_tokenizer, SIZES, use_text=False)
        rows = [row | {"words": []} for row in make_rows()]
        encoded = encode_dataset(make_dataset(rows), processor)["train"]
        assert [len(row["word_index"]) for row in encoded] == [4, 1, 5, 50, 3]


def test_encoding_is_cached_for_the_settings_that_it_depends_on(unigram_tokenizer, tmp_path):
    folder = tmp_path / "data"
    make_dataset(make_rows())["train"].save_to_disk(folder)
    split = Dataset.load_from_disk(folder)

    def columns(**settings):
        processor = CPSLProcessor(unigram_tokenizer, SIZES, **settings)
        encoded = encode_dataset({"train": split}, processor)["train"]
        return [{name: row[name].tolist() for name in ("word_index", "input_ids") if name in row} for row in encoded]

    plain = columns()
    num_files = len(list(folder.glob("cache-*")))
    assert columns() == plain and len(list(folder.glob("cache-*"))) == num_files > 0
    assert [len(row["word_index"]) for row in columns(max_length=4)] == [4, 3, 4, 4, 4]
    assert "input_ids" not in columns(use_text=False)[0]
    assert columns() == plain


def test_each_sample_has_the_name_of_its_modalities(processor):
    names = modality_sets(make_dataset(make_rows())["train"], processor)
    assert names == [
        "acoustic+pose+text+visual",
        "pose+text+visual",
        *["acoustic+pose+text+visual"] * 2,
        "acoustic+text",
    ]


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
