"""What a training run prints: the model, one progress bar, one line an epoch, the results, and where things are.

Everything else is in `training_log.jsonl`. Of several processes only the main one prints.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TextIO

import datasets
import huggingface_hub
import transformers
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback

from data_builders.files import counted, one_line

from ..architectures_cpsl import ARCHITECTURES
from ..training.embedding_rows import PartlyTrainedEmbedding
from ..training.labels import task_of_model
from ..training.trainer import CPSLTrainer
from .recipe import SWITCHES, switched_on
from .records import results_table


logger = logging.getLogger(__name__)

# The metrics that an epoch's line shows where the task has them, beside the one that chooses the best epoch.
EPOCH_METRICS = ("mae", "corr", "acc7", "acc2_nonzero", "ccc", "accuracy", "uar", "f1_macro", "f1_weighted")


class Console(TrainerCallback):
    """Prints a run, in the place of Trainer's own progress bars and printed logs, within a `with` block.

    Args:
        trainer: The trainer of the run.
        options: All options of the run by name.
    """

    def __init__(self, trainer: CPSLTrainer, options: Mapping[str, Any]):
        self.trainer, self.options = trainer, options
        self._bar: tqdm | None = None
        self._columns: dict[str, list[str]] = {"training": [], "validation": []}
        self._training_losses: dict[str, float] = {}

    def __enter__(self) -> Self:
        for callback in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
            self.trainer.remove_callback(callback)
        self.trainer.add_callback(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._close_bar()
        self.trainer.remove_callback(self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Says what is trained and where a resumed training goes on, and opens the bar, which only terminals show."""
        if state.is_world_process_zero:
            print(model_summary(self.trainer.model, self.options))
            if state.global_step:
                place = f"step {state.global_step} of {state.max_steps}, epoch {_rounded(state.epoch)}"
                print(f"resumed from {args.resume_from_checkpoint}: {place}")
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="training",
                unit="step",
                disable=True if args.disable_tqdm else None,
                dynamic_ncols=True,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Moves the progress bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keeps the epoch's training losses for its line, which waits for the evaluation."""
        if logs and "train_task_loss" in logs:
            names = [name for name in logs if name.startswith("train_") and name.endswith("loss")]
            self._training_losses = {_short_name(name): logs[name] for name in names}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Prints the epoch's line."""
        best_by = (args.metric_for_best_model or EPOCH_METRICS[0]).removeprefix("eval_")
        names = dict.fromkeys(["loss", *EPOCH_METRICS, best_by])
        shown = {_short_name(name): metrics[f"eval_{name}"] for name in names if f"eval_{name}" in metrics}
        self._print_row(state, shown, is_best=_is_best(metrics, args, state))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prints the line of an epoch that no evaluation followed."""
        if self._training_losses:
            self._print_row(state, {})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prints what is left, and closes the progress bar."""
        if self._training_losses:
            self._print_row(state, {})
        self._close_bar()
        patience = self.trainer.args.early_stopping_patience
        if state.is_world_process_zero and state.global_step < state.max_steps and patience is not None:
            evaluations = counted(patience, "evaluation")
            print(f"stopped at epoch {_rounded(state.epoch)}: {evaluations} without a better model")

    def report(self, metrics: Mapping[str, float], splits: Sequence[str]) -> None:
        """Prints the results, which model was kept, and where everything is."""
        if not self.trainer.is_world_process_zero():
            return
        if splits:
            print(results_table(metrics, splits, task_of_model(self.trainer.unwrapped_model)))
        print(f"kept: {kept_model(self.trainer.args, self.trainer.state)}")
        print(f"model, results, predictions, plots and model card are in {self.trainer.args.output_dir}")

    def _print_row(self, state: TrainerState, validation: dict[str, float], is_best: bool = False) -> None:
        values = {"training": self._training_losses, "validation": validation}
        self._training_losses = {}
        if not state.is_world_process_zero:
            return
        columns = {split: list(dict.fromkeys([*names, *values[split]])) for split, names in self._columns.items()}
        if columns != self._columns:
            self._columns = columns
            self._print(_header(columns))
        cells = [f"{_rounded(state.epoch)}/{state.num_train_epochs}".rjust(_EPOCH_WIDTH)]
        for split, names in columns.items():
            cells += [
                (f"{values[split][name]:.3f}" if name in values[split] else "").rjust(_width(name)) for name in names
            ]
        self._print(" ".join([*cells, *(["best"] if is_best else [])]).rstrip())

    def _print(self, text: str) -> None:
        if self._bar is None:
            print(text)
        else:
            self._bar.write(text)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def model_summary(model: transformers.PreTrainedModel, options: Mapping[str, Any]) -> str:
    """The size of a model, what of it is trained, its modalities with the text encoder, and which parts of the method
    are on.

    Args:
        model: A CPSL model, as it is trained.
        options: All options of the run by name.
    """
    config = model.config
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    embedding, rows = model.get_input_embeddings(), ""
    if isinstance(embedding, PartlyTrainedEmbedding):
        total -= embedding.trained.numel()  # which the table has as well
        rows = f" (of {len(embedding.weight):,} embeddings the {len(embedding.rows):,} that occur)"
    modalities = [f"text ({options['model_name_or_path']})"] if config.use_text else []
    modalities += [f"{name} ({counted(size, 'value')} a word)" for name, size in config.modality_sizes.items()]
    on = switched_on(options, len(config.modality_sizes))
    off = [name for name in SWITCHES if name not in on]
    peer = "" if config.architecture == "cpsl" else f"architecture: {_architecture(config.architecture)}\n"
    method = [f"{' '.join(names).upper()} {state}" for names, state in ((on, "on"), (off, "off")) if names]
    return (
        f"model: {type(model).__name__}, {total:,} parameters, "
        f"{'all' if trained == total else f'{trained:,}'} of them trained{rows}\n"
        f"modalities: {', '.join(modalities)}\n{peer}"
        f"method: {', '.join(method)}{_balance(options)}"
    )


