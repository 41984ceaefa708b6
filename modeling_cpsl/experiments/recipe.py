"""A recipe: the options of a training, read from a YAML file and a command line; and the ablations of the paper."""

import argparse
import itertools
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, field, fields, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from transformers import HfArgumentParser

from data_builders.command_line import CommandParser, UsageError, did_you_mean
from data_builders.files import DataError, broken_files_are_data_errors, one_line

from ..architectures_cpsl import ARCHITECTURES
from ..configuration_cpsl import FITTED_FIELDS, CPSLConfigMixin
from ..modulation import RULES
from ..modulation.rules import ConflictAware
from ..training.arguments import CPSLTrainingArguments
from ..training.metrics import is_better_if_greater
from .data_arguments import DataArguments


RECIPES = Path(__file__).parents[1] / "recipes"
# The parts of the method that can be switched off, in the paper's order, and what they are called.
SWITCHES = {
    "ame": "adaptive modality encoding (AME)",
    "gm": "gradient modulation (GM)",
    "ge": "gradient enhancement (GE)",
    "cp": "conflict-aware penalty (CP)",
    "sl": "statistical loss (SL)",
}
# Those that balance modalities by the errors of their own predictions.
BALANCING = ("gm", "ge", "cp")
# The rows of the paper's table 2: what is on in each.
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
# Options that are not saved in the recipe that repeats a run; tokens must never be written down.
_NOT_REPEATED = ("resume_from_checkpoint", "hub_token")
# Options of earlier versions, which are refused unless they are off, and what has taken their place.
RENAMED = {"modality_dropout": "modality_masking=uniform with modality_masking_options probability=P"}
# Options of transformers that do nothing here: they are accepted, but no help shows them.
WITHOUT_EFFECT = ("do_train", "do_eval", "do_predict", "hub_always_push", "length_column_name", "use_cache")


