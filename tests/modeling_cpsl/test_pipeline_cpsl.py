"""The pipeline: what goes in, what comes out, and that neither batch nor neighbours change a result."""

import json
import math
import re
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import IterableDataset
from training_cases import make_trainer
from transformers import Pipeline, pipeline

from data_builders import files
from modeling_cpsl import CPSLProcessor, MultimodalSentimentPipeline, pipeline_cpsl
from modeling_cpsl.uncertainty_cpsl import conformal_half_width


@pytest.fixture(scope="module")
def sentiment(trained_folder):
    return pipeline("multimodal-sentiment", model=str(trained_folder), device="cpu")


@pytest.fixture(autouse=True)
def not_calibrated(sentiment):
    yield
    sentiment.model.forget_calibration()


@pytest.fixture(scope="module")
def utterances():
    """20 utterances of many lengths with random features; some lack a modality or two."""
    generator = np.random.default_rng(0)
    words = ["this", "movie", "was", "really", "great", "but", "boring", "and", "long"]
    rows = []
    for index in range(20):
        count = int(generator.integers(1, 9))
        row = {"id": f"v_{index}", "words": list(generator.choice(words, count)), "label": float(index % 7 - 3)}
        row["acoustic"] = generator.normal(size=(count, 74)) if index % 3 else None
        row["visual"] = generator.normal(size=(count, 47)) if index % 4 else None
        rows.append(row)
    del rows[5]["words"]
    return rows


def scores(results):
    return np.array([result["score"] for result in results])


def test_it_is_found_by_its_task(sentiment):
    assert isinstance(sentiment, MultimodalSentimentPipeline)
    assert type(sentiment.model).__name__ == "CPSLForSentimentRegression" and not sentiment.model.training


