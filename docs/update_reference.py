"""Writes the tables of options into docs/reference.md, from the help texts that `cpsl train --help` shows.

Run it where an option has changed: `python docs/update_reference.py`. A test fails while the page is out of date.
"""

import dataclasses
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from modeling_cpsl.architectures_cpsl import ARCHITECTURES
from modeling_cpsl.experiments.data_arguments import DataArguments
from modeling_cpsl.experiments.recipe import WITHOUT_EFFECT, ModelArguments
from modeling_cpsl.training.arguments import CPSLTrainingArguments
from modeling_cpsl.training.fine_tuning_arguments import FineTuningArguments
from modeling_cpsl.training.metrics import METRICS


PAGE = Path(__file__).with_name("reference.md")


def render(page: str) -> str:
    """The text of the page with its generated parts made anew."""
    parts = {"options": _options(), "architectures": _architectures(), "metrics": _metrics()}
    for name, text in parts.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n"
        before, _, rest = page.partition(begin)
        after = rest.partition(end)[2]
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def _options() -> str:
    own = inspect.get_annotations(CPSLTrainingArguments) | inspect.get_annotations(FineTuningArguments)
    training = {option.name: option for option in dataclasses.fields(CPSLTrainingArguments)}
    changed = [name for name in own if name in {option.name for option in dataclasses.fields(TrainingArguments)}]
    added = [name for name in own if name not in changed]
    left_out = {*own, *WITHOUT_EFFECT}
    inherited = sorted(f"`{name}`" for name, option in training.items() if name not in left_out and option.init)
    groups = {
        "Data": dataclasses.fields(DataArguments),
        "Model": dataclasses.fields(ModelArguments),
        "Gradient modulation and training": [training[name] for name in added],
        "Options of transformers with another default or meaning": [training[name] for name in changed],
    }
    tables = [f"#### {title}\n\n{_table(options)}" for title, options in groups.items()]
    rest = "#### Other options of transformers' `TrainingArguments`\n\n" + _wrapped(inherited)
    return "\n\n".join([*tables, rest]) + "\n"


def _architectures() -> str:
    own = ARCHITECTURES["cpsl"].config_fields
    sections = []
    for name, architecture in ARCHITECTURES.items():
        if name == "cpsl":
            continue
        after = f", after {architecture.reference}" if architecture.reference else ""
        read = ", ".join(f"`{field}`" for field in sorted(own & architecture.config_fields))
        text = textwrap.fill(f"{architecture.title}{after}. Reads {read}.", 120, break_on_hyphens=False)
        options = dataclasses.fields(architecture.Options)
        table = _table(options, prefix="") if options else "No options of its own."
        sections.append(f"#### `{name}`\n\n{text}\n\n{table}")
    return "\n\n".join(sections) + "\n"


def _table(options: Any, prefix: str = "--") -> str:
    rows = ["| option | default | |", "|---|---|---|"]
    rows += [f"| `{prefix}{option.name}` | {_default(option)} | {_help(option)} |" for option in options]
    return "\n".join(rows)


def _default(option: dataclasses.Field) -> str:
    return "" if option.default is None else f"`{option.default}`"


def _help(option: dataclasses.Field) -> str:
    text = " ".join(option.metadata["help"].split())
    if choices := option.metadata.get("choices"):
        text = f"{text.rstrip('.')}. One of {', '.join(f'`{choice}`' for choice in choices)}."
    return text.replace("|", r"\|")


def _wrapped(names: list[str]) -> str:
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > 115:
            lines.append("")
        lines[-1] += f"{name}, "
    return "\n".join(line.rstrip() for line in lines).rstrip(",")


def _metrics() -> str:
    names: dict[str, str] = {}  # of functions, which mention each other
    for name, metric in METRICS.items():
        names.setdefault(metric.function.__name__, name)
    rows = ["| name | samples | better | definition |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        samples = {"all": "all", "nonzero": "label is not 0"}[metric.samples]
        better = "greater" if metric.greater_is_better else "less"
        summary = " ".join(inspect.getdoc(metric.function).partition("\n\n")[0].split())
        summary = re.sub(r"\[`(\w+)`\]", lambda match: f"`{names[match[1]]}`", summary)
        rows.append(f"| `{name}` | {samples} | {better} | {summary} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
