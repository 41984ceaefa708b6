"""A recipe: the options of a training, from a YAML file and the command line, and the rows of ablations."""

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..configuration_cpsl import CPSLConfigMixin
from ..training.arguments import CPSLTrainingArguments
from ..training.metrics import is_better_if_greater


RECIPES = Path(__file__).parents[1] / "recipes"
SWITCHES = ("ame", "gm", "ge", "cp", "sl")
# Options that belong to one start of a run and not to the recipe that repeats it; tokens are not shown at all.
NOT_REPEATED = ("resume_from_checkpoint", "hub_token")
# The rows of the paper's table 2 and what is on in each (METHOD 11).
ABLATIONS = {
    "A0": "",
    "A1": "ame",
    "A2": "ame gm",
    "A3": "ame gm ge",
    "A4": "ame gm ge cp",
    "A5": "ame gm ge sl",
    "A6": "ame gm ge cp sl",
    "B1": "ame",
    "B2": "gm",
    "B3": "sl",
    "B4": "gm ge",
    "B5": "gm cp",
    "C1": "gm ge cp",
    "C2": "ame sl",
    "C3": "ame gm",
    "C4": "ame gm ge sl",
    "C5": "ame gm cp sl",
}


@dataclass
class DataArguments:
    """Where the data comes from and how it is prepared."""

    _argument_group_name = "data"

    dataset: str = field(
        default="sample",
        metadata={"help": "`sample` (made on the spot), `mosi`, `mosei`, or a file or folder of a known format."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Where the files of `mosi` and `mosei` are."})
    modalities: str | None = field(
        default=None,
        metadata={
            "help": "Comma-separated: text, acoustic, visual, timing (from word times) or any that the data has. "
            "Default: text and all that the data has."
        },
    )
    feature_sequences: list[str] | None = field(
        default=None,
        metadata={"help": "modality=NAME pairs that say which computational sequence is which modality."},
    )
    standardize_features: str = field(
        default="auto",
        metadata={
            "help": "Standardise feature columns with the training split's statistics; auto: where the source has "
            "not normalised them.",
            "choices": ["auto", "true", "false"],
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read samples while they are used, without a cache and, from Parquet, in constant memory; they "
            "are shuffled in a buffer. The data is read once more before training, to count it."
        },
    )
    max_length: int = field(default=50, metadata={"help": "Longest input in subwords, special tokens included."})


def _command_line_type(annotation: Any) -> Any:
    return float if annotation == float | int else annotation


# What the data or a calibration decides is no option of the command line.
DECIDED_FIELDS = ("modality_sizes", "use_text", "interval_half_widths", "interval_coverage")
ModelArguments = make_dataclass(
    "ModelArguments",
    [
        (
            "model_name_or_path",
            str,
            field(
                default="microsoft/deberta-v3-base",
                metadata={"help": "DeBERTa-v2/v3, BERT or MPNet: folder or Hub id; `sample` is a small random one."},
            ),
        ),
        (
            "ablation",
            str | None,
            field(
                default=None,
                metadata={"help": f"Row of the paper's table 2, sets {' '.join(SWITCHES)}.", "choices": [*ABLATIONS]},
            ),
        ),
        *(
            (option.name, _command_line_type(option.type), field(default=option.default, metadata=option.metadata))
            for option in fields(CPSLConfigMixin)
            if option.name not in DECIDED_FIELDS
        ),
    ],
    namespace={"_argument_group_name": "model"},
)


def parse_arguments(arguments: Sequence[str]) -> tuple[DataArguments, Any, CPSLTrainingArguments]:
    """Reads a recipe and options; raises ValueError for what is in the recipe and no option."""
    CPSLTrainingArguments._argument_group_name = "training"
    parser = HfArgumentParser((DataArguments, ModelArguments, CPSLTrainingArguments), description=__doc__)
    parser.usage = "run_train.py [RECIPE.yaml] [--field value ...]"
    recipe: list[str] = []
    if arguments and not arguments[0].startswith("-"):
        recipe, arguments = _recipe_options(find_recipe(arguments[0]), parser), arguments[1:]
    return parser.parse_args_into_dataclasses(args=[*_with_ablation(recipe), *_with_ablation(arguments)])


def _with_ablation(options: Sequence[str]) -> list[str]:
    """An ablation's switches stand before the other options of its source, which override them."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--ablation")
    row = parser.parse_known_args(options)[0].ablation
    if row not in ABLATIONS:
        return [*options]
    switched_on = ABLATIONS[row].split()
    switches = [(f"--{switch}", json.dumps(switch in switched_on)) for switch in SWITCHES]
    return [*itertools.chain(*switches), *options]


def find_recipe(name: str) -> Path:
    """The recipe of this path; where there is no such file, the package's own recipe of that name.

    `sample`, `sample.yaml` and `recipes/sample.yaml` all find the package's `recipes/sample.yaml`.
    """
    packaged = RECIPES / Path(name).with_suffix(".yaml").name
    return packaged if packaged.is_file() and not Path(name).is_file() else Path(name)


def _recipe_options(path: Path, parser: HfArgumentParser) -> list[str]:
    """A recipe's entries as command line options, so that one parser converts and checks both."""
    try:
        recipe = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a readable YAML recipe: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: a recipe is a YAML mapping of options to values")
    known = {action.dest: action for action in parser._actions}
    options: list[str] = []
    for name, value in recipe.items():
        if name == "versions":
            continue
        if name not in known:
            raise ValueError(f"{path}: {name!r} is no option; see run_train.py --help")
        if value is None and known[name].default is not None:
            raise ValueError(f"{path}: {name} cannot be null; leave it out for {known[name].default}, or give a value")
        if value is None or value == []:
            continue
        if value is False and name.endswith("_strategy"):  # YAML's word for `no`
            value = "no"
        if isinstance(value, list) and known[name].nargs is None:
            value = ",".join(map(str, value))
        if isinstance(value, list):
            options += [f"--{name}", *map(str, value)]
        else:
            options += [f"--{name}", json.dumps(value) if isinstance(value, dict | bool) else str(value)]
    return options


def recipe_of(
    data_arguments: DataArguments, model_arguments: Any, training_arguments: CPSLTrainingArguments
) -> dict[str, Any]:
    """The options as they were given; what follows from others is None, to follow them in a repetition too."""
    options = asdict(data_arguments) | asdict(model_arguments) | training_arguments.to_dict()
    metric = options["metric_for_best_model"]
    if metric is not None and options["greater_is_better"] == is_better_if_greater(metric):
        options["greater_is_better"] = None
    return {name: value for name, value in options.items() if name not in NOT_REPEATED}
