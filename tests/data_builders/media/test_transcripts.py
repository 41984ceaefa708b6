import json

import pytest

from data_builders.files import DataError
from data_builders.media.contract import Caption
from data_builders.media.transcripts import find_transcript, read_transcript


SRT = """1
00:00:01,000 --> 00:00:02,500
<i>What a</i> great
film &amp; cast

2
00:01:02,250 --> 00:01:03,000
{\\an8}[applause] Yes!
"""
VTT = "WEBVTT\n\nNOTE a comment\n\nintro\n00:01.000 --> 00:02.500 align:start\n<v Anna>What a great film\n"
WORDS = [{"word": " What", "start": 0.5, "end": 0.75}, {"word": "film", "start": 1, "end": 1.5}]
TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 2
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 2
            text = "AH"
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 2
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 0.75
            text = "What"
        intervals [3]:
            xmin = 1
            xmax = 1.5
            text = "film"
"""
TIMED_WORDS = [Caption("What", 0.5, 0.75), Caption("film", 1.0, 1.5)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.srt", SRT, [Caption("What a great film & cast", 1.0, 2.5), Caption("Yes!", 62.25, 63.0)]),
        ("dos.srt", "\ufeff" + SRT.replace("\n", "\r\n").replace(",", "."), None),
        ("a.vtt", VTT, [Caption("What a great film", 1.0, 2.5)]),
        ("words.json", json.dumps(WORDS), TIMED_WORDS),
        ("whisper.json", json.dumps({"segments": [{"text": "What film", "words": WORDS}]}), TIMED_WORDS),
        ("segments.json", json.dumps([{"text": "What film", "start": 0, "end": 2}]), [Caption("What film", 0.0, 2.0)]),
        ("a.TextGrid", TEXTGRID, TIMED_WORDS),
        ("a.txt", " What a\nfilm ", [Caption("What a film", None, None)]),
        ("other.txt", "это хорошо", [Caption("это хорошо", None, None)]),
    ],
)
def test_formats(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    assert len(read_transcript(path)) == 2 if expected is None else read_transcript(path) == expected


def test_praat_writes_utf_16(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(TEXTGRID, encoding="utf-16")
    assert read_transcript(path) == TIMED_WORDS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.srt", b"no times here", "no times in it"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,500\n[music]\n", "no words in it"),
        ("a.srt", b"1\n00:00:03,000 --> 00:00:02,500\nYes\n", r"'Yes' is from 3 to 2.5 s; correct the times"),
        ("a.txt", b"\xe9t\xe9", "not UTF-8"),
        ("a.json", b'{"segments": ', "not readable JSON"),
        ("a.json", b"[" * 100_000, "not readable JSON"),
        ("a.json", b'{"words": [1, null, {"word": 3, "start": 1, "end": 2}]}', "no list of words or segments"),
        ("a.json", b'[{"word": "a", "start": NaN, "end": 2}]', "correct the times"),
        ("a.TextGrid", TEXTGRID.replace("0.75", "O.75").encode(), "tier words: .*'O.75'"),
        ("a.txt", b"", "empty"),
    ],
)
def test_faults_are_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_transcript(path)
    assert str(error.value).startswith(str(path))


def test_a_transcript_is_found_by_its_name(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "clip.1.vtt").touch()
    assert find_transcript(tmp_path, "b/clip.1") == tmp_path / "b" / "clip.1.vtt"
    assert find_transcript(tmp_path, "b/clip") is None
