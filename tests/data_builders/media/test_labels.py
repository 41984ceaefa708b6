import pytest

from data_builders.files import DataError
from data_builders.labels import LabelFormat
from data_builders.media.labels import ClipLabels, read_labels, shared_out


def labels_of(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return read_labels(path)[0]


def test_a_label_for_each_clip(tmp_path):
    found = labels_of(tmp_path, "clip,label,split,notes\na.mp4,1,train,good\nfolder/b, -0.5 ,dev,\n", "utf-8-sig")
    infinity = float("inf")
    assert found == {
        "a.mp4": ClipLabels(((0.0, infinity),), (1.0,), "train", "a"),
        "folder/b": ClipLabels(((0.0, infinity),), (-0.5,), "validation", "folder/b"),
    }


@pytest.mark.parametrize(
    ("header", "cells", "options", "labels", "label_format"),
    [
        ("label", ("sad", "joy"), {}, ("sad", "joy"), LabelFormat("class", ("joy", "sad"), ())),
        ("emotion", ("1", "0"), {"columns": ["emotion"], "kind": "class"}, ("1", "0"), None),
        ("label", ("joy;sad", "sad"), {"kind": "classes"}, (["joy", "sad"], ["sad"]), None),
        ("label", ("0.5", "-1"), {"ranges": [-1, 1]}, (0.5, -1.0), LabelFormat(ranges=((-1.0, 1.0),))),
        (
            "valence,arousal",
            ("1,9", "5,2"),
            {"columns": ["valence", "arousal"], "ranges": [1, 9]},
            ({"valence": 1.0, "arousal": 9.0}, {"valence": 5.0, "arousal": 2.0}),
            LabelFormat("numbers", ("valence", "arousal"), ((1.0, 9.0), (1.0, 9.0))),
        ),
    ],
)
def test_labels_that_are_no_sentiments(tmp_path, header, cells, options, labels, label_format):
    path = tmp_path / "labels.csv"
    path.write_text(f"clip,split,{header}\n" + "".join(f"clip{k},train,{cell}\n" for k, cell in enumerate(cells)))
    found, what = read_labels(path, **options)
    assert tuple(found[f"clip{k}"].labels[0] for k in range(len(cells))) == labels
    assert label_format in (None, what)


def test_classes_are_those_of_the_training_clips(tmp_path):
    text = "clip,label,split\na,joy,train\nb,fear,train\nc,Joy,test\n"
    with pytest.raises(DataError, match=r"line 4: clip c: label 'Joy' is not one of 2 classes: fear, joy"):
        labels_of(tmp_path, text)
    with pytest.raises(DataError, match=r"labels\.csv: labels need the columns clip and emotion, .*--label_columns"):
        read_labels(tmp_path / "labels.csv", columns=["emotion"])


def test_several_utterances_of_a_clip(tmp_path):
    found = labels_of(tmp_path, "clip,label,start,end,split\na,1,0,2.5,test\nb,0,,,train\na,-1,2.5,,test\n")
    assert found["a"].spans == ((0.0, 2.5), (2.5, float("inf"))) and found["a"].labels == (1.0, -1.0)
    assert found["b"].spans == ((0.0, float("inf")),)


def test_without_splits_a_speaker_is_in_one_and_the_draw_stays_the_same(tmp_path):
    lines = [f"clip{index},0,speaker{index % 20}" for index in range(60)]
    found = labels_of(tmp_path, "\n".join(["clip,label,video_id", *lines]))
    assert found == labels_of(tmp_path, "\n".join(["clip,label,video_id", *reversed(lines)]))
    splits = {one.video_id: one.split for one in found.values()}
    assert all(one.split == splits[one.video_id] for one in found.values())
    assert sorted(splits.values()) == ["test"] * 3 + ["train"] * 14 + ["validation"] * 3
    assert shared_out(["a", "b"]) == {"a": "train", "b": "train"}
    assert sorted(shared_out(["a", "b", "c"]).values()) == ["test", "train", "validation"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip;label\na;1\n", r"labels\.csv: labels need the columns clip and label, .* it has: clip;label; rename"),
        ("clip,label\n", "it has: no line but the first"),
        ("clip,label\n,1\n", "line 2: no clip; name it"),
        ("clip,label\na,good\n", "line 2: clip a: label 'good' is not a number, or sentiment and six emotions"),
        ("clip,label\na,7\n", "line 2: clip a: .*7"),
        ("clip,label,split\na,1,later\n", "line 2: clip a: .*later"),
        ("clip,label,start,end\na,1,3,2\n", "line 2: clip a: from 3 to 2 is no time in seconds"),
        ("clip,label,start,end\na,1,0,2\na,1,1,3\n", "line 3: clip a: begins at 1 s, before the utterance above ends"),
        ("clip,label,split,start\na,1,train,0\na,1,test,1\n", "line 3: clip a: another split or video_id"),
        ('clip,label\n"a,1\n', r"not a CSV file in UTF-8 \("),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_place(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        labels_of(tmp_path, text)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_another_encoding_is_said(tmp_path):
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        labels_of(tmp_path, "clip,label\nmüller,1\n", "latin-1")
