"""Words and word rows -> subword tensors, against a plain loop that treats one word at a time."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import AutoProcessor

from modeling_cpsl.processing_cpsl import CPSLProcessor


SIZES = {"acoustic": 3, "visual": 2}
each_tokenizer = pytest.mark.parametrize("kind", ["unigram", "wordpiece"])


@pytest.fixture(scope="session")
def tokenizers(unigram_tokenizer, wordpiece_tokenizer):
    return {"unigram": unigram_tokenizer, "wordpiece": wordpiece_tokenizer}


def align_word_by_word(tokenizer, words, rows, size, max_pieces=48):
    """The alignment of MAG-BERT and ITHP: each piece copies its word's row, special tokens get zeros."""
    ids, aligned = [], []
    for word, row in zip(words, rows, strict=True):
        for piece in tokenizer(word, add_special_tokens=False)["input_ids"]:
            ids.append(piece)
            aligned.append(row)
    ids, aligned = ids[:max_pieces], aligned[:max_pieces]
    zero = np.zeros(size, dtype=np.float32)
    ids = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
    return ids, np.stack([zero, *aligned, zero]).astype(np.float32)


def make_rows(words, size, seed=0):
    return np.random.default_rng(seed).normal(size=(len(words), size)).astype(np.float32) + 10.0


def assert_golden(processor, utterances, batch):
    """Ids, masks and features of a batch bit for bit, right-padded with zeros to the longest."""
    expected = [
        {
            name: align_word_by_word(processor.tokenizer, words, make_rows(words, size, seed), size)
            for name, size in SIZES.items()
        }
        for seed, words in enumerate(utterances)
    ]
    length = max(len(aligned["acoustic"][0]) for aligned in expected)
    assert batch["input_ids"].shape == (len(utterances), length)
    for index, aligned in enumerate(expected):
        ids = aligned["acoustic"][0]
        padding = length - len(ids)
        assert batch["input_ids"][index].tolist() == ids + [processor.tokenizer.pad_token_id] * padding
        assert batch["attention_mask"][index].tolist() == [1] * len(ids) + [0] * padding
        assert batch["feature_mask"][index].long().tolist() == [0] + [1] * (len(ids) - 2) + [0] * (padding + 1)
        for name, size in SIZES.items():
            whole = np.concatenate([aligned[name][1], np.zeros((padding, size), dtype=np.float32)])
            assert np.array_equal(batch[name][index].numpy(), whole)
            assert batch[name].dtype == torch.float32


def assert_same(batch, expected):
    """All tensors equal, those inside `modality_mask` and `extra_features` too."""
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same(batch[name], value)
        else:
            assert torch.equal(batch[name], value), name


def process(processor, utterances):
    features = {
        name: [make_rows(words, size, seed) for seed, words in enumerate(utterances)] for name, size in SIZES.items()
    }
    return processor(utterances, **features)


