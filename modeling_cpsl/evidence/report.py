"""Every table and figure of an experiment, made from its records."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_builders.command_line import did_you_mean
from data_builders.files import DataError, replacing_file

from .figures import FOREST_PLOT, WATERFALL_PLOT, plot_curves, plot_forest, plot_waterfall
from .finished_runs import compare_runs, standard_split
from .records import FINISHED, read_records, split_to_report, write_table_of_records
from .specification import PlannedRun, Specification, saved_specification
from .summary import shown_by_default, summarize, with_metrics
from .tables import latex, markdown, table_lines, table_of_values


def write_report(
    folder: str | os.PathLike,
    *,
    split: str | None = None,
    reference: str | None = None,
    metrics: Sequence[str] | None = None,
) -> str:
    """Writes `table.md`, `table.tex`, `table.csv`, `records.parquet` and the figures.

    Nothing is trained and no data is needed.

    Args:
        folder: The `output_dir` of an experiment, with its records and its `specification.yaml`.
        split: The split to report on, by any name that data may have for it. Default: test, or validation without one.
        reference: The row that the others are compared with. Default: the specification's.
        metrics: Names of metrics. Default: all in `table.csv`, elsewhere those of no single class or target.

    Returns:
        The contents of `table.md`.

    Raises:
        ValueError: There is no record, or no such row, split or metric.
    """
    folder = Path(folder)
    records = read_records(folder)
    specification = saved_specification(folder)
    reference = reference or specification.reference
    if reference not in specification.rows:
        meant = did_you_mean(reference, specification.rows)
        raise DataError(f"reference {reference!r} is not a row{meant}; the rows are {', '.join(specification.rows)}")
    split = split_to_report(records) if split is None else standard_split(split)
    steps = specification.waterfall or ()
    everything = summarize(records, list(specification.rows), reference, split=split, steps=steps)
    if metrics is None:
        summary = shown_by_default(everything)
    else:
        summary = everything = with_metrics(everything, metrics)
    write_table_of_records(records, folder)
    text = markdown(summary, specification.published) + _missing_runs(records, specification)
    texts = {"table.md": text, "table.tex": latex(summary), "table.csv": table_of_values(everything).to_csv()}
    for name, content in texts.items():
        with replacing_file(folder / name) as path:
            path.write_text(content, encoding="utf-8")
    if any(row.differences for row in summary.rows):
        plot_forest(summary, folder / FOREST_PLOT)
    if summary.waterfall is not None:
        plot_waterfall(summary, folder / WATERFALL_PLOT)
    plot_curves(records, [row.name for row in summary.rows], folder)
    return text


def _missing_runs(records: Sequence[Mapping[str, Any]], specification: Specification) -> str:
    """A line on planned runs that have not finished; nothing where all have."""
    finished = {
        PlannedRun(record["row"], record["seed"], record["fold"]) for record in records if record["status"] == FINISHED
    }
    planned = specification.planned_runs()
    missing = [run.name for run in planned if run not in finished]
    if not missing:
        return ""
    names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return f"\n{len(planned) - len(missing)} of {len(planned)} planned runs have finished; missing: {names}.\n"


def report_on_runs(
    runs: Sequence[str | os.PathLike], split: str = "test", metrics: Sequence[str] | None = None
) -> str:
    """The table of finished runs in Markdown, see [`compare_runs`]; nothing is written."""
    table = compare_runs(runs, split, metrics)
    rows = [[name, *map(str, values)] for name, values in zip(table.index, table.to_numpy().tolist(), strict=True)]
    return table_lines(["row", *table.columns], rows)


__all__ = ["report_on_runs", "write_report"]
