"""Each word's share in a score, against utterances from which the word was taken by hand."""

import numpy as np
import pytest
from task_cases import KINDS
from transformers import pipeline


@pytest.fixture(scope="module")
def sentiment(trained_folder):
    return pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")


@pytest.fixture(scope="module")
def utterance():
    generator = np.random.default_rng(0)
    words = ["this", "movie", "was", "wonderful", "but", "long"]
    return {"words": words, "acoustic": generator.normal(size=(6, 74)), "visual": generator.normal(size=(6, 47))}


def taken_out(utterance, position):
    return {
        name: np.delete(values, position, axis=0) if name != "words" else [*values[:position], *values[position + 1 :]]
        for name, values in utterance.items()
    }


def by_hand(sentiment, utterance):
    score = sentiment(utterance)["score"]
    return [score - sentiment(taken_out(utterance, position))["score"] for position in range(len(utterance["words"]))]


def test_a_share_is_the_score_less_that_without_the_word_and_its_features(sentiment, utterance):
    for given in (utterance, {"words": utterance["words"]}):
        expected = by_hand(sentiment, given)
        assert max(map(abs, expected)) > 1e-3, "the words matter"
        assert sentiment(given, explain="words")["word_shares"] == pytest.approx(expected, abs=1e-5)


def test_batches_give_the_shares_of_single_utterances(sentiment, utterance):
    rows = [
        utterance,
        {"text": "a terrible ending"},
        taken_out(utterance, 2),
        {"visual": utterance["visual"]},
        {"text": "great"},
        taken_out(taken_out(utterance, 0), 0),
    ]
    single = [sentiment(row, explain="words")["word_shares"] for row in rows]
    assert [None if shares is None else len(shares) for shares in single] == [6, 3, 5, None, 1, 4]
    for shares, alone in zip(sentiment(rows, batch_size=4, explain="words"), single, strict=True):
        assert shares["word_shares"] == (alone and pytest.approx(alone, abs=1e-5))


def test_what_is_not_read_has_no_share(sentiment, utterance):
    assert sentiment({"words": None, "acoustic": utterance["acoustic"]}, explain="words")["word_shares"] is None
    assert sentiment("great", explain="words")["word_shares"] == [None], "nothing would be left"
    with_empty = sentiment({"words": ["a", "", "great", "film"]}, explain="words")["word_shares"]
    assert with_empty[1] is None and None not in [with_empty[0], *with_empty[2:]]
    long = sentiment({"words": ["great", "film"] * 40}, explain="words")
    read = len(long["word_shares"]) - long["word_shares"].count(None)
    assert long["num_cut"] > 0 and len(long["word_shares"]) == 80 and None not in long["word_shares"][:read]


def test_latent_draws_do_not_enter_the_shares(sentiment, utterance):
    result = sentiment(utterance, explain="words", num_samples=3)
    assert result["word_shares"] == pytest.approx(by_hand(sentiment, utterance), abs=1e-5)


def test_words_are_explained_beside_the_modalities(sentiment, utterance):
    plain, result = sentiment(utterance, explain=True), sentiment(utterance, explain="words")
    assert result.pop("word_shares") and result == plain
    bad, good = sentiment([{"words": []}, utterance], explain="words", on_error="skip")
    assert "no words" in bad["error"] and "word_shares" not in bad and len(good["word_shares"]) == 6
    with pytest.raises(ValueError, match="explain='letters' must be one of False, True, words"):
        sentiment(utterance, explain="letters")


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_kind_are_explained(kind, folder_of_kind, utterance):
    """Of one class by the probability of the one that is predicted, else of each number or class by name."""
    predict = pipeline("multimodal-sentiment", model=str(folder_of_kind(kind)), device="cpu")
    result = predict(utterance, explain="words")
    for position, share in enumerate(result["word_shares"]):
        without = predict(taken_out(utterance, position))
        if kind == "number":
            assert share == pytest.approx(result["score"] - without["score"], abs=1e-5)
        elif kind == "class":
            assert share == pytest.approx(result["score"] - without["probabilities"][result["label"]], abs=1e-5)
        else:
            expected = {name: score - without["score"][name] for name, score in result["score"].items()}
            assert share == pytest.approx(expected, abs=1e-5)
    assert predict("great", explain="words")["word_shares"] == [None]
    assert predict({"acoustic": utterance["acoustic"]}, explain="words")["word_shares"] is None