class TestAlignment:
    @each_tokenizer
    def test_words_of_several_pieces_and_of_none(self, tokenizers, kind):
        tokenizer = tokenizers[kind]
        words = ["movie", "", "greating", "terrible", "\u200b", " ", "was!", "don't", "xyz", "ending", "\t"]
        counts = [len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words]
        assert 0 in counts and 1 in counts and max(counts) > 1, "the case must hold what it is named for"
        processor = CPSLProcessor(tokenizer, SIZES)
        assert_golden(processor, [words], process(processor, [words]))

    @each_tokenizer
    @settings(deadline=None, max_examples=60)
    @given(
        utterances=st.lists(
            st.lists(
                st.one_of(
                    st.sampled_from(["movie", "great", "terrible", "ending", "wonderful", "sp", "don't"]),
                    st.text(max_size=6),
                    st.text(alphabet="aeioust'!,.- ", max_size=12),
                ),
                min_size=1,
                max_size=30,
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_any_words(self, tokenizers, kind, utterances):
        processor = CPSLProcessor(tokenizers[kind], SIZES)
        utterances = [*utterances, ["great"]]
        counts = [len(align_word_by_word(tokenizers[kind], u, make_rows(u, 1), 1)[0]) for u in utterances]
        if min(counts) > 2:
            assert_golden(processor, utterances, process(processor, utterances))
        else:
            with pytest.raises(ValueError, match=f"utterance {counts.index(2)}: no word .* has a subword"):
                process(processor, utterances)

    @each_tokenizer
    @pytest.mark.parametrize("count", [47, 48, 49, 120])
    def test_at_most_48_pieces(self, tokenizers, kind, count):
        processor = CPSLProcessor(tokenizers[kind], SIZES)
        utterances = [["movie"] * count, ["great", "terrible"]]
        batch = process(processor, utterances)
        assert batch["input_ids"].shape[1] == min(count, 48) + 2
        assert_golden(processor, utterances, batch)

    @each_tokenizer
    def test_a_word_is_cut_in_the_middle(self, tokenizers, kind):
        tokenizer = tokenizers[kind]
        long_word = next(
            word
            for word in ("terrible", "wonderful", "ending", "movieing")
            if len(tokenizer(word, add_special_tokens=False)["input_ids"]) > 1
        )
        processor = CPSLProcessor(tokenizer, SIZES)
        utterances = [["movie"] * 47 + [long_word, "great"]]
        assert_golden(processor, utterances, process(processor, utterances))

    def test_max_length(self, unigram_tokenizer):
        processor = CPSLProcessor(unigram_tokenizer, SIZES, max_length=5)
        batch = process(processor, [["movie", "was", "great", "but", "the"]])
        assert batch["input_ids"].shape == (1, 5)
        assert batch["feature_mask"].long().tolist() == [[0, 1, 1, 1, 0]]
        assert batch["input_ids"][0, -1] == unigram_tokenizer.sep_token_id

    @each_tokenizer
    def test_the_padding_side_of_the_tokenizer_does_not_matter(self, tokenizers, kind):
        tokenizer = tokenizers[kind]
        processor = CPSLProcessor(tokenizer, SIZES)
        utterances = [["movie"], ["the", "movie", "was", "great"]]
        side, tokenizer.padding_side = tokenizer.padding_side, "left"
        try:
            assert_golden(processor, utterances, process(processor, utterances))
        finally:
            tokenizer.padding_side = side


class TestTruncation:
    @each_tokenizer
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_cuts_the_end_and_says_so_once(self, tokenizers, caplog, kind, side):
        """48 words of one piece fit beside the two special tokens; the tokenizer's own side does not matter."""
        tokenizer = tokenizers[kind]
        tokenizer.truncation_side, before = side, tokenizer.truncation_side
        try:
            processor = CPSLProcessor(tokenizer, SIZES)
            fitting = [["movie"] * 48, ["great"]]
            process(processor, fitting)
            assert not caplog.messages
            utterances = [*fitting, ["great"] + ["movie"] * 48, ["great"] * 60]
            assert_golden(processor, utterances, process(processor, utterances))
        finally:
            tokenizer.truncation_side = before
        assert caplog.messages == ["2 of 4 utterances were cut to max_length=50 tokens, the longest has 62"]

    def test_features_alone(self, unigram_tokenizer, caplog):
        processor = CPSLProcessor(unigram_tokenizer, SIZES, max_length=4)
        batch = processor(acoustic=[np.ones((4, 3)), np.ones((9, 3))])
        assert batch["attention_mask"].tolist() == [[1] * 4] * 2
        assert caplog.messages == ["1 of 2 utterances were cut to max_length=4 tokens, the longest has 9"]


class TestExtractors:
    def test_another_extractor_is_refused(self, unigram_tokenizer):
        processor = CPSLProcessor(unigram_tokenizer, SIZES, feature_extractors={"acoustic": "COVAREP"})
        given = {"words": ["great"], "acoustic": np.zeros((1, 3)), "visual": np.zeros((1, 2))}
        plain = processor(**given)
        for declared in ({"acoustic": "COVAREP"}, {"visual": "FACET"}, {"acoustic": "COVAREP", "visual": "FACET"}):
            assert_same(processor(**given, feature_extractors=declared), plain)
        with pytest.raises(ValueError, match=r"acoustic.*'openSMILE'.*'COVAREP'"):
            processor(**given, feature_extractors={"acoustic": "openSMILE"})

    def test_of_a_modality_that_there_is_not(self, unigram_tokenizer):
        with pytest.raises(ValueError, match=r"pose is unknown.*acoustic, visual"):
            CPSLProcessor(unigram_tokenizer, SIZES, feature_extractors={"pose": "OpenPose"})


class TestStandardization:
    STATISTICS = {"acoustic": {"mean": [10.0, 9.0, 200.0], "std": [1.0, 0.2, 0.5]}}

    @settings(deadline=None, max_examples=40)
    @given(seed=st.integers(0, 1000), count=st.integers(1, 8))
    def test_standardises_and_clips_word_rows(self, unigram_tokenizer, seed, count):
        processor = CPSLProcessor(unigram_tokenizer, SIZES, feature_statistics=self.STATISTICS)
        words = ["great"] * count
        rows = make_rows(words, 3, seed) + np.array([0.0, 0.0, 190.0], dtype=np.float32)
        visual = make_rows(words, 2, seed)
        batch = processor(words, acoustic=rows, visual=visual)
        mean, std = (np.array(self.STATISTICS["acoustic"][key]) for key in ("mean", "std"))
        expected = np.clip((rows.astype(np.float64) - mean) / std, -5.0, 5.0)
        aligned = batch["acoustic"][0]
        assert_close(aligned[1:-1].double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-4)
        assert (aligned[0] == 0).all() and (aligned[-1] == 0).all(), "special tokens stay zero, not (0 - mean) / std"
        assert np.array_equal(batch["visual"][0, 1:-1].numpy(), visual), "no statistics, no change"

    @pytest.mark.parametrize(
        ("modality", "mean", "std"), [("visual", [0, 0], [1, 0]), ("visual", [0], [1, 1]), ("smell", [0], [1])]
    )
    def test_statistics_that_do_not_fit(self, unigram_tokenizer, modality, mean, std):
        with pytest.raises(ValueError, match=modality):
            CPSLProcessor(unigram_tokenizer, SIZES, feature_statistics={modality: {"mean": mean, "std": std}})

    def test_clips_at_5(self, unigram_tokenizer):
        statistics = {"visual": {"mean": [0.0, 1.0], "std": [1.0, 2.0]}}
        processor = CPSLProcessor(unigram_tokenizer, {"visual": 2}, feature_statistics=statistics)
        batch = processor(["great", "movie"], visual=[[99.0, -99.0], [4.0, 9.0]])
        assert batch["visual"][0, 1:-1].tolist() == [[5.0, -5.0], [4.0, 4.0]]


class TestCalls:
    WORDS = [["the", "movie", "was", "terrible"], ["great"], ["wonderful", "ending"]]

    def rows(self, name):
        return [make_rows(words, SIZES[name], seed) for seed, words in enumerate(self.WORDS)]

    def test_one_utterance_is_a_batch_of_one(self, unigram_tokenizer):
        processor = CPSLProcessor(unigram_tokenizer, SIZES)
        single = processor(self.WORDS[0], acoustic=self.rows("acoustic")[0], visual=self.rows("visual")[0])
        batch = processor(self.WORDS[:1], acoustic=self.rows("acoustic")[:1], visual=self.rows("visual")[:1])
        assert single.keys() == batch.keys()
        for name in ("input_ids", "attention_mask", "feature_mask", "acoustic", "visual"):
            assert torch.equal(single[name], batch[name])
        assert single["modality_mask"] == batch["modality_mask"]

    @pytest.mark.parametrize(
        "convert",
        [np.asarray, lambda a: a.tolist(), torch.from_numpy, lambda a: a.astype(np.float64)],
        ids=["array", "lists", "tensor", "float64"],
    )
    @pytest.mark.parametrize("use_text", [True, False])
    @pytest.mark.parametrize("single", [True, False])
    def test_arrays_lists_and_tensors(self, unigram_tokenizer, convert, use_text, single):
        processor = CPSLProcessor(unigram_tokenizer, SIZES, use_text=use_text)
        words = self.WORDS if use_text else None
        features = {name: self.rows(name) for name in SIZES}
        converted = {name: [convert(array) for array in arrays] for name, arrays in features.items()}
        if single:
            words = words and words[0]
            features, converted = ({n: v[0] for n, v in given.items()} for given in (features, converted))
        expected, batch = processor(words, **features), processor(words, **converted)
        for name in SIZES:
            assert torch.equal(batch[name], expected[name])
            assert len(batch[name]) == (1 if single else 3)

    def test_a_modality_missing_in_part_of_a_batch(self, unigram_tokenizer):
        processor = CPSLProcessor(unigram_tokenizer, SIZES)
        acoustic, visual = self.rows("acoustic"), self.rows("visual")
        for nothing in (None, np.zeros((0, 3), dtype=np.float32), []):
            batch = processor(self.WORDS, acoustic=[acoustic[0], nothing, acoustic[2]], visual=visual)
            assert batch["modality_mask"]["acoustic"].tolist() == [True, False, True]
            assert batch["modality_mask"]["visual"].tolist() == [True, True, True]
            assert (batch["acoustic"][1] == 0).all()
            whole = processor(self.WORDS, acoustic=acoustic, visual=visual)
            for sample in (0, 2):
                assert torch.equal(batch["acoustic"][sample], whole["acoustic"][sample])
            assert torch.equal(batch["feature_mask"], whole["feature_mask"])

    def test_a_modality_that_is_not_given_is_missing_everywhere(self, unigram_tokenizer):
        statistics = {"acoustic": {"mean": [1.0] * 3, "std": [1.0] * 3}}
        batch = CPSLProcessor(unigram_tokenizer, SIZES, feature_statistics=statistics)(self.WORDS)
        for name, size in SIZES.items():
            assert not batch["modality_mask"][name].any()
            assert batch[name].shape == (*batch["input_ids"].shape, size)
            assert (batch[name] == 0).all()

    @pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
    def test_text_is_split_at_white_space(self, tokenizers, kind):
        processor = CPSLProcessor(tokenizers[kind], SIZES)
        words = ["the", "movie,", "wasn't", "great!"]
        features = {"acoustic": make_rows(words, 3), "visual": make_rows(words, 2)}
        expected = processor(words, **features)
        assert_same(processor(text="  the movie,\twasn't \n great! ", **features), expected)
        several = processor(text=["the movie, wasn't great!", "ending"], acoustic=[features["acoustic"], None])
        assert_same(several, processor([words, ["ending"]], acoustic=[features["acoustic"], None]))

    @pytest.mark.parametrize("others", [[], [["great"]], [["the", "movie", "was", "really", "terrible"]]])
    def test_an_utterance_without_text_has_one_token_a_row(self, unigram_tokenizer, others):
        processor = CPSLProcessor(unigram_tokenizer, SIZES, max_length=6)
        rows = make_rows(["a"] * 4, 3)
        nothing = [None] * len(others)
        batch = processor([None, *others] if others else None, acoustic=[rows, *nothing])
        assert np.array_equal(batch["acoustic"][0, :4].numpy(), rows) and not batch["acoustic"][0, 4:].any()
        for mask in ("attention_mask", "feature_mask"):
            assert batch[mask][0].long().tolist() == [1] * 4 + [0] * (batch[mask].shape[1] - 4)
        assert ("input_ids" in batch) == bool(others)
        if others:
            assert batch["modality_mask"]["text"].tolist() == [False] + [True] * len(others)
            alone, length = processor(others), len(processor(others)["input_ids"][0])
            for name in ("input_ids", "attention_mask", "feature_mask"):
                assert torch.equal(batch[name][1:, :length], alone[name])

    def test_extra_features(self, unigram_tokenizer):
        processor = CPSLProcessor(unigram_tokenizer, {**SIZES, "pose": 4})
        pose = [make_rows(words, 4) for words in self.WORDS]
        batch = processor(self.WORDS, extra_features={"pose": pose})
        assert batch["extra_features"]["pose"].shape == (*batch["input_ids"].shape, 4)
        assert set(batch["modality_mask"]) == {"acoustic", "pose", "visual"}
        assert np.array_equal(batch["extra_features"]["pose"][1, 1].numpy(), pose[1][0])

    def test_features_alone_have_one_token_a_row(self, unigram_tokenizer):
        processor = CPSLProcessor(unigram_tokenizer, SIZES, max_length=3, use_text=False)
        batch = processor(acoustic=self.rows("acoustic"), visual=[self.rows("visual")[0], None, None])
        assert "input_ids" not in batch
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
        assert torch.equal(batch["feature_mask"].long(), batch["attention_mask"])
        for sample, length in enumerate((3, 1, 2)):
            assert np.array_equal(batch["acoustic"][sample, :length], self.rows("acoustic")[sample][:3])

    @pytest.mark.parametrize("words", [None, ["great"], [["great"], ["the", "movie"]]])
    def test_the_model_takes_what_the_processor_gives(self, unigram_tokenizer, make_model, words):
        use_text = words is not None
        sizes = {**SIZES, "pose": 4}
        processor = CPSLProcessor(unigram_tokenizer, sizes, use_text=use_text)
        vocab_size = len(unigram_tokenizer)
        model = make_model(modality_sizes=sizes, use_text=use_text, vocab_size=vocab_size)
        pose = [make_rows(["a"] * (1 + index), 4) for index in range(2)]
        batch = processor(words, extra_features={"pose": pose[0] if words == ["great"] else pose})
        assert set(batch) == {*processor.model_input_names, "extra_features"} - {"pose"}
        assert model(**batch).logits.isfinite().all()

    def test_to_moves_every_tensor(self, unigram_tokenizer):
        """`processor(...).to(model.device)` is how a user brings a batch to the GPU."""
        batch = CPSLProcessor(unigram_tokenizer, {**SIZES, "pose": 4})(self.WORDS).to("meta")
        nested = [value for key in ("modality_mask", "extra_features") for value in batch[key].values()]
        assert {value.device.type for value in [batch["input_ids"], batch["acoustic"], *nested]} == {"meta"}


class TestDecodeSentiment:
    @pytest.mark.parametrize(
        ("value", "acc7", "label", "polarity"),
        [
            (-9.0, -3, "highly negative", "negative"),
            (-2.5, -2, "negative", "negative"),
            (-1.5, -2, "negative", "negative"),
            (-0.51, -1, "weakly negative", "negative"),
            (-0.5, 0, "neutral", "negative"),
            (0.0, 0, "neutral", "positive"),
            (0.5, 0, "neutral", "positive"),
            (0.51, 1, "weakly positive", "positive"),
            (1.5, 2, "positive", "positive"),
            (2.5, 2, "positive", "positive"),
            (2.51, 3, "highly positive", "positive"),
            (1e9, 3, "highly positive", "positive"),
        ],
    )
    def test_rounds_half_to_even_after_clipping(self, unigram_tokenizer, value, acc7, label, polarity):
        (decoded,) = CPSLProcessor(unigram_tokenizer, SIZES).decode_sentiment([value])
        assert decoded["value"] == pytest.approx(min(max(value, -3.0), 3.0))
        assert (decoded["acc7_class"], decoded["label"], decoded["polarity"]) == (acc7, label, polarity)
        assert [type(decoded[key]) for key in ("value", "acc7_class")] == [float, int]

    def test_takes_logits(self, unigram_tokenizer):
        processor = CPSLProcessor(unigram_tokenizer, SIZES)
        logits = torch.tensor([1.0, -2.0], dtype=torch.bfloat16, requires_grad=True)
        for values in (logits.detach(), logits, [1.0, -2.0], logits.detach().float().numpy()):
            assert [decoded["acc7_class"] for decoded in processor.decode_sentiment(values)] == [1, -2]
        assert processor.decode_sentiment(torch.tensor(1.0))[0]["acc7_class"] == 1


class TestSaveAndLoad:
    @each_tokenizer
    @pytest.mark.parametrize("auto", [True, False])
    def test_keeps_sizes_statistics_and_lengths(self, tokenizers, tmp_path, kind, auto):
        generator = np.random.default_rng(0)
        statistics = {
            name: {"mean": generator.normal(size=size).tolist(), "std": generator.uniform(1, 2, size=size).tolist()}
            for name, size in SIZES.items()
        }
        processor = CPSLProcessor(
            tokenizers[kind],
            dict(reversed(SIZES.items())),
            feature_statistics=statistics,
            max_length=7,
            feature_extractors={"visual": "FACET 4.2"},
        )
        processor.save_pretrained(tmp_path)
        loaded = (AutoProcessor if auto else CPSLProcessor).from_pretrained(tmp_path)
        assert type(loaded) is CPSLProcessor
        assert (loaded.modality_sizes, loaded.feature_statistics) == (SIZES, statistics)
        assert (loaded.max_length, loaded.use_text) == (7, True)
        assert loaded.feature_extractors == {"visual": "FACET 4.2"}
        utterances = [["movie", "terrible", "don't", "", "was", "great", "ending"], ["xyz"]]
        one, other = process(processor, utterances), process(loaded, utterances)
        for name in ("input_ids", "attention_mask", "feature_mask", *SIZES):
            assert torch.equal(one[name], other[name])

    @each_tokenizer
    def test_what_the_tokenizer_does_by_itself_does_not_leak(self, tokenizers, tmp_path, kind):
        """Nor does what a call asks of the tokenizer come to stand in its files."""
        utterances = [["movie", "terrible", "don't", "was", "great"], ["great"]]
        CPSLProcessor(tokenizers[kind], SIZES).save_pretrained(tmp_path / "unused")
        tokenizer = type(tokenizers[kind]).from_pretrained(tmp_path / "unused")
        processor = CPSLProcessor(tokenizer, SIZES, max_length=7)
        expected = process(processor, utterances)
        processor.save_pretrained(tmp_path / "used")
        used, unused = ((tmp_path / folder / "tokenizer.json").read_bytes() for folder in ("used", "unused"))
        assert used == unused
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        tokenizer.model_max_length = 3
        tokenizer.backend_tokenizer.enable_truncation(4, direction="left")
        tokenizer.backend_tokenizer.enable_padding(length=20, direction="left")
        processor.save_pretrained(tmp_path / "odd")
        loaded = CPSLProcessor.from_pretrained(tmp_path / "odd")
        assert json.loads((tmp_path / "odd" / "tokenizer.json").read_text())["padding"], (
            "the case must be what it says"
        )
        for other in (processor, loaded):
            assert_same(process(other, utterances), expected)

    def test_beside_the_model(self, unigram_tokenizer, make_model, tmp_path):
        make_model(vocab_size=len(unigram_tokenizer)).save_pretrained(tmp_path)
        CPSLProcessor(unigram_tokenizer, SIZES, use_text=False).save_pretrained(tmp_path)
        loaded = AutoProcessor.from_pretrained(tmp_path)
        assert type(loaded) is CPSLProcessor and loaded.use_text is False

    def test_a_model_whose_tokenizer_is_not_there_is_not_read_by_another(
        self, unigram_tokenizer, make_model, tmp_path
    ):
        """transformers makes one that knows no word, with which every word would be unknown."""
        size = len(unigram_tokenizer)
        make_model(vocab_size=size).save_pretrained(tmp_path)
        CPSLProcessor(unigram_tokenizer, SIZES).save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").unlink()
        for auto in (AutoProcessor, CPSLProcessor):
            with pytest.raises(
                ValueError, match=f": its tokenizer has . entries and the text encoder {size}; put the"
            ):
                auto.from_pretrained(tmp_path)
