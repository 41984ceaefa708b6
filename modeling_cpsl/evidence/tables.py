"""The tables of an experiment: Markdown, LaTeX and CSV from one summary."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from data_builders.files import counted

from ..class_task_cpsl import ClassTask, LabelSetTask
from ..task_cpsl import Task
from ..training.task_metrics import metrics_of
from .contributions import contribution_metric
from .statistics import CONFIDENCE, FEWEST_SEEDS_TO_DRAW, Difference
from .summary import Row, Summary
from .waterfall import Step


# With fewer groups, a bootstrap over them covers less than it says.
_FEW_GROUPS = 20
_PERCENT = f"{CONFIDENCE * 100:.0f} %"
# A row is called better or worse where its corrected p is below this and its interval excludes 0.
_SIGNIFICANT = 0.05


def table_of_values(summary: Summary) -> pd.DataFrame:
    """Every number of a summary, a row of the experiment in each row."""
    rows = {}
    for row in summary.rows:
        values: dict[str, float] = {"runs": row.num_runs, "failed": row.num_failed}
        for name, seeds in row.metrics.items():
            values |= {f"{name}_mean": float(seeds.mean()), f"{name}_deviation": _deviation(seeds)}
            if difference := row.differences.get(name):
                values |= {
                    f"{name}_difference": difference.value,
                    f"{name}_low": difference.low,
                    f"{name}_high": difference.high,
                    f"{name}_p": difference.p,
                    f"{name}_p_corrected": row.corrected_p[name],
                    f"{name}_smallest": difference.smallest,
                }
        rows[row.name] = values | {"seconds": row.seconds, "parameters": row.parameters}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("row")


def markdown(summary: Summary, published: Mapping[str, Any] | None = None) -> str:
    """The summary as Markdown: metrics, differences from the reference, and what they can and cannot tell.

    Args:
        summary: The summary.
        published: Figures of others, which stand apart, see [`Specification`].
    """
    metrics = list(summary.rows[0].metrics)
    header = ["row", "runs", *metrics, "parameters", "seconds"]
    values = [
        [row.name, str(row.num_runs) + (f" ({row.num_failed} failed)" if row.num_failed else "")]
        + [mean_and_deviation(row.metrics[name]) for name in metrics]
        + [f"{row.parameters / 1e6:.1f} M", f"{row.seconds:.0f}"]
        for row in summary.rows
    ]
    parts = [table_lines(header, values), *_design(summary), *_left_out(summary)]
    compared = [row for row in summary.rows if row.differences]
    if compared:
        differences = [[row.name, *_differences(row, metrics, summary.task)] for row in compared]
        parts += [
            f"Differences from `{summary.reference}`, with their {_PERCENT} interval and p (corrected for "
            f"{counted(len(compared), 'row')}). A row is called better or worse only where the interval excludes 0 "
            f"and p is below {_SIGNIFICANT}. {_chance_of_training(compared)}",
            table_lines(["row", *metrics], differences),
        ]
    smallest = {name: _smallest(compared, name) for name in metrics}
    if any(smallest.values()):
        parts += [
            "This design cannot tell differences below "
            + ", ".join(f"{values} in {name}" for name, values in smallest.items() if values)
            + ": a true difference of that size is found in four of five repetitions. It depends on how unlike the "
            "reference a row is; `table.csv` has it for each.",
        ]
    parts += _waterfall(summary, metrics)
    parts += _contributions(summary)
    parts += _published(published)
    return "\n\n".join(parts) + "\n"


def latex(summary: Summary) -> str:
    """The metrics as a LaTeX table for the package booktabs: the best value is bold, the second is underlined."""
    metrics, known = list(summary.rows[0].metrics), metrics_of(summary.task)
    ranks = {
        name: _ranks([row.metrics[name].mean() for row in summary.rows], known[name].greater_is_better)
        for name in metrics
    }
    lines = [
        r"\begin{tabular}{l" + "r" * len(metrics) + "}",
        r"\toprule",
        " & ".join(["row", *(_escaped(name) for name in metrics)]) + r" \\",
        r"\midrule",
    ]
    for index, row in enumerate(summary.rows):
        cells = []
        for name in metrics:
            cell = f"{row.metrics[name].mean():.4f}"
            cell = {1: rf"\textbf{{{cell}}}", 2: rf"\underline{{{cell}}}"}.get(ranks[name][index], cell)
            spread = rf" {{\scriptsize$\pm${_deviation(row.metrics[name]):.4f}}}" if len(row.metrics[name]) > 1 else ""
            cells.append(cell + spread)
        lines.append(" & ".join([_escaped(row.name), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _design(summary: Summary) -> list[str]:
    folds = (
        "on the data's own splits"
        if summary.num_folds is None
        else "of 1 fold"
        if summary.num_folds == 1
        else f"of {summary.num_folds} folds together; models of different folds share training data, so folds are not "
        "independent"
    )
    seeds = f"{len(summary.seeds)} seed{'s' * (len(summary.seeds) > 1)}"
    mean = "mean and sample deviation" if len(summary.seeds) > 1 else "mean"
    return [
        f"{summary.num_samples} samples of the {summary.split} split in {summary.num_groups} groups, {folds}; {mean} "
        f"over {seeds}.{_protocol(summary.task)} The epoch was chosen on the validation split"
        + (", whose figures are therefore a little too good." if summary.split == "validation" else ".")
        + (" With so few groups, intervals are narrower than they should be." * (1 < summary.num_groups < _FEW_GROUPS))
        + (" One group says nothing of others, so that there are no intervals." * (summary.num_groups == 1))
    ]


def _chance_of_training(compared: Sequence[Row]) -> str:
    """Which of the figures say how much a row with another seed differs from itself."""
    num_seeds = min(difference.num_seeds for row in compared for difference in row.differences.values())
    if num_seeds < FEWEST_SEEDS_TO_DRAW:
        return (
            f"With {counted(num_seeds, 'seed')} both are about these trained models: the same row with another seed "
            "may differ as much."
        )
    return "Seeds are drawn in the interval; p is about these trained models."


def _left_out(summary: Summary) -> list[str]:
    if not summary.left_out:
        return []
    number = sum(summary.left_out.values())
    rows = ", ".join(f"`{name}`" for name in summary.left_out)
    return [
        f"Left out {'is' if number == 1 else 'are'} {counted(number, 'finished run')} of {rows}: rows are compared "
        "over the folds that all of them have, and over seeds that have all of these."
    ]


def _protocol(task: Task) -> str:
    """What is to be known of a task's metrics, as sentences behind others."""
    if task.is_sentiment:
        return (
            " `*_nonzero` leaves out samples with a label of exactly 0, as MAG-BERT and ITHP do; all other columns "
            "have all samples, and `*_has0` counts a label of 0 as positive, as MMSA does."
        )
    if isinstance(task, ClassTask):
        return (
            f" Of the {len(task.names)} classes, `uar` is the mean recall, `f1_macro` the mean F1 and `f1_weighted` "
            "that by their number of samples."
        )
    if isinstance(task, LabelSetTask):
        return (
            f" A sample may have several of {len(task.names)} classes: `accuracy` and `f1_micro` are of all decisions "
            "on a class, `exact_match` is of samples, `uar` the mean recall of having and of lacking each class, and "
            "`f1_macro` and `f1_weighted` are means over classes."
        )
    if not task.is_one_number:
        return f" Metrics are means over {', '.join(task.names)}."
    if task.is_sims:
        return " Metrics are MMSA's for CH-SIMS, which clips predictions to [-1, 1]; a label of 0 is not positive."
    return ""


