"""The one list of tasks: what a label may be, by transformers' `problem_type`, and which of them a model has.

What depends on what a label is (shapes, losses, errors, checks of labels, results and their uncertainty) asks the
[`Task`] of the model's configuration, [`task_of`].
"""

import math

from transformers import PreTrainedConfig

from .class_task_cpsl import ClassTask, LabelSetTask
from .number_task_cpsl import UNBOUNDED, NumberTask, Range
from .task_cpsl import SENTIMENT_NAME, SENTIMENT_RANGE, Task


TASKS: dict[str, type[Task]] = {task.problem_type: task for task in (NumberTask, ClassTask, LabelSetTask)}
# What a model predicts that says nothing else.
SENTIMENT = NumberTask((SENTIMENT_NAME,))


def task_of(config: PreTrainedConfig) -> Task:
    """The task of a model with this configuration."""
    names = tuple(config.id2label[place] for place in range(config.num_labels))
    kind = TASKS[config.problem_type]
    if not issubclass(kind, NumberTask):
        given = config.class_weights or {}
        return kind(names, weights=tuple(given[name] for name in names) if given else ())
    return NumberTask(names, ranges=tuple(_range_of(name, config) for name in names))


def check_task(config: PreTrainedConfig) -> None:
    """Refuses a configuration that does not say what a label is, or says it in contradictions.

    Raises:
        ValueError: `problem_type` is unknown or lacks names in `id2label`, or `label_ranges` or `class_weights` do not
            fit them.
    """
    problem_type, names = config.problem_type, list(config.id2label.values())
    if problem_type not in TASKS:
        raise ValueError(f"problem_type={problem_type!r} is unknown; choose one of {', '.join(TASKS)}")
    if wrong := [name for name in names if not isinstance(name, str) or not name]:
        raise ValueError(f"id2label={config.id2label}: a name must be a text, not {wrong[0]!r}")
    fewest = TASKS[problem_type].fewest_names
    if len(names) < fewest or sorted(config.id2label) != list(range(len(names))) or len({*names}) < len(names):
        raise ValueError(
            f"problem_type={problem_type!r} with id2label={config.id2label}: it needs the names of at least {fewest} "
            "classes, each once, numbered from 0"
        )
    are_numbers = problem_type == NumberTask.problem_type
    for field, fits in (("label_ranges", are_numbers), ("class_weights", not are_numbers)):
        given = getattr(config, field) or {}
        if given and not fits:
            raise ValueError(f"{field}={given} has no effect with problem_type={problem_type!r}; leave it out")
        if unknown := given.keys() - {*names}:
            raise ValueError(f"{field}: {', '.join(sorted(unknown))} is none of {', '.join(names)}")
    for name, bounds in (config.label_ranges or {}).items():
        if len(bounds) != 2 or not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError(f"label_ranges: {name} has {bounds}; give its least and its greatest label")
    if weights := config.class_weights:
        if missing := [name for name in names if name not in weights]:
            raise ValueError(f"class_weights: there is none for {', '.join(missing)}")
        if wrong := [name for name, weight in weights.items() if not 0.0 <= weight < math.inf]:
            raise ValueError(f"class_weights: {wrong[0]} has {weights[wrong[0]]}; it must be finite and at least 0")


def _range_of(name: str, config: PreTrainedConfig) -> Range:
    """The range that is given for a number; else that of a sentiment, for the only number or one of that name."""
    if name in (config.label_ranges or {}):
        low, high = config.label_ranges[name]
        return float(low), float(high)
    return SENTIMENT_RANGE if config.num_labels == 1 or name == SENTIMENT_NAME else UNBOUNDED


__all__ = ["SENTIMENT", "TASKS", "check_task", "task_of"]
