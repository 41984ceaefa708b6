import logging

import pytest

from data_builders import DataError, load_aligned_dataset
from data_builders.inspection import inspect


HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
LINES = (
    '1,"Oh my God, he\u2019s lost it.",Phoebe,sadness,negative,0,0,4,7,"00:20:57,256","00:21:00,049"\n'
    '2,What?,Monica,surprise,negative,0,1,4,7,"00:21:01,927","00:21:03,261"\n'
    '3,Great!,Joey,joy,positive,1,0,4,7,"00:21:01,927","00:21:03,261"\n'
)


@pytest.fixture
def meld(tmp_path):
    folder = tmp_path / "meld"
    folder.mkdir()
    (folder / "train_sent_emo.csv").write_text(HEADER + LINES, encoding="utf-8")
    (folder / "dev_sent_emo.csv").write_text((HEADER + LINES).replace("\n", "\r\n"), encoding="utf-8-sig")
    (folder / "notes.csv").write_text("a,b\n1,2\n")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_utterances_belong_to_dialogues_of_their_split(meld, cache, streaming):
    splits = load_aligned_dataset(meld, cache_dir=cache, streaming=streaming)
    assert list(splits) == ["train", "validation"]
    rows = list(splits["validation"])
    assert [row["id"] for row in rows] == [f"validation_dia{k}" for k in ("0_utt0", "0_utt1", "1_utt0")]
    assert [row["video_id"] for row in rows] == ["validation_dia0", "validation_dia0", "validation_dia1"]
    assert rows[0]["words"] == ["Oh", "my", "God,", "he\u2019s", "lost", "it."]
    assert splits["train"].features["label"].names == ["joy", "sadness", "surprise"]
    assert [row["label"] for row in rows] == [1, 2, 0]


def test_the_label_may_be_sentiment(meld, cache):
    train = load_aligned_dataset(meld, cache_dir=cache, labels=["Sentiment"])["train"]
    assert train.features["label"].names == ["negative", "positive"] and train["label"] == [0, 0, 1]
    for labels in (["Speaker"], ["Emotion", "Sentiment"]):
        with pytest.raises(DataError, match="of MELD give one of Emotion, Sentiment"):
            load_aligned_dataset(meld, cache_dir=cache, labels=labels)


def test_one_file_is_enough_and_need_not_have_labels(meld, cache):
    file = meld / "test_sent_emo.csv"
    file.write_text("Utterance,Speaker,Dialogue_ID,Utterance_ID\nHi.,Joey,3,4\nSo?,Joey,,5\n")
    with pytest.raises(DataError, match=r"test_sent_emo\.csv: no column Emotion; .*--no_labels"):
        load_aligned_dataset(file, cache_dir=cache)
    with pytest.raises(DataError, match="sample test_3: line 3 has no Dialogue_ID"):
        load_aligned_dataset(file, cache_dir=cache, labels=False)
    [row] = load_aligned_dataset(file, cache_dir=cache, labels=False, on_error="skip")["test"]
    assert row["id"] == "test_dia3_utt4" and row["words"] == ["Hi."]


def test_a_class_that_training_does_not_have_is_named(meld, cache):
    path = meld / "dev_sent_emo.csv"
    path.write_text((HEADER + LINES).replace("surprise", "Surprise"), encoding="utf-8")
    message = "sample validation_dia0_utt1: label 'Surprise' is not one of 3 classes: joy, sadness, surprise"
    with pytest.raises(DataError, match=f"{meld}: {message}"):
        load_aligned_dataset(meld, cache_dir=cache)


@pytest.mark.parametrize("wrong", ["\x92", b"\x92"])
def test_windows_1252_is_mended_and_said(tmp_path, cache, caplog, wrong):
    encoded = (HEADER + LINES).encode()
    wrong = wrong if isinstance(wrong, bytes) else wrong.encode()
    path = tmp_path / "train_sent_emo.csv"
    path.write_bytes(encoded.replace("\u2019".encode(), wrong).replace(b"Great!", b"caf\xc3\xa9"))
    with caplog.at_level(logging.WARNING):
        train = load_aligned_dataset(path, cache_dir=cache)["train"]
    assert train[0]["words"][3] == "he\u2019s" and train[2]["words"] == ["caf\u00e9"]
    [said] = [record.message for record in caplog.records if "Windows-1252" in record.message]
    assert said.startswith(str(path)) and "mended" in said and "Oh my God" in said


def test_what_people_have(shared_data):
    report = inspect(shared_data("meld"))
    assert "train: 9989 samples of 1038 videos" in report and "validation: 1109 samples of 114 videos" in report
    assert (
        "labels: anger: 1109, disgust: 271, fear: 268, joy: 1743, neutral: 4710, sadness: 683, surprise: 1205"
        in report
    )
    assert "left out: 0 samples" in report and "videos in more than one split: 0" in report