def _waterfall(summary: Summary, metrics: Sequence[str]) -> list[str]:
    if summary.waterfall is None:
        return []
    steps = summary.waterfall.steps
    rows = [[step.name, step.before, *_differences(step, metrics, summary.task)] for step in steps]
    return [
        f"Ingredient by ingredient: differences of each row from the one before, with their {_PERCENT} interval and p "
        f"(corrected for {counted(len(steps), 'step')}).",
        table_lines(["row", "from", *metrics], rows),
    ]


def _contributions(summary: Summary) -> list[str]:
    if not summary.contributions:
        return []
    rows = []
    for each in summary.contributions:
        shapley = f"{each.shapley:+.4f} [{each.low:+.4f}, {each.high:+.4f}]"
        rows.append([each.modality, f"{each.alone:.4f}", f"{each.last:+.4f}", shapley])
    metric = contribution_metric(summary.task)
    together = f"the `{metric}` of all together"
    if metric != "corr":
        together = f"what {together} is above that of one answer for all samples"
    return [
        f"What each modality contributes to `{metric}`: alone; added to all others; and its Shapley "
        "value, the mean gain over all orders in which the modalities can be added. The last add up to "
        f"{together}.",
        table_lines(["modality", "alone", "added last", "Shapley value"], rows),
    ]


def _published(published: Mapping[str, Any] | None) -> list[str]:
    if not published:
        return []
    systems = published["systems"]
    names = list(dict.fromkeys(name for figures in systems.values() for name in figures))
    rows = [[system, *(_figure(figures.get(name)) for name in names)] for system, figures in systems.items()]
    return [
        f"Published figures, not ours and not on the same ground: {published['source']}",
        table_lines(["system", *names], rows),
    ]


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value or "")


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean_and_deviation(values: np.ndarray) -> str:
    """`mean ± sample deviation` of values (N,), or for a single one the value alone."""
    return f"{values.mean():.4f}" + (f" ± {_deviation(values):.4f}" if len(values) > 1 else "")


def _deviation(values: np.ndarray) -> float:
    """The sample deviation; NaN for one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _differences(compared: Row | Step, metrics: Sequence[str], task: Task) -> list[str]:
    known = metrics_of(task)
    return [
        _difference(compared.differences[name], compared.corrected_p[name], known[name].greater_is_better)
        for name in metrics
    ]


def _difference(difference: Difference, p: float, greater_is_better: bool) -> str:
    if np.isnan(difference.low):
        return f"{difference.value:+.4f}, p {p:.3f}"
    verdict = ""
    if difference.is_clear and p < _SIGNIFICANT:
        verdict = "better, " if (difference.value > 0) == greater_is_better else "worse, "
    return f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}], {verdict}p {p:.3f}"


def _smallest(rows: Sequence[Row], metric: str) -> str:
    """The smallest difference that can be told, or the range of it over the rows; empty where nothing is known of it.

    A row that predicts what the reference does says nothing of it, nor does a single group.
    """
    values = [row.differences[metric].smallest for row in rows]
    values = [value for value in values if value > 0]
    return " to ".join(dict.fromkeys(f"{end(values):.3f}" for end in (min, max))) if values else ""


def _ranks(values: Sequence[float], greater_is_better: bool) -> list[int]:
    """1 for the best value, 2 for the second; equal values have the same rank."""
    ordered = sorted(set(values), reverse=greater_is_better)
    return [ordered.index(value) + 1 for value in values]


def _escaped(text: str) -> str:
    return text.replace("_", r"\_")


__all__ = ["latex", "markdown", "mean_and_deviation", "table_lines", "table_of_values"]
