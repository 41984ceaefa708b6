"""Utterances as callers give them: all forms become the same, and what the processor refuses, and how it says so."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_builders.rows import words_of_text
from modeling_cpsl.processing_cpsl import CPSLProcessor
from modeling_cpsl.utterances_cpsl import (
    Utterance,
    check_row_counts,
    checked_features,
    make_utterance,
    name_in_errors,
    split_batch,
    split_text,
)


SIZES = {"acoustic": 3, "visual": 2}

FORMS = {
    "array": lambda values: values,
    "float64": lambda values: values.astype(np.float64),
    "lists": lambda values: values.tolist(),
    "tuple of arrays": tuple,
    "tensor": lambda values: torch.from_numpy(values).requires_grad_(),
    "bfloat16": lambda values: torch.from_numpy(values).bfloat16(),
    "not contiguous": lambda values: np.asfortranarray(values)[::1],
}


class TestMakeUtterance:
    @given(
        count=st.integers(1, 4),
        form=st.sampled_from(sorted(FORMS)),
        as_text=st.booleans(),
        missing=st.sets(st.sampled_from(["acoustic", "visual"])),
        absent=st.sampled_from([None, [], (), np.zeros((0, 3)), torch.zeros(0, 3)]),
    )
    def test_all_forms_are_the_same_utterance(self, count, form, as_text, missing, absent):
        words = ["great", "movie", "\u00e9t\u00e9", "!"][:count]
        arrays = {name: np.arange(count * size, dtype=np.float32).reshape(count, size) for name, size in SIZES.items()}
        features = {name: absent if name in missing else FORMS[form](array) for name, array in arrays.items()}
        text = {"text": f" {'  '.join(words)}\n"} if as_text else {"words": words}
        utterance = make_utterance("v_1", **text, features=features, modality_sizes=SIZES)
        assert isinstance(utterance, Utterance) and (utterance.name, utterance.words) == ("v_1", words)
        assert utterance.features.keys() == SIZES.keys() - missing
        for name, array in utterance.features.items():
            assert array.dtype == np.float32 and np.array_equal(array, arrays[name])

    def test_words_are_not_looked_at_where_no_text_is_read(self):
        features = {"visual": np.zeros((2, 2))}
        for given_text in ({"words": ["great"]}, {"words": 3}, {"text": ["a", 1]}, {}):
            utterance = make_utterance("v_1", **given_text, features=features, modality_sizes=SIZES, use_text=False)
            assert utterance.words is None and utterance.features.keys() == {"visual"}


class TestSplitBatch:
    @given(
        sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
        as_text=st.booleans(),
        with_words=st.booleans(),
        missing=st.integers(0, 3),
    )
    def test_a_batch_is_its_utterances(self, sizes, as_text, with_words, missing):
        words = [["great"] * size for size in sizes] if with_words else None
        arrays = [None if index == missing else np.zeros((size, 3)) for index, size in enumerate(sizes)]
        text = [" ".join(utterance) for utterance in words] if words and as_text else None
        if words is None and set(map(type, arrays)) == {type(None)}:
            return
        expected = [
            {
                "words": words[index] if words and text is None else None,
                "text": text[index] if text else None,
                "features": {"acoustic": arrays[index]},
            }
            for index in range(len(sizes))
        ]
        assert split_batch(None if text else words, text, {"acoustic": arrays}) == expected

    @pytest.mark.parametrize(
        "arguments",
        [
            (["great"], None, {"acoustic": np.zeros((1, 3))}),
            (None, "great", {}),
            (None, None, {"acoustic": [[1.0, 2.0, 3.0]]}),
            (None, None, {"acoustic": torch.zeros(2, 3)}),
            ([], None, {}),
            (None, None, {}),
        ],
    )
    def test_one_utterance_stays_as_it_is(self, arguments):
        words, text, features = arguments
        assert split_batch(*arguments) == [{"words": words, "text": text, "features": features}]

    def test_a_tensor_holds_several(self):
        first, second = split_batch(None, None, {"acoustic": torch.arange(12.0).reshape(2, 2, 3)})
        assert torch.equal(first["features"]["acoustic"], torch.arange(6.0).reshape(2, 3))
        assert torch.equal(second["features"]["acoustic"], torch.arange(6.0, 12.0).reshape(2, 3))


class TestChecks:
    @given(
        num_words=st.none() | st.integers(1, 3),
        counts=st.dictionaries(st.sampled_from(["acoustic", "pose", "visual"]), st.integers(0, 3)),
    )
    def test_a_word_has_one_row_of_each_modality_that_is_there(self, num_words, counts):
        numbers = {count for count in counts.values() if count} | ({num_words} - {None})
        if len(numbers) <= 1:
            check_row_counts(num_words, counts)
        else:
            with pytest.raises(ValueError, match=r"^\d \w+ rows for \d (words|\w+ rows); each word has one row$"):
                check_row_counts(num_words, counts)

    def test_features_are_not_copied(self):
        array = np.ones((2, 3), np.float32)
        assert checked_features({"acoustic": array}, SIZES)["acoustic"] is array

    def test_only_a_value_error_is_named(self):
        with pytest.raises(ValueError, match=r"^v_1: wrong$"), name_in_errors("v_1"):
            raise ValueError("wrong")
        with pytest.raises(KeyError, match=r"^'wrong'$"), name_in_errors("v_1"):
            raise KeyError("wrong")


class TestRefused:
    """Each case is one line that names the sample, the modality and the sizes."""

    def refusal(self, processor, *args, **kwargs):
        with pytest.raises(ValueError) as caught:
            processor(*args, **kwargs)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize(
        ("features", "words"),
        [
            ({"acoustic": [np.zeros((1, 3)), np.zeros((3, 3))]}, ["utterance 1", "3 acoustic rows", "2 words"]),
            ({"visual": [np.zeros((1, 5)), None]}, ["utterance 0", "visual", "(1, 5)", "2"]),
            ({"visual": [np.zeros(2), None]}, ["utterance 0", "visual", "(2,)"]),
            ({"visual": [None, 7.0]}, ["utterance 1", "visual", "()", "2"]),
            ({"visual": [np.zeros((1, 2))]}, ["visual", "1", "2 utterances"]),
            ({"visual": 7.0}, ["visual", "7.0", "array"]),
            ({"acoustic": np.zeros((2, 3))}, ["utterance 0", "acoustic", "(3,)", "(words, 3)"]),
            ({"acoustic": [np.zeros((1, 3)), np.array([[0, 0, 0], [0, np.nan, 0]])]}, ["utterance 1", "acoustic"]),
            ({"acoustic": [np.full((1, 3), -np.inf), None]}, ["utterance 0", "acoustic", "inf"]),
            ({"acoustic": [[[0.0, 0.0, 1e300]], None]}, ["utterance 0", "acoustic", "inf"]),
            ({"acoustic": [None, [[1, 2, 3], [1, 2]]]}, ["utterance 1", "acoustic"]),
            ({"acoustic": [None, [[1, 2, 3], [1, 2, "loud"]]]}, ["utterance 1", "acoustic", "loud"]),
            ({"acoustic": [None, [[1, 2, 3], [1, 2, None]]]}, ["utterance 1", "acoustic"]),
            ({"acoustic": [None, [[1, 2, 3], [1, 2, {}]]]}, ["utterance 1", "acoustic"]),
            ({"extra_features": {"pose": [np.zeros((1, 3)), None]}}, ["pose", "acoustic, visual"]),
            ({"feature_extractors": {"pose": "OpenPose"}}, ["pose", "acoustic, visual"]),
        ],
    )
    def test_features(self, unigram_tokenizer, features, words):
        message = self.refusal(CPSLProcessor(unigram_tokenizer, SIZES), [["great"], ["the", "movie"]], **features)
        assert all(word in message for word in words)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"words": []}, ["utterance 0", "no words"]),
            ({"words": [["great"], []]}, ["utterance 1", "no words"]),
            ({"words": ["great", 3]}, ["utterance 0", "word 1", "3", "int"]),
            ({"words": [["great"], ["great", None]]}, ["utterance 1", "word 1", "None"]),
            ({"words": [["great"], "the movie"]}, ["utterance 1", "'the movie'", "text="]),
            ({"words": [["great"], 3]}, ["utterance 1", "3", "list of strings"]),
            ({"words": "the movie"}, ["'the movie'", "text="]),
            ({"words": ["great"], "text": "great"}, ["words and text"]),
            ({"words": ["", " "]}, ["utterance 0", "subword"]),
            ({"words": [["great"], ["", "\t"]]}, ["utterance 1", "subword"]),
            ({"text": ""}, ["utterance 0", "no words"]),
            ({"text": " \n\t"}, ["utterance 0", "no words"]),
            ({"text": ["great", ""]}, ["utterance 1", "no words"]),
            ({"text": ["great", 3]}, ["utterance 1", "3", "int"]),
            ({"text": ["great", None]}, ["utterance 1", "nothing is given", "acoustic, visual"]),
            ({"text": "the great movie", "acoustic": np.zeros((4, 3))}, ["utterance 0", "4 acoustic rows", "3 words"]),
            ({"words": [["great"], None], "acoustic": [np.zeros((1, 3)), None]}, ["utterance 1", "nothing is given"]),
            ({}, ["nothing is given", "words or text, acoustic, visual"]),
        ],
    )
    def test_words_and_text(self, unigram_tokenizer, given, words):
        message = self.refusal(CPSLProcessor(unigram_tokenizer, SIZES), **given)
        assert all(word in message for word in words)

    def test_rows_that_differ_where_there_are_no_words(self, unigram_tokenizer):
        for use_text in (True, False):
            processor = CPSLProcessor(unigram_tokenizer, SIZES, use_text=use_text)
            message = self.refusal(processor, acoustic=np.zeros((3, 3)), visual=np.zeros((5, 2)))
            assert "utterance 0: 5 visual rows for 3 acoustic rows" in message

    def test_nothing_for_a_model_that_reads_no_text(self, unigram_tokenizer):
        processor = CPSLProcessor(unigram_tokenizer, SIZES, use_text=False)
        for words in (None, ["great"], [["great"], ["movie"]]):
            assert "nothing is given; the processor takes acoustic, visual" in self.refusal(processor, words)

    def test_other_tensors(self, unigram_tokenizer):
        message = self.refusal(CPSLProcessor(unigram_tokenizer, SIZES), ["great"], return_tensors="np")
        assert "return_tensors='np'" in message and "'pt'" in message

    def test_no_tokenizer(self):
        with pytest.raises((ValueError, TypeError), match="tokenizer"):
            CPSLProcessor(None, SIZES)


@given(text=st.text() | st.text("「今天。ดีข iP15é \u3000"))
def test_a_text_has_the_words_that_it_has_in_data(text):
    assert split_text(text) == words_of_text(text)
