"""What the processor refuses, and how it says so."""

import numpy as np
import pytest

from modeling_cpsl.processing_cpsl import CPSLProcessor


SIZES = {"acoustic": 3, "visual": 2}


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
