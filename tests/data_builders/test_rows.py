import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders import DataError
from data_builders import rows as rows_module
from data_builders.arrow_rows import row_features, rows_to_table
from data_builders.folds import CMU_MOSI_FOLDS
from data_builders.rows import (
    UnusedLabel,
    as_text,
    checked_row,
    checked_rows,
    reasons_left_out,
    split_name,
    video_of,
    words_of_text,
)


def make_row(**changes):
    row = {
        "id": "v_1",
        "video_id": "v",
        "words": ["good", "film"],
        "acoustic": np.ones((2, 3)),
        "visual": np.ones((2, 2), np.float32),
        "label": 1.5,
    }
    return {**row, **changes}


SIZES = {"acoustic": 3, "visual": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acoustic": np.ones((3, 3))}, "3 rows of acoustic for 2 words"),
        ({"visual": np.ones((1, 2))}, "1 rows of visual for 2 words"),
        ({"visual": np.ones((2, 5))}, r"visual has shape \(2, 5\), and the other samples have 2"),
        ({"visual": np.ones(2)}, "visual has shape"),
        ({"visual": np.array([["a", "b"]] * 2)}, "visual holds <U1 values"),
        ({"words": [], "acoustic": np.ones((4, 3))}, "2 rows of visual for"),
    ],
)
def test_shapes_that_do_not_fit(changes, message):
    with pytest.raises(DataError, match=message):
        checked_row(make_row(**changes), SIZES)


@pytest.mark.parametrize("changes", [{"words": ["good", "\ud83d"]}, {"id": "\ud83d"}, {"video_id": "\ud83d"}])
def test_strings_that_are_no_text(changes):
    with pytest.raises(DataError, match=r"'.ud83d' is not valid text: it has an unpaired surrogate"):
        checked_row(make_row(**changes), SIZES)


def test_the_values_of_a_sample_are_bounded():
    huge = np.broadcast_to(np.float32(0), (2, 1 << 26))  # takes no memory
    with pytest.raises(DataError, match=r"acoustic has shape \(2, 67108864\), which is more than 67108864 values"):
        checked_row(make_row(acoustic=huge), {"acoustic": 1 << 26})


def test_rows_of_no_values_are_a_missing_modality():
    assert checked_row(make_row(acoustic=np.zeros((2, 0))), SIZES)["acoustic"].shape == (0, 3)


def test_a_missing_modality_is_an_empty_array():
    row = checked_row(make_row(acoustic=None), SIZES)
    assert row["acoustic"].shape == (0, 3) and row["visual"].shape == (2, 2)


def test_rows_without_words_keep_their_features():
    row = checked_row(make_row(words=[], acoustic=np.ones((4, 3)), visual=np.ones((4, 2))), SIZES)
    assert row["acoustic"].shape == (4, 3) and row["visual"].shape == (4, 2)


def test_a_table_holds_the_rows_exactly_and_counts_what_it_replaced():
    generator = np.random.default_rng(0)
    rows = []
    for length in (2, 5, 1):
        acoustic = generator.normal(size=(length, 3))
        words = [f"w{i}" for i in range(length)]
        rows.append(checked_row(make_row(words=words, acoustic=acoustic, visual=None), SIZES))
    broken = rows[1]["acoustic"].copy()
    broken[0, 0], broken[1, 2], broken[3, 1] = np.nan, -np.inf, 1e300
    rows[1]["acoustic"] = broken
    table, replaced = rows_to_table(rows, row_features(SIZES, timed=False))
    assert replaced == {"acoustic": 3}
    assert table.column("words").to_pylist() == [row["words"] for row in rows]
    expected = np.where(np.abs(broken) < 1e38, broken, 0)  # NaN compares as false
    stored = table.column("acoustic").to_pylist()
    np.testing.assert_array_equal(stored[1], expected.astype(np.float32))
    np.testing.assert_array_equal(stored[0], rows[0]["acoustic"].astype(np.float32))
    assert table.column("visual").to_pylist() == [[], [], []]
    assert table.schema.field("label").type == pa.float32()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dev", "validation"),
        ("VALID", "validation"),
        ("val", "validation"),
        ("validation", "validation"),
        ("training", "train"),
        ("test", "test"),
    ],
)
def test_split_names(tmp_path, name, expected):
    assert split_name(name, tmp_path) == expected


def test_an_unknown_split_is_an_error(tmp_path):
    with pytest.raises(DataError, match="'fold3' is none of"):
        split_name("fold3", tmp_path)


@pytest.mark.parametrize(
    ("segment", "video"),
    [
        ("03bSnISJMiM_11", "03bSnISJMiM"),
        ("_dI--eQ6qVU_3", "_dI--eQ6qVU"),
        ("c7UH_rxdZv4[10]", "c7UH_rxdZv4"),
        ("c7UH_rxdZv4$_$10", "c7UH_rxdZv4"),
        ("video", "video"),
        ("_1", "_1"),
    ],
)
def test_the_video_of_a_segment(segment, video):
    assert video_of(segment) == video


def test_every_video_of_mosi_is_told_by_the_ids_of_its_clips():
    for video in itertools.chain(*CMU_MOSI_FOLDS.values()):
        assert {video_of(f"{video}_12"), video_of(f"{video}[12]"), video_of(f"{video}$_$12")} == {video}


def test_reasons_that_differ_in_values_alone_are_told_together():
    samples = [
        ("a", "label 9 is outside"),
        ("b", "no words"),
        ("c", "label -7.5 is outside"),
        ("d", "'x' is no label"),
    ]
    assert reasons_left_out(samples) == ["a and 1 more: label 9 is outside", "b: no words", "d: 'x' is no label"]


def test_wrong_labels_where_none_is_needed_come_before_their_rows():
    labels = [1.5, None, float("nan"), np.array([[np.nan]]), 9, "good"]
    found = list(
        checked_rows((make_row(id=f"{k}", label=label) for k, label in enumerate(labels)), SIZES, labels=None)
    )
    assert [item.id for item in found if isinstance(item, UnusedLabel)] == ["4", "5"]
    assert [item["label"] for item in found if not isinstance(item, UnusedLabel)] == [1.5, *[None] * 5]


def test_bytes_are_utf8_or_latin1():
    assert as_text("é") == as_text("é".encode()) == as_text("é".encode("latin-1")) == "é"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  bad\tfilm.", ["a", "bad", "film."]),
        ("été \x1c좋은 영화", ["été", "좋은", "영화"]),
        (b"caf\xc3\xa9", ["café"]),
        ("", []),
        (None, []),
        (float("nan"), []),
        (np.float64("nan"), []),
        ("nan bread", ["nan", "bread"]),
        ("今天很好。真的", ["今", "天", "很", "好。", "真", "的"]),
        ("我爱iPhone 15手机", ["我", "爱", "iPhone", "15", "手", "机"]),
        ("「すごい」ケーキ", ["「す", "ご", "い」", "ケ", "ー", "キ"]),
        ("ดีมาก", ["ดี", "ม", "า", "ก"]),
    ],
)
def test_the_words_of_a_text(text, words):
    assert words_of_text(text) == words


@given(text=st.text())
def test_no_character_of_a_text_is_lost(text):
    words = words_of_text(text)
    assert "".join(words) == "".join(text.split()) and "" not in words


def test_that_characters_are_words_is_said_once(caplog):
    rows_module._say_that_characters_are_words.cache_clear()
    for text in ("a film", "很好", "真的"):
        words_of_text(text)
    assert [record.message for record in caplog.records] == [
        "texts in a script without blanks between words: each character is taken for a word; to divide them "
        "otherwise, give lists of words"
    ]