def test_a_result_is_what_the_model_says(sentiment, utterances):
    row = utterances[1]
    result = sentiment(row)
    inputs = sentiment.processor(words=row["words"], acoustic=row["acoustic"], visual=row["visual"])
    with torch.no_grad():
        output = sentiment.model(**inputs)
    assert set(result) == {"score", "prediction", "label", "acc7_class", "modalities", "uncertainty", "num_cut"}
    assert result["score"] == pytest.approx(output.logits.clamp(-3, 3).item(), abs=1e-6)
    assert result["prediction"] == pytest.approx(output.logits.item(), abs=1e-6)
    assert result["acc7_class"] == round(result["score"]) and result["uncertainty"] is None
    assert set(result["modalities"]) == {"text", "acoustic", "visual"}
    for name, part in result["modalities"].items():
        prediction = output.unimodal_logits[name].item()
        assert part == pytest.approx({"score": max(-3, min(prediction, 3)), "prediction": prediction}, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
@pytest.mark.parametrize("options", [{}, {"explain": True}])
def test_batches_and_neighbours_change_nothing(sentiment, utterances, batch_size, options):
    alone = [sentiment(row, **options) for row in utterances]
    together = sentiment(utterances, batch_size=batch_size, **options)
    np.testing.assert_allclose(scores(together), scores(alone), atol=1e-5)
    for one, other in zip(alone, together, strict=True):
        assert one["label"] == other["label"] and one["modalities"].keys() == other["modalities"].keys()
        for name, part in one["modalities"].items():
            assert other["modalities"][name] == (part and pytest.approx(part, abs=1e-5))


class IndexedRows(torch.utils.data.Dataset):
    """A data set as PyTorch has them, which has no iterator of its own."""

    def __init__(self, rows):
        self.rows = rows

    def __getitem__(self, index):
        return self.rows[index]


@pytest.mark.parametrize("kind", ["list", "tuple", "generator", "stream", "indexed"])
def test_any_iterable_goes_in_and_order_is_kept(sentiment, utterances, kind):
    expected = scores([sentiment(row) for row in utterances] * 3)
    rows = utterances * 3
    given = {
        "list": rows,
        "tuple": tuple(rows),
        "generator": (row for row in rows),
        "stream": IterableDataset.from_generator(lambda: iter(rows)),
        "indexed": IndexedRows(rows),
    }[kind]
    results = sentiment(given, batch_size=2)
    assert isinstance(results, list) == (kind in ("list", "tuple"))
    np.testing.assert_allclose(scores(results), expected, atol=1e-5)


def test_no_utterance_at_all_is_no_result(sentiment):
    assert sentiment([]) == [] and list(sentiment(iter(()))) == []


def test_dataset_rows_go_in(tmp_path, sentiment):
    dataset = make_trainer(tmp_path, num_samples=9).train_dataset.with_format(None)
    dataset = dataset.select_columns(["id", "words", "label", "acoustic", "visual"])
    streamed = list(sentiment(dataset, batch_size=4))
    in_numpy = list(sentiment(dataset.with_format("numpy")))
    assert len(streamed) == 9
    np.testing.assert_allclose(scores(streamed), scores(in_numpy), atol=1e-5)


def test_a_text_by_itself(sentiment):
    result = sentiment("this movie was really great")
    assert result["modalities"]["acoustic"] is None and result["modalities"]["text"] is not None
    assert result["score"] == sentiment({"words": ["this", "movie", "was", "really", "great"]})["score"]
    assert result["score"] == sentiment({"text": "this movie was really great"})["score"]


def test_a_stream_is_read_a_window_at_a_time(sentiment, utterances):
    read = 0

    def stream():
        nonlocal read
        for row in utterances * 10:
            read += 1
            yield row

    results = sentiment(stream(), batch_size=2)
    assert read == 0
    next(results)
    assert read == 32


def test_a_live_stream_has_its_answers_at_once(sentiment, utterances):
    asked = []

    def stream():
        for row in [*utterances[:2], {}]:
            asked.append(row)
            yield row

    results = sentiment(stream())
    for index in range(2):
        assert next(results) == sentiment(utterances[index]) and len(asked) == index + 1
    with pytest.raises(ValueError, match=r"^utterance 2: "):
        next(results)


def test_results_before_a_bad_utterance_are_given(sentiment, utterances):
    results = sentiment(iter([*utterances[:3], {}]), batch_size=2)
    np.testing.assert_allclose(scores([next(results) for _ in range(3)]), scores(sentiment(utterances[:3])), atol=1e-5)
    with pytest.raises(ValueError, match=r"^utterance 3: "):
        next(results)


def test_a_model_in_training_mode_predicts_and_stays_as_it_is(sentiment, utterances):
    expected = sentiment(utterances[1])
    before = {name: value.clone() for name, value in sentiment.model.state_dict().items()}
    sentiment.model.train()
    assert sentiment(utterances[1]) == expected
    assert all(torch.equal(value, before[name]) for name, value in sentiment.model.state_dict().items())


def test_a_prediction_that_is_no_number_is_an_error_of_its_utterance(sentiment, utterances):
    weight = sentiment.model.multimodal.encoders["acoustic"].mean_head.weight
    before = weight.detach().clone()
    try:
        weight.data.fill_(torch.inf)
        results = sentiment([*utterances[1:3], {"text": "great"}], batch_size=3, on_error="skip")
        assert [result["score"] is None for result in results] == [True, True, False]
        assert "utterance 1 (id v_2): the model predicts nan" in results[1]["error"]
        with pytest.raises(ValueError, match=r"^utterance 0 \(id v_1\): the model predicts nan"):
            sentiment(utterances[1:3])
    finally:
        weight.data.copy_(before)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_stream(sentiment):
    def peak(count):
        rows = (
            {"words": ["great"] * 5, "acoustic": np.ones((5, 74)), "visual": np.ones((5, 47))} for _ in range(count)
        )
        tracemalloc.start()
        for _ in sentiment(rows, batch_size=4):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(160)
    held = 640 * 5 * (74 + 47) * 8  # what the additional rows would take
    assert peak(800) - peak(160) < held / 10


def test_a_stream_may_fill_the_same_array_anew(sentiment, utterances):
    rows = [row for row in utterances if row.get("words") and row["acoustic"] is not None]
    rows = [{"words": row["words"], "acoustic": row["acoustic"].astype(np.float32)} for row in rows]
    buffer = np.empty((8, 74), np.float32)

    def stream():
        for row in rows:
            count = len(row["words"])
            buffer[:count] = row["acoustic"]
            yield {"words": row["words"], "acoustic": buffer[:count]}

    np.testing.assert_allclose(scores(sentiment(stream(), batch_size=4)), scores(sentiment(rows)), atol=1e-5)


def test_what_is_cut_is_counted_once_a_window(sentiment, caplog):
    lengths = [3, 80, 60, 5] * 8
    sentiment([{"words": ["great"] * length} for length in lengths], batch_size=2)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("16 of 32 utterances were cut to max_length=50 tokens")


def test_a_saved_pipeline_leaves_the_model_as_it_was(sentiment, utterances, tmp_path, monkeypatch):
    sentiment.model.save_pretrained(tmp_path / "model")
    sentiment.save_pretrained(str(tmp_path / "pipeline"))
    assert (tmp_path / "model" / "pipeline_cpsl.py").exists()
    again = pipeline("multimodal-sentiment", model=str(tmp_path / "pipeline"), device="cpu")
    assert again(utterances[1]) == sentiment(utterances[1])
    config = (tmp_path / "model" / "config.json").read_text()
    assert (tmp_path / "pipeline" / "config.json").read_text() == config
    # What transformers itself would write.
    monkeypatch.setattr(sentiment.model, "save_pretrained", lambda *args, **kwargs: None)
    Pipeline.save_pretrained(sentiment, tmp_path / "again")
    written = vars(sentiment.model.config).pop("custom_pipelines")
    assert json.loads(json.dumps(written)) == json.loads(config)["custom_pipelines"]


def test_missing_modalities_are_told_and_do_not_matter(sentiment, utterances):
    row = utterances[1]
    for present in (["words"], ["acoustic"], ["visual"], ["words", "visual"], ["acoustic", "visual"]):
        result = sentiment({name: row[name] for name in present}, explain=True)
        names = {"text" if name == "words" else name for name in present}
        assert {name for name, part in result["modalities"].items() if part is not None} == names
        assert math.isfinite(result["score"])


def test_explain_gives_leave_one_out_deltas_and_weights(sentiment, utterances):
    row = utterances[1]
    whole, result = sentiment(row)["score"], sentiment(row, explain=True)
    for name in ("acoustic", "visual"):
        without = sentiment({key: value for key, value in row.items() if key != name})["score"]
        assert result["modalities"][name]["delta"] == pytest.approx(whole - without, abs=1e-5)
    # Rows that stand for subwords weigh as often as there are subwords; without words each would weigh once.
    inputs = sentiment.processor(words=row["words"], acoustic=row["acoustic"], visual=row["visual"])
    inputs["modality_mask"]["text"] = torch.tensor([False])
    with torch.no_grad():
        without = sentiment.model(**inputs).logits.item()
    assert result["modalities"]["text"]["delta"] == pytest.approx(whole - without, abs=1e-5)
    weights = [result["modalities"][name]["weight"] for name in ("acoustic", "visual")]
    assert sum(weights) == pytest.approx(1.0, abs=1e-5) and "weight" not in result["modalities"]["text"]
    only = sentiment({"words": row["words"]}, explain=True)["modalities"]["text"]
    assert only["delta"] is None


def test_latent_draws_have_a_deviation(sentiment, utterances):
    torch.manual_seed(0)
    result = sentiment(utterances[1], num_samples=200)
    assert result["uncertainty"].keys() == {"std"} and result["uncertainty"]["std"] > 0
    torch.manual_seed(1)
    again = sentiment(utterances[1], num_samples=200)
    assert again["score"] == pytest.approx(result["score"], abs=5 * result["uncertainty"]["std"] / math.sqrt(200))


def test_calibration_is_shown_and_saved(sentiment, utterances, tmp_path):
    complete = [row | {"acoustic": np.ones((len(row["words"]), 74))} for row in utterances if "words" in row]
    complete = [row | {"visual": np.ones((len(row["words"]), 47))} for row in complete]
    (half_width,) = sentiment.calibrate(complete, coverage=np.float64(0.8), batch_size=4).values()
    labels = [row["label"] for row in complete]
    assert half_width == pytest.approx(conformal_half_width(scores(sentiment(complete)), labels, 0.8), abs=1e-5)
    sentiment.model.save_pretrained(tmp_path)
    sentiment.processor.save_pretrained(tmp_path)
    again = pipeline("multimodal-sentiment", model=str(tmp_path), device="cpu")
    result = again(complete[2])
    interval = [max(result["score"] - half_width, -3), min(result["score"] + half_width, 3)]
    assert result["uncertainty"] == {"interval": pytest.approx(interval), "coverage": 0.8}
    assert result["score"] == sentiment(complete[2])["score"]
    assert again({"words": complete[2]["words"]})["uncertainty"] is None, "words alone were not calibrated"


def test_each_set_of_modalities_has_an_interval_of_its_own(sentiment, utterances, caplog):
    """By what is missing in the fixture: 9 have all, 2 have words and voice; the others are too few."""
    half_widths = sentiment.calibrate([*utterances, *({"text": "great", "label": 2.0} for _ in range(9))], 0.8)
    results = sentiment(utterances)
    sets = ["+".join(name for name, part in sorted(result["modalities"].items()) if part) for result in results]
    assert sets.count("acoustic+text+visual") >= 4 and 0 < sets.count("acoustic+text") < 4
    assert {"acoustic+text+visual", "text"} <= half_widths.keys() and "acoustic+text" not in half_widths
    assert any("no interval for utterances with acoustic+text alone" in message for message in caplog.messages)
    for name in ("acoustic+text+visual", "text+visual"):
        members = [index for index, modalities in enumerate(sets) if modalities == name]
        residuals = sorted(abs(results[index]["score"] - utterances[index]["label"]) for index in members)
        assert half_widths[name] == pytest.approx(residuals[math.ceil((len(members) + 1) * 0.8 - 1e-9) - 1], abs=1e-5)
    for result, name in zip(results, sets, strict=True):
        assert ("interval" in (result["uncertainty"] or {})) == (name in half_widths)


def test_calibration_needs_labels_and_samples(sentiment, utterances):
    with pytest.raises(ValueError, match=r"utterance 3 \(id v_3\): no label"):
        sentiment.calibrate([{**row, "label": None if row["id"] == "v_3" else 0} for row in utterances])
    with pytest.raises(ValueError, match=r"utterance 0: no label"):
        sentiment.calibrate(["great"])
    for label in (50, float("nan"), "good", [1.0, 2.0]):
        with pytest.raises(ValueError, match=r"utterance 1 \(id v_1\): label .* is not in \[-3, 3\]"):
            sentiment.calibrate([utterances[0], {**utterances[1], "label": label}])
    with pytest.raises(ValueError, match=r"^4 held-out samples are too few"):
        sentiment.calibrate([{**utterances[1], "label": 1.0}] * 4)
    with pytest.raises(ValueError, match="coverage"):
        sentiment.calibrate([{**utterances[1], "label": 1.0}] * 40, coverage=1.5)
    assert sentiment.model.config.interval_half_widths is None


def test_a_table_is_not_taken_for_its_columns(sentiment):
    table = pd.DataFrame({"words": [["great"], ["bad"]], "split": ["train", "test"]})
    with pytest.raises(ValueError, match=r"table\.to_dict\('records'\)"):
        sentiment(table)
    assert len(sentiment(table.to_dict("records"))) == 2


@pytest.mark.parametrize("inputs", [None, 3, b"great", object()])
def test_what_is_no_utterance_is_refused(sentiment, inputs):
    with pytest.raises(ValueError, match=r"^inputs are of type \w+, expected an utterance \(a dict of words"):
        sentiment(inputs)


@pytest.mark.parametrize("name", ["clips/a.mp4", "C:\\clips\\a.WAV", "test.csv", "https://a.org/b.webm"])
def test_the_name_of_a_file_is_not_scored_as_words(sentiment, name):
    with pytest.raises(ValueError, match=r"^utterance 0: .*looks like the name of a file; .*\{'text': ...\}"):
        sentiment(name)
    assert sentiment({"text": name})["score"] == sentiment({"words": [name]})["score"]
    for text in ("10/10.Great", "see clip.mp4 again", "and/or", "U.S."):
        assert sentiment(text)["label"]


def test_an_empty_text_is_to_be_left_out(sentiment):
    with pytest.raises(ValueError, match=r"^utterance 0: the text has no words; leave it out$"):
        sentiment("")
    assert len(sentiment([text for text in ("great", "") if text])) == 1


def test_arguments_of_other_pipelines(sentiment, utterances):
    expected = sentiment(utterances[:3])
    assert sentiment(utterances[:3], num_workers=2, truncation=True) == expected
    with pytest.raises(ValueError, match="truncation=False: utterances are always cut to max_length; leave it out"):
        sentiment("great", truncation=False)
    unknown = "top_k, padding: this pipeline has no such option, leave it out; it has batch_size, num_samples, explain"
    with pytest.raises(TypeError, match=unknown):
        sentiment("great", top_k=2, padding=True)
    with pytest.raises(TypeError, match="top_k: this pipeline has no such option"):
        MultimodalSentimentPipeline(sentiment.model, processor=sentiment.processor, device="cpu", top_k=None)


def test_a_tokenizer_of_another_model_is_refused(sentiment, wordpiece_tokenizer):
    processor = CPSLProcessor(wordpiece_tokenizer, sentiment.processor.modality_sizes)
    size = len(wordpiece_tokenizer)
    with pytest.raises(ValueError, match=rf": its tokenizer has {size} entries and the text encoder \d+; put the"):
        MultimodalSentimentPipeline(sentiment.model, processor=processor, device="cpu")


@pytest.mark.parametrize("name", ["batch_size", "num_samples"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "4", [2]])
def test_a_count_that_is_none_is_refused(sentiment, name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} must be a whole number of at least 1")):
        sentiment(["great"], **{name: value})
    assert len(sentiment(["great"], **{name: np.int64(2)})) == 1


def bad_utterances():
    good = {"words": ["really", "great"], "acoustic": np.ones((2, 74)), "visual": np.ones((2, 47))}
    return {
        "no words": ({**good, "words": []}, "word"),
        "empty text": ({"text": "  "}, "word"),
        "nothing": ({}, "nothing|no "),
        "wrong size": ({**good, "acoustic": np.ones((2, 73))}, r"acoustic .*73"),
        "lengths differ": ({**good, "visual": np.ones((3, 47))}, "3 visual rows for 2 words"),
        "not a number": ({**good, "visual": np.full((2, 47), np.nan)}, "visual .*NaN"),
        "unknown modality": ({**good, "acustic": np.ones((2, 74))}, "acustic"),
        "no utterance": (3, "int"),
        "words are no strings": ({**good, "words": [1, 2]}, "word"),
        "both": ({**good, "text": "really great"}, "text"),
        "half a character": ({"text": "great \ud83d movie"}, "word 1 .*unpaired surrogate"),
        "two texts": ({"text": ["great", "bad"]}, "give several utterances separately"),
        "lists of words": ({"words": [["great"], ["bad"]]}, "give several utterances separately"),
        "extractors by name": ({**good, "feature_extractors": "COVAREP"}, "must be a dict"),
        "field without a name": ({**good, 3: 1, "acustic": 2}, "modality 3, acustic is unknown"),
        "words are a scalar": ({**good, "words": np.array("great")}, "list of strings"),
        "text is a scalar": ({"text": np.array("great")}, "expected a string"),
        "too large": ({**good, "acoustic": [[10**400] * 74] * 2}, "acoustic"),
    }


@pytest.mark.parametrize("kind", bad_utterances())
def test_a_bad_utterance_is_named(sentiment, utterances, kind):
    bad, message = bad_utterances()[kind]
    with pytest.raises(ValueError, match=f"^utterance 2: .*({message})") as caught:
        list(sentiment([*utterances[:2], bad, *utterances[2:4]], batch_size=2))
    assert "\n" not in str(caught.value) and "utterance 0" not in str(caught.value)


@pytest.mark.parametrize("kind", bad_utterances())
def test_the_others_go_on(sentiment, utterances, kind):
    bad, _ = bad_utterances()[kind]
    results = sentiment([*utterances[:2], bad, *utterances[2:4]], batch_size=3, on_error="skip")
    skipped = results.pop(2)
    assert skipped["score"] is None and skipped["error"].startswith("utterance 2: ")
    np.testing.assert_allclose(scores(results), scores(sentiment(utterances[:4])), atol=1e-5)


def test_only_bad_ones(sentiment):
    assert [result["score"] for result in sentiment([{}, {}], on_error="skip")] == [None, None]
    assert sentiment({}, on_error="skip")["score"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on_error='ignore' must be one of raise, skip"),
        ({"batch_size": -1}, "batch_size=-1"),
    ],
)
def test_options_out_of_range(sentiment, options, message):
    with pytest.raises(ValueError, match=message):
        sentiment("great", **options)


def test_bad_utterances_are_handled_as_bad_samples_of_a_data_set_are():
    assert pipeline_cpsl.ON_ERROR == files.ON_ERROR


def test_options_of_the_pipeline_hold_for_its_calls(trained_folder, utterances):
    sentiment = pipeline(
        "multimodal-sentiment", model=str(trained_folder), device="cpu", batch_size=4, on_error="skip", explain=True
    )
    results = sentiment([utterances[1], {}])
    assert "delta" in results[0]["modalities"]["text"] and results[1]["score"] is None
    assert "delta" not in sentiment(utterances[1], explain=False)["modalities"]["text"]