def _balance(options: Mapping[str, Any]) -> str:
    """Names a rule other than CPSL's, whose parts are switches."""
    if options["balance"] == "cpsl":
        return ""
    settings = ", ".join(f"{name}={value}" for name, value in (options["balance_options"] or {}).items())
    return f"\nbalance: {options['balance']}" + (f" ({settings})" if settings else "")


def _architecture(name: str) -> str:
    architecture = ARCHITECTURES[name]
    return architecture.title + (
        "" if architecture.has_unimodal_heads else "; it has no unimodal heads, so nothing is balanced"
    )


def kept_model(args: TrainingArguments, state: TrainerState) -> str:
    """Which epoch's model a run has kept, in words."""
    if not args.load_best_model_at_end or state.best_global_step is None:
        return f"the model of the last epoch ({_rounded(state.epoch)})"
    metric = args.metric_for_best_model.removeprefix("eval_")
    best = next(row for row in state.log_history if row["step"] == state.best_global_step and f"eval_{metric}" in row)
    value = best[f"eval_{metric}"]
    return f"the model of epoch {_rounded(best['epoch'])}, the best by validation {metric} ({value:.4f})"


@contextlib.contextmanager
def quiet_libraries(is_main_process: bool = True) -> Iterator[None]:
    """Without the progress bars of transformers and datasets, and with each warning once, on a line of its own.

    Downloads from the Hub keep their bars.

    Args:
        is_main_process: False on the other processes of a run, which log errors only.
    """
    library_logging = transformers.utils.logging
    had_bars = library_logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    library_logging.disable_progress_bar()
    huggingface_hub.utils.enable_progress_bars()  # transformers' switch turned these off too
    datasets.disable_progress_bars()
    loggers = [logging.getLogger(name) for name in ("transformers", "datasets", "data_builders", "modeling_cpsl")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            _show_warnings_once()
            if not is_main_process:
                warnings.simplefilter("ignore")
                for logger in loggers:
                    logger.setLevel(logging.ERROR)
            yield
    finally:
        if had_bars[0]:
            library_logging.enable_progress_bar()
        if had_bars[1]:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _show_warnings_once() -> None:
    """Logs one warning of each place in the code; Python shows it again where its text has another number in it.

    Python would also show the line of code that warns, which says nothing to a user.
    """
    shown: set[tuple[type[Warning], str, int]] = set()

    def show_once(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if (category, filename, lineno) not in shown:
            shown.add((category, filename, lineno))
            logger.warning("%s", one_line(message) if isinstance(message, Warning) else message)

    warnings.showwarning = show_once


@contextlib.contextmanager
def without_loading_reports() -> Iterator[None]:
    """Without transformers' tables of the tensors that a checkpoint lacks, where the caller looks at these itself."""
    with without_messages("transformers.modeling_utils", "LOAD REPORT"):
        yield


@contextlib.contextmanager
def without_messages(logger_name: str, part: str) -> Iterator[None]:
    """Without those messages of a logger that contain some words."""

    def is_another(record: logging.LogRecord) -> bool:
        return part not in record.getMessage()

    logger = logging.getLogger(logger_name)
    logger.addFilter(is_another)
    try:
        yield
    finally:
        logger.removeFilter(is_another)


_EPOCH_WIDTH = len("12.34/30")


def _is_best(metrics: Mapping[str, float], args: TrainingArguments, state: TrainerState) -> bool:
    """Whether an evaluation is the best so far; Trainer notes it in the state only after its callbacks."""
    if args.metric_for_best_model is None:
        return False
    value = metrics[f"eval_{args.metric_for_best_model.removeprefix('eval_')}"]
    if state.best_metric is None:
        return True
    return value > state.best_metric if args.greater_is_better else value < state.best_metric


def _rounded(epoch: float) -> str:
    return f"{epoch:.2f}".rstrip("0").rstrip(".")


def _short_name(name: str) -> str:
    """`loss` for `train_loss`, `task` for `train_task_loss`."""
    return name.removeprefix("train_").removesuffix("_loss")


def _header(columns: Mapping[str, Sequence[str]]) -> str:
    """Two lines: which split the columns are of, and what they are."""
    splits, names = [" " * _EPOCH_WIDTH], ["epoch".rjust(_EPOCH_WIDTH)]
    for split, columns_of_split in columns.items():
        cells = [name.rjust(_width(name)) for name in columns_of_split]
        if cells:
            splits.append(split.center(len(" ".join(cells)), "-"))
            names += cells
    return f"{' '.join(splits)}\n{' '.join(names)}"


def _width(name: str) -> int:
    return max(len(name), 6)


__all__ = ["Console", "kept_model", "model_summary", "quiet_libraries", "without_loading_reports", "without_messages"]
