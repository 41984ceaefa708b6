"""How the row format is read, and that nobody else reads it."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Array2D
from row_cases import MISSING, SIZES, WORDS, make_dataset, make_rows

from data_builders.columns import (
    feature_extractors,
    feature_rows,
    modality_rows,
    modality_sizes,
    present_modalities,
    read_columns,
    row_counts,
    rows_of,
)


REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def dataset():
    return make_dataset(make_rows())


def test_only_columns_and_arrow_rows_know_the_type_of_a_modality():
    sources = [path for package in ("data_builders", "modeling_cpsl") for path in (REPOSITORY / package).rglob("*.py")]
    knowing = {path.relative_to(REPOSITORY).as_posix() for path in sources if "Array2D" in path.read_text()}
    assert knowing == {"data_builders/columns.py", "data_builders/arrow_rows.py"}


def test_sizes_are_those_of_the_columns(dataset):
    assert modality_sizes(dataset["train"]) == SIZES


def test_lists_of_lists_are_not_left_out_in_silence(dataset):
    split = dataset["train"].map(lambda row: {"gaze": [[1.0, 2.0]] * len(row["words"])})
    with pytest.raises(ValueError, match=r"column gaze holds lists of lists; cast it to datasets\.Array2D"):
        modality_sizes(split)


def test_extractors_are_those_that_the_columns_name(dataset):
    assert feature_extractors(dataset["train"]) == {}
    named = dataset.cast_column("visual", Array2D((None, SIZES["visual"]), "float32", id="FACET 4.2"))
    assert feature_extractors(named["train"]) == {"visual": "FACET 4.2"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_rows_are_those_of_the_split(dataset, name, streaming):
    for split, expected in ((dataset["train"], make_rows()), (dataset["test"], make_rows()[1:3])):
        found = list(modality_rows(split.to_iterable_dataset() if streaming else split, name))
        assert [array.shape for array in found] == [row[name].shape for row in expected]
        assert all(np.array_equal(array, row[name]) for array, row in zip(found, expected, strict=True))


def test_columns_come_in_batches_in_the_order_of_the_rows(dataset, monkeypatch):
    monkeypatch.setattr("data_builders.columns.ROWS_AT_ONCE", 2)
    tables = list(read_columns(dataset["train"], ["id", "visual"]))
    assert [len(table) for table in tables] == [2, 2, 1] and tables[0].column_names == ["id", "visual"]
    assert [name for table in tables for name in table["id"].to_pylist()] == [row["id"] for row in make_rows()]
    shapes = [rows.shape for table in tables for rows in feature_rows(table["visual"])]
    assert shapes == [row["visual"].shape for row in make_rows()]


def test_rows_are_those_that_were_written(dataset):
    (table,) = read_columns(dataset["train"], ["id", "words", "visual"])
    found = rows_of(table)
    assert [row.keys() for row in found] == [{"id", "words", "visual"}] * len(WORDS)
    for row, expected in zip(found, make_rows(), strict=True):
        assert (row["id"], row["words"]) == (expected["id"], expected["words"])
        assert np.array_equal(row["visual"], expected["visual"])


def test_counts_are_lengths(dataset):
    assert row_counts(dataset["train"], "words").tolist() == list(map(len, WORDS))
    shuffled = dataset["train"].select([4, 0])
    assert row_counts(shuffled, "visual").tolist() == [0, 4]
    assert row_counts(dataset["train"].select([]), "visual").tolist() == []


@pytest.mark.parametrize("text", [False, True])
def test_a_modality_without_rows_is_missing(dataset, text):
    found = present_modalities(dataset["train"], ["acoustic", "visual"], text=text)
    for index, names in enumerate(found):
        expected = [name for name in ("acoustic", "visual") if (index, name) not in MISSING]
        assert names == [*expected, *(["text"] if text else [])]
