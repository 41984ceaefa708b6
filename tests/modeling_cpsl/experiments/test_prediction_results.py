"""Results of predictions, kept while a table is made."""

import pytest

from modeling_cpsl.experiments.prediction_results import temporary_results


def test_rows_come_in_order_with_their_results():
    with temporary_results() as results:
        results.add("1", {"score": 1.0}, is_new=False)
        for digest, score in (("1", 2.0), ("2", 0.5)):
            results.add(digest, {"score": score}, is_new=True)
        assert "2" in results and "3" not in results
        for name, digest in (("c", "2"), ("a", "1"), ("b", None), ("a", "2")):
            results.append({"id": name}, digest)
        assert list(results.rows()) == [
            ({"id": "c", "score": 0.5, "digest": "2"}, True),
            ({"id": "a", "score": 1.0, "digest": "1"}, False),
            ({"id": "b", "digest": None}, False),
            ({"id": "a", "score": 0.5, "digest": "2"}, True),
        ]


def test_no_room_for_temporary_results_is_one_line():
    with (
        pytest.raises(OSError, match=r"^/.*: temporary results cannot be kept here \(database or disk is full\)$"),
        temporary_results() as results,
    ):
        results._database.execute("PRAGMA max_page_count = 4")
        for index in range(1000):
            results.add(str(index), {"score": 1.0}, is_new=True)
