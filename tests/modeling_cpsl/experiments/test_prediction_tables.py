"""Tables of predictions: what is written is read again exactly, whatever the kind of table."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_cpsl.experiments.prediction_tables import (
    INTEGER,
    NUMBER,
    NUMBERS,
    TEXT,
    WRITERS,
    check_row,
    read_table,
    write_table,
)


COLUMNS = {"name": TEXT, "value": NUMBER, "count": INTEGER, "values": NUMBERS}
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            "value": st.none() | FINITE,
            "count": st.none() | st.integers(-(2**63), 2**63 - 1),
            "values": st.none() | st.lists(st.none() | FINITE, max_size=3),
        },
    ),
    max_size=5,
)


@pytest.mark.parametrize("suffix", WRITERS)
@given(rows=ROWS)
def test_what_is_written_is_read_exactly(tmp_path_factory, suffix, rows):
    path = tmp_path_factory.getbasetemp() / f"round_trip{suffix}"
    write_table(iter(rows), COLUMNS, path)
    found = list(read_table(path, COLUMNS))
    assert found == [{name: row.get(name) for name in COLUMNS} for row in rows]
    for row in found:
        check_row(row, COLUMNS, needed=())


@pytest.mark.parametrize("suffix", WRITERS)
def test_other_columns_are_not_read(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    write_table([{"name": "a", "value": 1.0, "count": 2}], COLUMNS, path)
    assert [row["count"] for row in read_table(path, {"count": INTEGER})] == [2]


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"value": math.inf}, "value"),
        ({"values": [1.0, "1"]}, "values"),
        ({"values": 1.0}, "values"),
        ({"value": 10**400}, "value"),
        ({"value": "1"}, "value"),
        ({"count": 1.0}, "count"),
        ({"count": True}, "count"),
        ({"count": 2**63}, "count"),
        ({"name": 3}, "name"),
        ({"name": None}, "name"),
    ],
)
def test_a_value_of_another_type_is_named(changes, column):
    row = {"name": "a", "value": None, "count": None} | changes
    with pytest.raises(ValueError, match=f"^{column} is "):
        check_row(row, COLUMNS, needed=["name"])
