"""The committed results of experiments: made from their records, quoted as they are, and without anybody's data."""

import functools
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from modeling_cpsl.evidence.group_sums import SMALLEST_GROUP
from modeling_cpsl.evidence.records import read_records, split_to_report
from modeling_cpsl.evidence.specification import saved_specification
from modeling_cpsl.evidence.summary import shown_by_default, summarize, with_metrics
from modeling_cpsl.evidence.tables import latex, markdown, table_of_values


ROOT = Path(__file__).parents[1]
RESULTS = sorted(path.parent for path in (ROOT / "experiments" / "results").glob("*/specification.yaml"))
FINDINGS = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in ("findings", "balance"))
README = (ROOT / "README.md").read_text()
# The metrics of the tables of sentiments in docs/findings.md; differences are of the first. Tables of other labels
# have what a report shows.
METRICS = ["mae", "corr", "acc7", "acc2_nonzero"]

every_result = pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)


@every_result
def test_records_hold_no_data_and_no_path(folder):
    for path in folder.rglob("*.json"):
        record = json.loads(path.read_text())
        for groups in record["group_sums"].values():
            assert all(re.fullmatch("[0-9a-f]{16}", name) for name in groups)
            assert all(sums[0] >= SMALLEST_GROUP for sums in groups.values())
        assert not re.search(r'"/|"(raw_)?text":|"words"|"ids?"', path.read_text()), path
    assert not list(folder.rglob("*.parquet")) and not list(folder.rglob(".salt"))
    assert not re.search(r"(^|\s)/", (folder / "specification.yaml").read_text())


@functools.cache
def summary_of(folder):
    specification = saved_specification(folder)
    records = read_records(folder)
    split = split_to_report(records)
    steps = specification.waterfall or ()
    summary = summarize(records, list(specification.rows), specification.reference, split=split, steps=steps)
    return summary, specification


@pytest.mark.slow
@every_result
def test_tables_are_made_from_the_records(folder):
    summary, specification = summary_of(folder)
    table, made = (folder / "table.md").read_text(), markdown(shown_by_default(summary), specification.published)
    assert table.startswith(made)
    assert re.fullmatch(r"(\n\d+ of \d+ planned runs have finished; missing: .*\n)?", table.removeprefix(made))
    assert (folder / "table.tex").read_text() == latex(shown_by_default(summary))
    values = pd.read_csv(folder / "table.csv", index_col=0)
    pd.testing.assert_frame_equal(values, table_of_values(summary), check_dtype=False, check_names=False)


def table_rows(summary):
    """The rows of a summary's tables, without their headers."""
    return [line for line in markdown(summary, None).splitlines() if re.match(r"\| (?!row |---)", line)]


@pytest.mark.slow
@every_result
def test_the_findings_quote_them(folder):
    summary, _ = summary_of(folder)
    values = with_metrics(summary, METRICS) if summary.task.is_sentiment else shown_by_default(summary)
    differences = with_metrics(summary, METRICS[:1]) if summary.task.is_sentiment else values
    rows = [line for line in table_rows(values) if "[" not in line]
    rows += [line for line in table_rows(differences) if "[" in line]
    assert len(rows) >= len(summary.rows) and all(row in FINDINGS for row in rows)


@pytest.mark.slow
def test_the_readme_quotes_the_search():
    summary, _ = summary_of(ROOT / "experiments" / "results" / "mosi_minilm_search")
    rows = {row.name: row for row in summary.rows}
    quoted = re.findall(r"^\| (text|CPSL)(.*?) \| (\.\d+) \| (.*?) \| (\.\d+) \| (\.\d+) \|$", README, flags=re.M)
    names = ["text", "method", "text after SST", "text after SST + R-Drop"]
    assert len(quoted) == len(names)
    for name, (*_, mae, interval, corr, acc2) in zip(names, quoted, strict=True):
        values = [rows[name].metrics[metric].mean() for metric in ("mae", "corr", "acc2_nonzero")]
        assert [mae, corr, acc2] == [f"{value:.3f}".lstrip("0") for value in values]
        if name != "text":
            difference = rows[name].differences["mae"]
            ends = [f"{end:+.3f}".replace("0.", ".") for end in (difference.low, difference.high)]
            assert interval == " to ".join(ends)