def _mapping(text: str) -> dict[str, Any]:
    """A mapping in JSON, as the command line takes one; an empty text is an empty one."""
    try:
        mapping = json.loads(text or "{}")
    except ValueError:
        mapping = None
    if not isinstance(mapping, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a mapping in JSON, as '{{\"dropout\": 0.3}}' is")
    return mapping


def _command_line_type(annotation: Any) -> Any:
    return {float | int: float, dict[str, Any] | None: _mapping}.get(annotation, annotation)


# The data and the calibration decide these fields, not the command line.
_DECIDED_FIELDS = ("modality_sizes", "use_text", "label_ranges", "class_weights", *FITTED_FIELDS)
ModelArguments = make_dataclass(
    "ModelArguments",
    [
        (
            "model_name_or_path",
            str,
            field(
                default="microsoft/deberta-v3-base",
                metadata={
                    "help": "Text encoder, DeBERTa-v2/v3, BERT or MPNet, or a trained CPSL model, which is trained "
                    "further: a folder or Hub id; `sample`: a small encoder with random weights."
                },
            ),
        ),
        (
            "ablation",
            str | None,
            field(
                default=None,
                metadata={"help": f"Row of the paper's table 2; sets {' '.join(SWITCHES)}.", "choices": [*ABLATIONS]},
            ),
        ),
        *(
            (option.name, _command_line_type(option.type), field(default=option.default, metadata=option.metadata))
            for option in fields(CPSLConfigMixin)
            if option.name not in _DECIDED_FIELDS
        ),
    ],
    namespace={"_argument_group_name": "model"},
)


class Recipe(NamedTuple):
    """All options of a training."""

    data: DataArguments
    model: Any
    training: CPSLTrainingArguments

    def resolved(self) -> dict[str, Any]:
        """The options as a recipe that repeats the run.

        An option whose default follows from others stays None, so that it follows them in the repetition too.
        """
        options = asdict(self.data) | asdict(self.model) | self.training.to_dict()
        metric = options["metric_for_best_model"]
        if metric is not None and options["greater_is_better"] == is_better_if_greater(metric):
            options["greater_is_better"] = None
        return {name: value for name, value in options.items() if name not in _NOT_REPEATED}


class _RecipeParser(HfArgumentParser, CommandParser):
    """transformers' parser for dataclasses, with one spelling of options."""

    renamed_options = RENAMED


def parse_arguments(arguments: Sequence[str]) -> Recipe:
    """Reads the command line of `cpsl train`: `[RECIPE] [--option value ...]`; its options override the recipe's.

    Raises:
        UsageError: There is no argument, or one is unknown or has a wrong value.
        ValueError: The recipe does not exist or holds something else than options, or options contradict each other.
    """
    parser = _recipe_parser()
    if not arguments:
        parser.error(f"name a recipe: a YAML file, or one of {', '.join(packaged_recipes())}")
    if arguments[0].startswith("-"):
        return _parse(parser, arguments)
    return _parse(parser, _recipe_arguments(find_recipe(arguments[0]), parser), arguments[1:])


def read_recipe(recipe: str | os.PathLike, *, arguments: Sequence[str] = (), **options: Any) -> Recipe:
    """Reads a recipe, with options that override its own.

    Args:
        recipe: A YAML file, or the name of a packaged recipe.
        arguments: Options as on the command line of `cpsl train`, which override the others.
        **options: Options of `cpsl train`, such as `seed=1`. None takes back what the recipe has set.

    Raises:
        UsageError: One of `arguments` is unknown or has a wrong value.
        ValueError: As for [`parse_arguments`].
    """
    parser = _recipe_parser()
    taken_back = {name for name, value in options.items() if value is None}
    sources = [
        _recipe_arguments(find_recipe(recipe), parser, without=taken_back),
        _as_arguments(options, parser, source="options"),
    ]
    return _parse(parser, *sources, arguments)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuses options that no recipe could have; UsageError where one is unknown or has a wrong value."""
    _recipe_parser().parse_args(arguments)


def packaged_recipes() -> list[str]:
    """The names of the recipes in the package, such as `mosi` and `baselines/mag`."""
    files = [*sorted(RECIPES.glob("*.yaml")), *sorted(RECIPES.glob("baselines/*.yaml"))]
    return [path.relative_to(RECIPES).with_suffix("").as_posix() for path in files]


def find_recipe(name: str | os.PathLike) -> Path:
    """The recipe file of this path; where there is no such file, the packaged recipe of that name.

    `sample`, `sample.yaml` and `recipes/sample.yaml` all find the packaged `sample`.

    Raises:
        ValueError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = packaged_recipes()
    name_inside = path.as_posix().removeprefix(f"{RECIPES.name}/").removesuffix(".yaml")
    if name_inside in packaged:
        return RECIPES / f"{name_inside}.yaml"
    raise ValueError(
        f"{name}: there is no such recipe{did_you_mean(path.stem, packaged) or '; name a YAML file'} "
        f"(packaged recipes: {', '.join(packaged)})"
    )


def switched_on(recipe: Mapping[str, Any], num_modalities: int) -> list[str]:
    """The parts of the method that take part in a training: with too few modalities some cannot, whatever is asked.

    Args:
        recipe: All options by name.
        num_modalities: Number of modalities beside text.
    """
    architecture = ARCHITECTURES[recipe["architecture"]]
    num_modulated = len(recipe["modulated_modalities"] or range(num_modalities))
    possible = {name: num_modalities > 0 and name in architecture.config_fields for name in ("ame", "sl")}
    rule, compares = RULES[recipe["balance"]], num_modulated > 1 and architecture.has_unimodal_heads
    possible |= dict.fromkeys(("gm", "cp"), compares and issubclass(rule, ConflictAware))
    possible |= {"ge": compares and rule.enhances}
    return [name for name in SWITCHES if recipe[name] and possible[name]]


def _recipe_parser() -> _RecipeParser:
    CPSLTrainingArguments._argument_group_name = "training"
    parser = _RecipeParser(  # type: ignore[call-arg]  # its first base is transformers', which mypy does not follow
        (DataArguments, ModelArguments, CPSLTrainingArguments),
        prog="cpsl train",
        usage="cpsl train RECIPE [--option value ...]",
        description="Train and evaluate a model from a recipe: a YAML file of the options below, or the name of a "
        f"packaged one ({', '.join(packaged_recipes())}). Options on the command line override the recipe's.",
    )
    for action in parser._actions:
        if action.dest in WITHOUT_EFFECT:
            action.help = argparse.SUPPRESS
    return parser


def _parse(parser: _RecipeParser, *sources: Sequence[str]) -> Recipe:
    """Parses arguments, of which the later sources override the earlier ones."""
    arguments = list(itertools.chain.from_iterable(map(_with_ablation, sources)))
    try:
        recipe = Recipe(*parser.parse_args_into_dataclasses(arguments, look_for_args_file=False))
    except (ValueError, OSError):
        raise
    except Exception as error:  # transformers' arguments raise anything
        raise ValueError(
            f"an option has a value that cannot be used ({one_line(error)}); `cpsl train --help` says what each takes"
        ) from error
    for part in recipe:
        for option in fields(part):  # an empty text takes back what a recipe has set
            if option.default is None and getattr(part, option.name) in ("", [""]):
                setattr(part, option.name, None)
    if not ARCHITECTURES[recipe.model.architecture].has_unimodal_heads:
        if recipe.training.decision_weights:
            raise ValueError(
                "decision_weights: it weighs predictions from one modality alone, and architecture="
                f"{recipe.model.architecture!r} has none; leave it out"
            )
        _switch_balancing_off(recipe, arguments)
    return recipe


def _switch_balancing_off(recipe: Recipe, arguments: Sequence[str]) -> None:
    """Switches off what an architecture without unimodal heads cannot have; ValueError where it was asked for."""
    rule = recipe.training.balance_rule
    if not rule.balances or "contributions" in rule.needs:
        return
    given = {argument.partition("=")[0].lstrip("-") for argument in arguments if argument.startswith("--")}
    switches = BALANCING if recipe.training.balance == "cpsl" else ()
    for name in ("balance", *switches, "modulated_modalities"):
        if name in given and getattr(recipe.training, name):
            raise ValueError(
                f"{name}: modulation compares predictions from one modality alone, and architecture="
                f"{recipe.model.architecture!r} has none; leave it out, or set --balance none"
            )
    recipe.training.balance = "none"


def _with_ablation(arguments: Sequence[str]) -> list[str]:
    """Puts an ablation's switches in front of the other options of its source, which override them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--ablation")
    row = parser.parse_known_args(arguments)[0].ablation
    if row not in ABLATIONS:
        return [*arguments]
    on = ABLATIONS[row].split()
    switches = [(f"--{switch}", json.dumps(switch in on)) for switch in SWITCHES]
    return [*itertools.chain(*switches), *arguments]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without what a reader of the file would not expect.

    Without aliases, by which a file of 500 bytes stands for 10 billion values, and without a key that stands twice, of
    which YAML takes the last.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As PyYAML's; a YAMLError where a node is an alias."""
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise yaml.MarkedYAMLError(problem=f"alias *{alias.anchor}", problem_mark=alias.start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As PyYAML's; a DataError where a key stands twice."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], Any] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and first.setdefault((key.tag, key.value), key) is not key:
                lines = [each.start_mark.line + 1 for each in (key, first[key.tag, key.value])]
                raise DataError(
                    f"{self.name}: line {lines[0]}: {key.value!r} is there already, in line {lines[1]}; remove one of "
                    "them"
                )
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """The options in a YAML file.

    Raises:
        DataError: It is not a mapping in YAML, or has aliases or a key twice.
    """
    with broken_files_are_data_errors(path, "YAML recipe", way_out="correct it; aliases (*name) are not read"):
        loader = _Loader(path.read_text(encoding="utf-8"))
        loader.name = str(path)
        recipe = loader.get_single_data()
    if not isinstance(recipe, dict):
        raise DataError(f"{path}: a recipe is a YAML mapping of options to values")
    return recipe


def _recipe_arguments(path: Path, parser: _RecipeParser, without: Collection[str] = ()) -> list[str]:
    """A recipe file's entries as command line arguments, without those of some names."""
    left_out = {"versions", *without}  # the versions are what a finished run notes beside its options
    recipe = {name: value for name, value in read_yaml(path).items() if name not in left_out}
    return _as_arguments(recipe, parser, source=str(path))


def _as_arguments(options: Mapping[str, Any], parser: _RecipeParser, *, source: str) -> list[str]:
    """Options by name as command line arguments, so that one parser converts and checks both."""
    known = {action.dest: action for action in parser._actions}
    arguments: list[str] = []
    for name, value in options.items():
        if name in RENAMED:
            if value == 0:
                continue
            raise ValueError(f"{source}: {name} is now {RENAMED[name]}")
        if name not in known:
            meant = did_you_mean(str(name), known)
            raise ValueError(f"{source}: {name!r} is not an option{meant} (cpsl train --help lists them)")
        if value is None and known[name].default is not None:
            raise ValueError(
                f"{source}: {name} cannot be null; leave it out for {known[name].default}, or give a value"
            )
        if value is None or value == []:
            continue
        if value is False and name.endswith("_strategy"):  # YAML's word for `no`
            value = "no"
        if isinstance(value, list) and known[name].nargs is None:
            value = ",".join(map(str, value))
        if isinstance(value, dict) and known[name].nargs is not None:
            value = [f"{option}={setting}" for option, setting in value.items()]
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        else:
            arguments += [f"--{name}", json.dumps(value) if isinstance(value, dict | bool) else str(value)]
    try:
        parser.parse_args(arguments)
    except UsageError as error:
        raise ValueError(f"{source}: {error}") from error
    return arguments


__all__ = [
    "ABLATIONS",
    "RECIPES",
    "SWITCHES",
    "WITHOUT_EFFECT",
    "ModelArguments",
    "Recipe",
    "check_arguments",
    "find_recipe",
    "packaged_recipes",
    "parse_arguments",
    "read_recipe",
    "read_yaml",
    "switched_on",
]
